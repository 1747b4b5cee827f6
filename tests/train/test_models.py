from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sdi.runtime.errors import InputError
from sdi.train.models import build_model, model_names, model_spec, register_model
from sdi.train.models.csepnet import CBAM, CSCM, CSFIM, CSWM, CSEPNet
from sdi.train.models.deploy import deploy_form, fold_batch_norm
from sdi.train.models.minet import InteractiveMix, MINet
from sdi.train.models.tsernet import TSERNet

TSERNET_MAPS = {"final", "bridge", "edge"} | {f"sal{i}" for i in range(1, 7)} | {f"ref{i}" for i in range(1, 5)}
FIVE_MAPS = {f"s{i}" for i in range(1, 6)}
FAMILIES = {"csepnet": ("s1", FIVE_MAPS), "minet": ("s1", FIVE_MAPS), "tsernet": ("final", TSERNET_MAPS)}
SMALL = ["csepnet", "csepnet-resnet50", "minet", "tsernet-xs"]  # variants that answer in about a second


def with_lived_in_norms(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm statistics and weights that a fresh one does not have."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(draw(-0.3, 0.3, module.running_mean))
            module.running_var.copy_(draw(0.4, 2.0, module.running_var))
            module.weight.data.copy_(draw(0.5, 1.5, module.weight))
            module.bias.data.copy_(draw(-0.3, 0.3, module.bias))
    return network


def picture(height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SMALL)
def test_training_gives_every_map_and_eval_the_primary_one(name: str) -> None:
    primary, names = FAMILIES[model_spec(name).family]
    network = build_model(name)
    maps = network(picture())
    assert set(maps) == names
    for p in maps.values():
        assert p.shape == (2, 1, 64, 64)
        assert p.dtype == torch.float32
        assert p.min() >= 0
        assert p.max() <= 1
    network.eval()
    with torch.inference_mode():
        answer, every = network(picture()), network.maps(picture(), every=True)
    assert set(answer) == {primary} == {network.primary}
    assert torch.equal(answer[primary], every[primary])


@pytest.mark.parametrize("name", model_names())
def test_every_registered_model_answers_at_its_default_size(name: str) -> None:
    spec = model_spec(name)
    primary, names = FAMILIES[spec.family]
    with torch.device("meta"):
        maps = build_model(name).maps(torch.empty(2, 3, *spec.input_hw), every=True)
    assert set(maps) == names
    assert maps[primary].shape == (2, 1, *spec.input_hw)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size_hw", [(32, 96), (50, 70)])
def test_maps_have_the_size_of_the_picture_whatever_it_is(name: str, size_hw: tuple[int, int]) -> None:
    network = build_model(name).eval()
    with torch.inference_mode():
        for p in network.maps(picture(*size_hw, batch=1), every=True).values():
            assert p.shape == (1, 1, *size_hw)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("csepnet", 18_775_142), ("csepnet-resnet50", 29_581_414), ("minet", 277_477), ("tsernet", 189_643_918)],
)
def test_parameter_count_is_the_papers(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(name).parameters()) == parameters


