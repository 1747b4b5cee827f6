from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdi.runtime.common.errors import InputError
from sdi.train.models import build_model, model_names, model_spec, register_model
from sdi.train.models.csepnet import CBAM, CSCM, CSFIM, CSWM, Contrast, CSEPNet, ScaleSum
from sdi.train.models.deploy import deploy_form, fold_batch_norm
from sdi.train.models.minet import InteractiveMix, MINet
from sdi.train.models.tsernet import EFBI, ERM, TSERNet
from support import narrow_network

STAGE_1 = {"bridge", "edge"} | {f"sal{i}" for i in range(1, 7)}
STAGE_2 = {"final"} | {f"ref{i}" for i in range(1, 5)}
FIVE_MAPS = {f"s{i}" for i in range(1, 6)}
FAMILIES = {"csepnet": ("s1", FIVE_MAPS), "minet": ("s1", FIVE_MAPS), "tsernet": ("final", STAGE_1 | STAGE_2)}
OTHER_MAPS = {"tsernet-no-subnet": ("sal1", STAGE_1)}  # variants whose maps are not their family's
# Those whose maps are all of the picture's size.
NAMES = [name for name in model_names() if model_spec(name).family in FAMILIES]


def maps_of(name: str) -> tuple[str, set[str]]:
    """The primary map and all of them."""
    return OTHER_MAPS.get(name, FAMILIES[model_spec(name).family])


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


@pytest.mark.parametrize("name", NAMES)
def test_training_gives_every_map_and_eval_the_primary_one(name: str) -> None:
    primary, names = maps_of(name)
    network = narrow_network(name)
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size_hw", [(32, 96), (50, 70)])
def test_maps_have_the_size_of_the_picture_whatever_it_is(name: str, size_hw: tuple[int, int]) -> None:
    network = narrow_network(name).eval()
    with torch.inference_mode():
        for p in network.maps(picture(*size_hw, batch=1), every=True).values():
            assert p.shape == (1, 1, *size_hw)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError) as error:
        build_model("u2net")
    text = str(error.value)
    networks = ", ".join(name for name in model_names() if not model_spec(name).ablation)
    assert text.startswith(f"unknown model 'u2net'; known: {networks}; ablations: csepnet-(baseline|")
    for name in model_names():
        family = model_spec(name).family
        assert name in text or f"{family}-(" in text
        assert name.removeprefix(f"{family}-") in text


def test_every_ablation_of_the_papers_is_there() -> None:
    tsernet = ("subnet", "efbi", "erm", "fig", "big", "self-edge", "s-edge")
    csepnet = ("cbam", "cscm", "csfim")
    inside = ("no-cross-scale", "no-recalibration", "no-cswm", "no-top-ce", "no-bottom-ce", "csfim-with-cscm")
    wanted = {f"tsernet-no-{part}" for part in tsernet}
    wanted |= {f"csepnet-{word}-{part}" for part in csepnet for word in ("no", "only")}
    wanted |= {"csepnet-baseline"} | {f"csepnet-{name}" for name in inside}
    assert {name for name in model_names() if model_spec(name).ablation} == wanted


@pytest.mark.parametrize(
    ("name", "counts"),  # of CBAM, CSCM, CSFIM, CSWM and Contrast
    [
        ("csepnet", [5, 4, 5, 5, 20]),
        ("csepnet-resnet50", [5, 4, 5, 5, 20]),
        ("csepnet-baseline", [0, 0, 0, 0, 0]),
        ("csepnet-only-cbam", [5, 0, 0, 0, 0]),
        ("csepnet-only-cscm", [0, 4, 0, 0, 0]),
        ("csepnet-only-csfim", [0, 0, 5, 5, 20]),
        ("csepnet-no-cbam", [0, 4, 5, 5, 20]),
        ("csepnet-no-cscm", [5, 0, 5, 5, 20]),
        ("csepnet-no-csfim", [5, 4, 0, 0, 0]),
        ("csepnet-no-cross-scale", [5, 4, 5, 5, 20]),
        ("csepnet-no-recalibration", [5, 4, 5, 5, 0]),
        ("csepnet-no-top-ce", [5, 4, 5, 5, 10]),
        ("csepnet-no-bottom-ce", [5, 4, 5, 5, 10]),
        ("csepnet-no-cswm", [5, 4, 5, 0, 20]),
        ("csepnet-csfim-with-cscm", [5, 9, 5, 0, 20]),
    ],
)
def test_csepnets_ablations_lack_the_blocks_they_name(name: str, counts: list[int]) -> None:
    with torch.device("meta"):
        kinds = [type(module) for module in narrow_network(name).modules()]
    assert [kinds.count(kind) for kind in (CBAM, CSCM, CSFIM, CSWM, Contrast)] == counts


