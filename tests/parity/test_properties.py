"""What must hold for every network, whatever its weights: found by random search, over 200 cases a run.

Each case draws a narrow variant with random weights and lived-in batch norms, a size and a batch. The cases are the
same in every run; `SDI_CASES=20 pytest tests/parity/test_properties.py` searches twenty times as many others.

Which symmetries a network has follows from its arithmetic. A learned kernel has none, so a turned picture gives the
turned map only where every kernel is turned as well. Then there remains what samples a picture at every other place:

- Exchanging height and width: nothing in any network tells one from the other. Exact at every size.
- Mirroring: a convolution of stride 2 with an odd kernel reads places 0, 2, 4 ..., which mirror onto themselves at
  odd sizes alone; a 2x2 pooling reads pairs, which do so at even sizes. So each network has sizes of its own at
  which mirroring is exact (`MIRRORED`), and networks that need both for one map have none: TSERNet (strides, then
  poolings of the full map in its sub-net) and TSERNet-lite (the same). Their two stages are exact one by one.
- Moving by 32 pixels, the stride of the deepest level: exact where zero padding is out of sight, provided that
  enlarging moves alike. Half-pixel bilinear does at multiples of 32. With align_corners the ratio is (n - 1) / (m - 1),
  a half at sizes of 32 k + 1 alone. A global maximum (CBAM's channel attention) looks at the whole picture, and has to
  be held fixed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.export.runners import Runner, runner_from_module, runner_from_onnx
from sdi.train.engine_module import EngineModule
from sdi.train.models import SaliencyNetwork, model_names, model_spec
from sdi.train.models.csepnet import ChannelAttention, CSEPNet
from sdi.train.models.deploy import deploy_form
from variants import mirrored, random_variant, transposed

# Rounding of float32 in another order; of what a layer does, 97 % and more is greater (see the last test).
ROUNDING = 1e-5
_SEARCH = int(os.environ.get("SDI_CASES", "1"))

seeds = st.integers(0, 2**31)
sides = st.integers(32, 96)
batches = st.integers(1, 3)


def cases(count: int) -> settings:
    """So many random cases, the same in every run unless a search is asked for."""
    return settings(max_examples=count * _SEARCH, derandomize=_SEARCH == 1, deadline=None, database=None)


def pictures(seed: int, batch: int, height: int, width: int) -> Tensor:
    """(N, 3, H, W) float32, normalised: rough at several scales, as steel is."""
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.randn(batch, 3, max(1, height // s), max(1, width // s), generator=generator) for s in (1, 4, 16))
    return sum(nn.functional.interpolate(n, (height, width), mode="bilinear") for n in noise)  # type: ignore[return-value]


def assert_same_map(answer: Tensor, wanted: Tensor) -> None:
    assert wanted.std() > 100 * ROUNDING  # a flat map would prove nothing
    torch.testing.assert_close(answer, wanted, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("model", model_names())
@cases(3)
@given(seed=seeds, batch=batches, height=sides, width=sides)
@torch.inference_mode()
def test_deploy_form_answers_a_batch_as_the_training_form_each_picture(
    model: str, seed: int, batch: int, height: int, width: int
) -> None:
    network = random_variant(model, seed)
    x = pictures(seed, batch, height, width)
    one_by_one = [network.maps(picture[None], every=True)[network.primary] for picture in x]
    assert_same_map(deploy_form(network)(x)[network.primary], torch.cat(one_by_one))


@pytest.mark.parametrize("model", model_names())
@cases(2)
@given(seed=seeds, height=sides, width=sides)
@torch.inference_mode()
def test_height_and_width_are_treated_alike(model: str, seed: int, height: int, width: int) -> None:
    network = random_variant(model, seed)
    x = pictures(seed, 1, height, width)
    answer = transposed(network)(x.transpose(2, 3))[network.primary]
    assert_same_map(answer.transpose(2, 3), network(x)[network.primary])


@pytest.fixture(scope="module")
def exported() -> Callable[[str], tuple[Runner, Runner]]:
    """(PyTorch, ONNX Runtime) of a model, each from uint8 frames of any size to raw probabilities; traced once."""
    made: dict[str, tuple[Runner, Runner]] = {}

    def export(model: str) -> tuple[Runner, Runner]:
        if model not in made:
            network, how = random_variant(model, 1), model_spec(model).preprocessing
            module = partial(EngineModule, preprocessing=how, network_hw=(64, 96), raw=True)
            onnx = onnx_from_module(module(deploy_form(network), resizes=True), FrameShape(64, 64, dynamic=True))
            made[model] = runner_from_module(module(network)), runner_from_onnx(onnx, None)
        return made[model]

    return export


@pytest.mark.parametrize(
    "model",
    ["csepnet", "csepnet-resnet50", "minet", "tsernet", "tsernet-lite"],
)
@cases(10)
@given(seed=seeds, batch=batches, height=st.integers(32, 130), width=st.integers(32, 130))
def test_onnx_answers_frames_of_any_size_as_pytorch(
    exported: Callable[[str], tuple[Runner, Runner]], model: str, seed: int, batch: int, height: int, width: int
) -> None:
    """The training form in PyTorch against the deploy form in ONNX Runtime, preprocessing and resizing included."""
    planes = (pictures(seed, batch, height, width) * 40 + 128).clamp(0, 255).to(torch.uint8)
    reference, engine = exported(model)
    frames = np.ascontiguousarray(planes.permute(0, 2, 3, 1).numpy())
    assert_same_map(torch.from_numpy(engine(frames)), torch.from_numpy(reference(frames)))


@dataclass(frozen=True)
class Symmetric:
    """A part of a network, as (N, C, H, W) -> map, and the sizes k * 32 + offset at which mirroring it is exact."""

    model: str
    offset: int
    part: Callable[[SaliencyNetwork], Callable[[Tensor], Tensor]]
    build: Callable[..., SaliencyNetwork] | None = None


def _map(name: str) -> Callable[[SaliencyNetwork], Callable[[Tensor], Tensor]]:
    return lambda network: lambda x: network.maps(x, every=True)[name]


def _subnet(network: SaliencyNetwork) -> Callable[[Tensor], Tensor]:
    """Stage 2 alone: its inputs are a map's and an edge's logits."""
    return lambda x: torch.sigmoid(network.get_submodule("subnet")(x[:, :1], x[:, 1:2], False)[0])


MIRRORED = {
    "csepnet": Symmetric("csepnet", 0, _map("s1")),  # 2x2 poolings alone
    "csepnet-no-cbam": Symmetric("csepnet-no-cbam", 0, _map("s1")),
    "csepnet-only-cbam": Symmetric("csepnet-only-cbam", 0, _map("s1")),
    "csepnet-csfim-with-cscm": Symmetric("csepnet-csfim-with-cscm", 0, _map("s1")),
    # Its strides want odd sizes, CSFIM's halving even ones.
    "csepnet-resnet50 without CSFIM": Symmetric(
        "csepnet-resnet50", 1, _map("s1"), partial(CSEPNet, "resnet50", purify=nn.Identity)
    ),
    "minet": Symmetric("minet", 1, _map("s1")),  # five strides
    "minet, deepest map": Symmetric("minet", 1, _map("s5")),
    "tsernet, stage 1": Symmetric("tsernet", 25, _map("sal1")),  # three strides, from 4 k on two poolings
    "tsernet, edge": Symmetric("tsernet", 25, _map("edge")),
    "tsernet, stage 2": Symmetric("tsernet", 0, _subnet),
    "tsernet-no-subnet": Symmetric("tsernet-no-subnet", 25, _map("sal1")),
    "tsernet-no-fig": Symmetric("tsernet-no-fig", 25, _map("sal1")),
    "tsernet-lite, stage 1": Symmetric("tsernet-lite", 1, _map("sal1")),
    "tsernet-lite, stage 2": Symmetric("tsernet-lite", 0, _subnet),
}


@pytest.mark.parametrize("part", MIRRORED.values(), ids=MIRRORED)
@cases(3)
@given(seed=seeds, rows=st.integers(1, 3), columns=st.integers(1, 3), axis=st.sampled_from([-1, -2]))
@torch.inference_mode()
def test_mirrored_kernels_answer_the_mirrored_map(
    part: Symmetric, seed: int, rows: int, columns: int, axis: int
) -> None:
    network = random_variant(part.model, seed, part.build)
    x = pictures(seed, 1, 32 * rows + part.offset, 32 * columns + part.offset)
    wanted = part.part(network)(x)
    assert_same_map(part.part(mirrored(network, axis))(x.flip(axis)).flip(axis), wanted)


@torch.inference_mode()
def test_mirroring_is_not_exact_where_the_arithmetic_says_so() -> None:
    """At another size, and with the kernels left as they are."""
    network = random_variant("minet", 0)
    for side, turned in ((64, mirrored(network, -1)), (65, network)):
        x = pictures(0, 1, side, side)
        difference = turned(x.flip(-1))["s1"].flip(-1) - network(x)["s1"]
        assert difference.abs().max() > 100 * ROUNDING


@dataclass(frozen=True)
class Movable:
    """A network's map, and how far it may be moved and how far a pixel of it looks, in pixels of the picture."""

    model: str
    map: Callable[[SaliencyNetwork], Callable[[Tensor], Tensor]]
    reach: int  # at most; counted from the layers
    stride: int = 32
    offset: int = 0  # sizes are a multiple of the stride, and this