@pytest.mark.parametrize(("name", "side", "gmac"), [("tsernet", 224, "202.8"), ("minet", 368, "0.3")])
def test_work_is_the_papers(name: str, side: int, gmac: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(name).eval().maps(torch.empty(1, 3, side, side), every=True)
    assert f"{counter.get_total_flops() / 2e9:.1f}" == gmac


@pytest.mark.parametrize(
    ("name", "gmac", "published_gmac"), [("csepnet", "49.4", "57.9"), ("csepnet-resnet50", "13.3", "15.4")]
)
def test_csepnets_work_is_the_papers_less_what_ran_twice(name: str, gmac: str, published_gmac: str) -> None:
    """The published program runs the CSFIMs of levels 2..5 once for the decoder and once more for the side maps."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(name)(torch.empty(1, 3, 256, 256))  # in training mode: every map
    repeated = sum(sum(counter.get_flop_counts()[f"CSEPNet.purify.{i}"].values()) for i in range(1, 5))
    assert f"{counter.get_total_flops() / 2e9:.1f}" == gmac
    assert f"{(counter.get_total_flops() + repeated) / 2e9:.1f}" == published_gmac


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError) as error:
        build_model("u2net")
    assert (
        str(error.value)
        == "unknown model 'u2net'; known: csepnet, csepnet-resnet50, minet, tsernet, tsernet-s, tsernet-xs"
    )


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'minet' is already registered"):
        register_model(model_spec("minet"))
    assert model_names().count("minet") == 1


@pytest.mark.parametrize(("name", "share"), [("tsernet-s", 4), ("tsernet-xs", 8)])
def test_width_divides_every_channel_count(name: str, share: int) -> None:
    with torch.device("meta"):
        slim, full = build_model(name), build_model("tsernet")
    for (key, tensor), (full_key, full_tensor) in zip(
        slim.state_dict().items(), full.state_dict().items(), strict=True
    ):
        assert key == full_key
        for size, full_size in zip(tensor.shape, full_tensor.shape, strict=True):
            # Kernel sides, the one channel of a map and the picture's three stay.
            assert size == (full_size if full_size <= 3 else full_size // share), key


@pytest.mark.parametrize("network_class", [MINet, TSERNet])
def test_any_width_runs(network_class: type[MINet | TSERNet]) -> None:
    network = network_class(width=1 / 16).eval()
    with torch.inference_mode():
        (answer,) = network(picture(32, 32, batch=1)).values()
    assert answer.shape == (1, 1, 32, 32)


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_serves(name: str) -> None:
    """No dead weights: each one gets a gradient from the model's own loss."""
    torch.manual_seed(0)
    network = build_model(name)
    truth = (picture()[:, :1] > 0).float()
    model_spec(name).loss(network(picture()), truth).backward()
    dead = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias right before a batch norm cancels out; what is left is rounding, which may well be nought.
    assert [key for key in dead if not key.endswith("bias")] == []
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("name", "dropped"), [("csepnet", "s5"), ("minet", "s1")])
def test_drops_out_in_training_alone(name: str, dropped: str) -> None:
    torch.manual_seed(0)
    network = build_model(name)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0
    with torch.inference_mode():
        for training in (True, False):
            network.train(training)
            one, other = (network.maps(picture(), every=True)[dropped] for _ in range(2))
            assert torch.equal(one, other) != training


@pytest.mark.parametrize(("block", "right_hw"), [(CSWM(4, 6), (10, 14)), (CSCM(6, 6), (3, 4))])
def test_two_scales_meet_at_the_finer_one(block: nn.Module, right_hw: tuple[int, int]) -> None:
    """CSWM enlarges what is on its left, CSCM what is on its right."""
    left, right = torch.randn(2, 4 if isinstance(block, CSWM) else 6, 5, 7), torch.randn(2, 6, *right_hw)
    finer = max(left.shape[-2:], right_hw)
    with torch.inference_mode():
        assert block(left, right).shape == (2, 6, *finer)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 3), (5, 8)])