def test_without_cross_scale_a_csfims_low_path_sees_nothing_of_the_high_one() -> None:
    """A single bright pixel of the high path's first part reaches the low path's second one through the exchange."""
    for cross_scale in (True, False):
        block, seen = CSFIM(4, cross_scale=cross_scale).eval(), []
        block.low_out.register_forward_hook(lambda module, arguments, _, seen=seen: seen.append(arguments[0]))
        with torch.inference_mode():
            x = torch.randn(1, 4, 8, 8)
            block(x)
            block.high_in[4].bias += 1
            block(x)
        assert torch.equal(*seen) != cross_scale


@pytest.mark.parametrize(
    ("name", "edges", "integrations"),  # convolutions that fuse edges, and which branches the EFBIs have
    [
        ("tsernet", [2] * 4, {"foreground", "background"}),
        ("tsernet-no-efbi", [2] * 4, set()),
        ("tsernet-no-fig", [2] * 4, {"background"}),
        ("tsernet-no-big", [2] * 4, {"foreground"}),
        ("tsernet-no-erm", [], {"foreground", "background"}),
        ("tsernet-no-self-edge", [1] * 4, {"foreground", "background"}),
        ("tsernet-no-s-edge", [1] * 4, {"foreground", "background"}),
        ("tsernet-no-subnet", [], {"foreground", "background"}),
    ],
)
def test_tsernets_ablations_lack_what_they_name(name: str, edges: list[int], integrations: set[str]) -> None:
    with torch.device("meta"):
        modules = dict(narrow_network(name).named_modules())
    channels = [(m[0].in_channels, m[0].out_channels) for key, m in modules.items() if key.endswith(".fuse_edge")]
    assert [before // after for before, after in channels] == edges
    for i in range(6):
        assert {part for part in ("foreground", "background") if f"efbi.{i}.{part}" in modules} == integrations


def test_bare_inputs_stand_in_for_what_an_efbi_leaves_out() -> None:
    x, y, e = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6), torch.randn(2, 1, 5, 6)
    neither = EFBI(4, foreground=False, background=False)
    assert list(neither.parameters()) == []
    assert torch.equal(neither(x, y, e), x + y)
    whole = with_lived_in_norms(EFBI(4)).eval()
    for part in ("foreground", "background"):
        half = EFBI(4, **{part: False}).eval()
        half.load_state_dict({key: whole.state_dict()[key] for key in half.state_dict()})
        with torch.inference_mode():
            if part == "foreground":
                wanted = whole.background(torch.sigmoid(-y) * whole.background_in(x)) + y
            else:
                wanted = x + whole.integrate(whole.foreground(torch.sigmoid(-e) * whole.foreground_in(y)) + e)
            torch.testing.assert_close(half(x, y, e), wanted)