def _head(network: SaliencyNetwork) -> Callable[[Tensor], Tensor]:
    """CSEPNet's map before it is enlarged, each pixel twice: with align_corners, enlarging does not move along."""
    seen: list[Tensor] = []
    network.get_submodule("head").register_forward_hook(lambda module, inputs, output: seen.append(output))

    def run(x: Tensor) -> Tensor:
        network(x)
        return torch.sigmoid(seen.pop().repeat_interleave(2, 2).repeat_interleave(2, 3))

    return run


MOVED = {
    "csepnet": Movable("csepnet", _map("s1"), 1280),
    "csepnet-no-cbam": Movable("csepnet-no-cbam", _map("s1"), 1280),
    "csepnet-resnet50": Movable("csepnet-resnet50", _head, 2432, stride=64),  # CSFIM halves even level 5
    "minet": Movable("minet", _map("s1"), 2176, offset=1),
    "tsernet": Movable("tsernet", _map("final"), 1568),
    "tsernet-lite": Movable("tsernet-lite", _map("final"), 576),
}


def hold_global_maxima(network: SaliencyNetwork) -> None:
    """Let every channel attention go on with the weights of its first picture."""
    for module in network.modules():
        if isinstance(module, ChannelAttention):
            held: list[Tensor] = []
            module.register_forward_hook(lambda module, inputs, output, held=held: (held.append(output), held[0])[1])


