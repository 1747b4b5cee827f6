"""The deploy form of a network: the same answers with less to compute."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sdi.train.models.blocks import SaliencyNetwork

__all__ = ["deploy_form", "fold_batch_norm"]


@runtime_checkable
class _HasDeployForm(Protocol):
    def deployed(self) -> nn.Module: ...


def deploy_form(network: SaliencyNetwork) -> SaliencyNetwork:
    """A copy in eval mode with batch norm folded, training heads dropped and modules in their fast form.

    The original is left as it was. The copy's primary map equals the original's within 1e-5.
    """
    deployed = copy.deepcopy(network).eval()
    deployed.drop_training_heads()
    fold_batch_norm(deployed)
    return deployed.requires_grad_(False)


def fold_batch_norm(module: nn.Module) -> None:
    """Fold, in place, each batch norm into the convolution registered right before it.

    Modules that know a faster form of their own offer it as `deployed()`. A batch norm without a convolution
    before it (pre-activation blocks) stays.
    """
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if (
            isinstance(child, nn.BatchNorm2d)
            and before is not None
            and isinstance(before[1], (nn.Conv2d, nn.ConvTranspose2d))
        ):
            transpose = isinstance(before[1], nn.ConvTranspose2d)
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child, transpose))
            setattr(module, name, nn.Identity())
        elif isinstance(child, _HasDeployForm):
            setattr(module, name, child.deployed())
        else:
            fold_batch_norm(child)
        before = (name, child)