def test_csfim_keeps_the_size_whatever_it_is(size_hw: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert CSFIM(8).eval()(torch.randn(1, 8, *size_hw)).shape == (1, 8, *size_hw)


def test_cbam_worked_by_hand() -> None:
    """One bright pixel: its channel is weighed by what the two matrices make of the maximum, then its place."""
    block = CBAM(16)
    for p in block.parameters():
        nn.init.zeros_(p)
    block.channels.reduce.weight.data[0, 3] = 1  # the hidden unit is channel 3's maximum ...
    block.channels.expand.weight.data[3, 0] = 2  # ... and doubled it weighs channel 3
    block.places.conv.weight.data[0, 0, 3, 3] = 1  # the place weighs itself by its own maximum
    x = torch.zeros(1, 16, 5, 5)
    x[0, 3, 2, 2], x[0, 7, 0, 1] = 1.5, 1.0
    weighed = 1.5 * torch.sigmoid(torch.tensor(3.0))
    wanted = torch.zeros_like(x)
    wanted[0, 3, 2, 2] = weighed * torch.sigmoid(weighed)
    wanted[0, 7, 0, 1] = 0.5 * torch.sigmoid(torch.tensor(0.5))
    with torch.inference_mode():
        torch.testing.assert_close(block(x), wanted)


def test_csepnet_purifies_each_level_once() -> None:
    network, calls = CSEPNet().eval(), []
    for module in network.purify:
        module.register_forward_hook(lambda module, *_: calls.append(module))
    with torch.inference_mode():
        network.maps(picture(32, 32, batch=1), every=True)
    assert calls == list(network.purify)[::-1]


def test_interactive_mix_equals_one_convolution_a_channel() -> None:
    """The paper's form: each channel has a 1x1 convolution over its four scales and a norm of its own."""
    torch.manual_seed(0)
    channels, scales = 6, [torch.randn(2, 6, 5, 7) for _ in range(4)]
    mix = with_lived_in_norms(InteractiveMix(channels)).eval()
    parts = []
    for c in range(channels):
        convolution, norm = nn.Conv2d(4, 1, 1, bias=False), nn.BatchNorm2d(1).eval()
        convolution.weight.data = mix.weight.data[c].view(1, 4, 1, 1)
        for name, tensor in norm.state_dict().items():
            if tensor.ndim:
                tensor.copy_(mix.bn.state_dict()[name][c : c + 1])
        parts.append(torch.relu(norm(convolution(torch.stack([y[:, c] for y in scales], dim=1)))))
    torch.testing.assert_close(mix(scales), torch.cat(parts, dim=1), rtol=0, atol=1e-5)
    torch.testing.assert_close(mix.deployed()(scales), torch.cat(parts, dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_deploy_form_answers_the_same(name: str) -> None:
    torch.manual_seed(0)
    network = with_lived_in_norms(build_model(name))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    deployed = deploy_form(network)
    with torch.inference_mode():
        answer = deployed(picture())
        wanted = network.eval().maps(picture(), every=True)
    assert set(answer) == {network.primary}
    assert wanted[network.primary].std() > 2e-4  # a flat map would prove nothing
    torch.testing.assert_close(answer[network.primary], wanted[network.primary], rtol=0, atol=1e-5)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize(("name", "norms"), [("csepnet", 0), ("csepnet-resnet50", 0), ("minet", 0), ("tsernet-xs", 6)])
def test_deploy_form_is_slimmer(name: str, norms: int) -> None:
    network = build_model(name).train()
    deployed = deploy_form(network)
    assert network.training
    assert not deployed.training
    assert not any(p.requires_grad for p in deployed.parameters())
    # TSERNet's six residual units begin with a batch norm, which no convolution before it can take up.
    assert sum(isinstance(module, nn.BatchNorm2d) for module in deployed.modules()) == norms
    count, before = (sum(p.numel() for p in n.parameters()) for n in (deployed, network))
    assert count < before


def test_a_transposed_convolution_takes_up_its_norm_too() -> None:
    torch.manual_seed(0)
    head = with_lived_in_norms(CSEPNet().side_heads[0]).eval()
    with torch.inference_mode():
        x = torch.randn(1, 64, 8, 8)
        wanted = head(x)
        fold_batch_norm(head)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in head.modules())
        torch.testing.assert_close(head(x), wanted, rtol=0, atol=1e-5)


def test_probabilities_are_float32_in_a_half_network() -> None:
    network = build_model("minet").eval().to(torch.bfloat16)
    with torch.inference_mode():
        assert network(picture().to(torch.bfloat16))["s1"].dtype == torch.float32
