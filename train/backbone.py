"""ImageNet weights for backbones, from torchvision's own loader."""

from __future__ import annotations

import torchvision

from sdi.runtime.errors import InputError
from sdi.train.models.blocks import SaliencyNetwork

__all__ = ["load_pretrained"]


def load_pretrained(network: SaliencyNetwork, backbone: str) -> None:
    """Fill the encoder of a full-width TSERNet with torchvision's ResNet-34 weights, in place.

    Levels 1..4 are layer1..layer4; the stem and levels 5 and 6 have no counterpart and stay random. torchvision
    keeps downloaded weights in its cache, so the network is asked for them once.

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
    for i in range(4):
        layer = getattr(donor, f"layer{i + 1}")
        network.encoder[i].load_state_dict(layer.state_dict())  # type: ignore[index,union-attr]