@pytest.mark.parametrize(
    ("arguments", "looks_at_map", "sees_own"),
    [({"self_edge": False}, True, False), ({"edge_map": False}, False, True), ({}, True, True)],
)
def test_an_erm_uses_the_edges_it_is_given(arguments: dict[str, bool], looks_at_map: bool, sees_own: bool) -> None:
    torch.manual_seed(0)
    block = with_lived_in_norms(ERM(4, **arguments)).eval()
    deep, shallow, e = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6), torch.randn(1, 1, 6, 6)
    with torch.inference_mode():
        assert torch.equal(block(deep, shallow, e), block(deep, shallow, e + 1)) != looks_at_map
        # The fused edge comes last into the fusion; its input is as wide as the edges are many.
        assert block.fuse_edge[0].in_channels == 4 * (looks_at_map + sees_own)


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


@pytest.mark.parametrize("network_class", [CSEPNet, MINet, TSERNet])
def test_any_width_runs(network_class: type[CSEPNet | MINet | TSERNet]) -> None:
    network = network_class(width=1 / 16).eval()
    with torch.inference_mode():
        (answer,) = network(picture(32, 32, batch=1)).values()
    assert answer.shape == (1, 1, 32, 32)


def test_saturated_probabilities_stay_below_1_when_enlarged() -> None:
    """Bilinear weights of 64 pixels over 2 sum to more than 1 by a last digit."""
    network = narrow_network("minet")
    for head in network.heads:
        nn.init.constant_(head[1].bias, 1e3)
    maps = network(picture())
    assert all(p.max() == 1 for p in maps.values())
    model_spec("minet").loss(maps, torch.ones(2, 1, 64, 64))  # binary cross entropy raises over 1


@pytest.mark.parametrize(("name", "dropped"), [("csepnet", "s5"), ("minet", "s1")])
def test_drops_out_in_training_alone(name: str, dropped: str) -> None:
    torch.manual_seed(0)
    network = narrow_network(name)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0
    with torch.inference_mode():
        for training in (True, False):
            network.train(training)
            one, other = (network.maps(picture(), every=True)[dropped] for _ in range(2))
            assert torch.equal(one, other) != training


@pytest.mark.parametrize("deep_hw", [(5, 7), (3, 4)])
@pytest.mark.parametrize("block", [CSWM(4, 6), CSCM(4, 6), ScaleSum(4, 6)])
def test_two_scales_meet_at_the_finer_one(block: nn.Module, deep_hw: tuple[int, int]) -> None:
    shallow, deep = torch.randn(2, 6, 10, 14), torch.randn(2, 4, *deep_hw)
    with torch.inference_mode():
        assert block(shallow, deep).shape == (2, 6, 10, 14)


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
    network, calls = narrow_network("csepnet").eval(), []
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


@pytest.mark.parametrize("name", model_names())
def test_deploy_form_answers_the_same(name: str) -> None:
    network = with_lived_in_norms(narrow_network(name))
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


@pytest.mark.parametrize("name", model_names())
def test_deploy_form_is_slimmer(name: str) -> None:
    network = narrow_network(name).train()
    deployed = deploy_form(network)
    assert network.training
    assert not deployed.training
    assert not any(p.requires_grad for p in deployed.parameters())
    # TSERNet's six residual units begin with a batch norm, which no convolution before it can take up.
    norms = 6 if model_spec(name).family == "tsernet" else 0
    assert sum(isinstance(module, nn.BatchNorm2d) for module in deployed.modules()) == norms
    count, before = (sum(p.numel() for p in n.parameters()) for n in (deployed, network))
    assert count < before


def test_a_transposed_convolution_takes_up_its_norm_too() -> None:
    torch.manual_seed(0)
    head = with_lived_in_norms(narrow_network("csepnet").side_heads[0]).eval()
    with torch.inference_mode():
        x = torch.randn(1, 16, 8, 8)
        wanted = head(x)
        fold_batch_norm(head)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in head.modules())
        torch.testing.assert_close(head(x), wanted, rtol=0, atol=1e-5)


def test_probabilities_are_float32_in_a_half_network() -> None:
    network = build_model("minet").eval().to(torch.bfloat16)
    with torch.inference_mode():
        assert network(picture().to(torch.bfloat16))["s1"].dtype == torch.float32
