from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdi.train.engine_module import EngineModule
from sdi.train.models import build_model, model_spec
from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.models.deploy import deploy_form
from sdi.train.preprocess import Normalise


def frames(*shape: int) -> Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> SaliencyNetwork:
    torch.manual_seed(0)
    return build_model("minet").eval()


@torch.inference_mode()
def test_answers_the_rounded_probabilities_of_the_network(network: SaliencyNetwork) -> None:
    how = model_spec("minet").preprocessing
    p = network(Normalise(how)(frames(2, 64, 64)))["s1"][:, 0]
    answer = EngineModule(network, how, (64, 64))(frames(2, 64, 64))
    assert answer.dtype == torch.uint8
    assert torch.equal(answer, (p * 255).round().to(torch.uint8))
    assert torch.equal(EngineModule(network, how, (64, 64), raw=True)(frames(2, 64, 64)), p)


@torch.inference_mode()
def test_resizes_frames_to_the_network_and_the_map_back(network: SaliencyNetwork) -> None:
    how = model_spec("minet").preprocessing
    x = F.interpolate(Normalise(how)(frames(1, 50, 90)), size=(64, 64), mode="bilinear")
    wanted = F.interpolate(network(x)["s1"], size=(50, 90), mode="bilinear")[:, 0]
    answer = EngineModule(network, how, (64, 64), raw=True)(frames(1, 50, 90))
    torch.testing.assert_close(answer, wanted, rtol=0, atol=1e-6)


class OneBrightPixel(SaliencyNetwork):
    """Answers .2 everywhere but for one pixel of .4; its probabilities need no picture."""

    primary = "map"

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.2))

    def maps(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        p = torch.zeros_like(x[:, :1]) + self.level
        p[:, :, 3, 5] = 0.4
        return {"map": p}


@torch.inference_mode()
def test_never_stretches_a_map() -> None:
    answer = EngineModule(OneBrightPixel().eval(), model_spec("minet").preprocessing, (32, 32))(frames(1, 32, 32))
    assert answer[0, 3, 5] == 102  # .4 x 255
    assert answer.unique().tolist() == [51, 102]


@torch.inference_mode()
def test_the_deploy_form_gives_the_same_levels(network: SaliencyNetwork) -> None:
    how = model_spec("minet").preprocessing
    one, other = (EngineModule(n, how, (64, 64))(frames(2, 64, 64)) for n in (network, deploy_form(network)))
    assert (one.int() - other.int()).abs().max() <= 1
