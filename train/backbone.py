"""ImageNet weights for backbones, from torchvision's own loader."""

from __future__ import annotations

import torchvision

from sdi.runtime.errors import InputError
from sdi.train.models.blocks import SaliencyNetwork

__all__ = ["load_pretrained"]


def load_pretrained(network: SaliencyNetwork, backbone: str) -> None:
    """Fill the network's encoder with torchvision's ImageNet weights of `backbone`, in place.

    torchvision keeps downloaded weights in its cache, so the internet is asked for them once.

    Args:
        backbone: torchvision's name, as the network's `ModelSpec` has it.
    Raises:
        InputError: the weights are not in the cache and cannot be downloaded.
    """
    try:
        donor = torchvision.models.get_model(backbone, weights="IMAGENET1K_V1")
    except Exception as error:  # torch.hub lets every error of urllib and the file system through
        raise InputError(
            f"torchvision cannot get the ImageNet weights of {backbone}: {error}; connect to the internet once, "
            "or start from random weights with --no-pretrained"
        ) from error
    network.load_backbone(donor)
