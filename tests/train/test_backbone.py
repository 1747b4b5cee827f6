from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from sdi.runtime.errors import InputError
from sdi.train.backbone import load_pretrained
from sdi.train.models import build_model
from sdi.train.models.blocks import SaliencyNetwork


def unfilled_tsernet() -> SaliencyNetwork:
    """The full network without drawing 190 million random numbers."""
    with torch.device("meta"):
        network = build_model("tsernet")
    return network.to_empty(device="cpu")


def test_levels_1_to_4_become_resnet34s_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With weights of our own in the place where torchvision keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    donor = torchvision.models.resnet34()
    url = torchvision.models.ResNet34_Weights.IMAGENET1K_V1.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(donor.state_dict(), tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
    network = unfilled_tsernet()
    load_pretrained(network, "resnet34")
    for i in range(4):
        ours, theirs = network.encoder[i].state_dict(), getattr(donor, f"layer{i + 1}").state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_without_a_way_to_get_the_weights_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(InputError, match=r"cannot get the ImageNet weights of resnet34: .*--no-pretrained"):
        load_pretrained(torch.nn.Module(), "resnet34")
