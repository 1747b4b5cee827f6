"""The deploy form of a network: the same answers with less to compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sdi.train.models.blocks import SaliencyNetwork

__all__ = ["absorb_batch_norm", "deploy_form", "fold_batch_norm", "foldable_norms"]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


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


def foldable_norms(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names of (a convolution, the batch norm registered right behind it), through all submodules.

    A batch norm without a convolution before it (pre-activation blocks) is not among them, nor is one inside a
    module that offers a faster form of its own as `deployed()`.
    """
    before: tuple[str, nn.Module] | None = None
    for name, child in module.named_children():
        path = prefix + name
        if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], _CONVOLUTIONS):
            yield before[0], path
        elif not isinstance(child, _HasDeployForm):
            yield from foldable_norms(child, f"{path}.")
        before = path, child


def fold_batch_norm(module: nn.Module) -> None:
    """Fold, in place, each of the `foldable_norms` into its convolution, and take faster forms that are offered."""
    for conv, norm in list(foldable_norms(module)):
        _put(module, conv, _fused(module, conv, norm))
        _put(module, norm, nn.Identity())
    for name, child in list(module.named_modules()):
        if name and isinstance(child, _HasDeployForm):
            _put(module, name, child.deployed())


@torch.no_grad()
def absorb_batch_norm(module: nn.Module) -> None:
    """Give, in place, each convolution the weights that folding its batch norm would, and leave of that a bias alone.

    Modules and their names stay, so the weights fit wherever those of the network fit. In eval mode it answers the
    same, within rounding, and folding afterwards changes no bit. What has become constant is no longer trained.
    """
    for name, norm_name in foldable_norms(module):
        conv, norm = module.get_submodule(name), module.get_submodule(norm_name)
        assert isinstance(conv, _CONVOLUTIONS)
        assert isinstance(norm, nn.BatchNorm2d)
        fused = _fused(module, name, norm_name)
        assert fused.bias is not None
        conv.weight.copy_(fused.weight)
        norm.weight.fill_(1).requires_grad_(False)
        norm.running_mean.zero_()  # type: ignore[union-attr]
        norm.running_var.fill_(1).sub_(norm.eps)  # type: ignore[union-attr]
        if conv.bias is None:
            norm.bias.copy_(fused.bias)
        else:
            conv.bias.copy_(fused.bias)
            norm.bias.zero_().requires_grad_(False)


def _fused(module: nn.Module, conv: str, norm: str) -> nn.Conv2d | nn.ConvTranspose2d:
    """A convolution that computes both."""
    before, after = module.get_submodule(conv), module.get_submodule(norm)
    assert isinstance(before, _CONVOLUTIONS)
    assert isinstance(after, nn.BatchNorm2d)
    return fuse_conv_bn_eval(before, after, isinstance(before, nn.ConvTranspose2d))


def _put(module: nn.Module, path: str, child: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, child)