@pytest.mark.parametrize("network", MOVED.values(), ids=MOVED)
@cases(3)
@given(seed=seeds, steps=st.integers(1, 3), across=st.booleans())
@torch.inference_mode()
def test_a_moved_picture_answers_the_moved_map(network: Movable, seed: int, steps: int, across: bool) -> None:
    """Two views of one long strip; compared where neither border is within reach."""
    variant = random_variant(network.model, seed)
    hold_global_maxima(variant)
    moved = steps * network.stride
    length = 2 * network.reach + 4 * network.stride + network.offset
    x = pictures(seed, 1, network.stride + network.offset, length + moved)
    run = network.map(variant)
    if across:
        x = x.transpose(2, 3)
    views = [run(x[..., :length] if not across else x[:, :, :length])]
    views.append(run(x[..., moved:] if not across else x[:, :, moved:]))
    one, other = (view.transpose(2, 3) if across else view for view in views)
    assert_same_map(
        other[..., network.reach : -network.reach - moved], one[..., network.reach + moved : -network.reach]
    )


@pytest.mark.parametrize("model", ["csepnet", "csepnet-resnet50", "minet", "tsernet", "tsernet-lite"])
@torch.inference_mode()
def test_these_variants_hide_hardly_any_layer(model: str) -> None:
    """What the cases above rest on: change one parameter by half, and the map changes by more than rounding."""
    network = random_variant(model, 3)
    network.drop_training_heads()
    x = pictures(3, 1, 64, 64)
    before = network(x)[network.primary]
    parameters = list(network.parameters())
    shows = []
    for i in np.random.default_rng(0).choice(len(parameters), 40, replace=False):
        original = parameters[i].clone()
        parameters[i].copy_(1.5 * original + 0.1 * original.abs().mean())
        shows.append((network(x)[network.primary] - before).abs().max() > 2 * ROUNDING)
        parameters[i].copy_(original)
    assert sum(shows) >= 0.9 * len(shows)
