from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from sdi.train.losses import (
    bce_loss,
    cel_loss,
    csepnet_loss,
    edge_bce_loss,
    edge_truth,
    f_measure_loss,
    iou_loss,
    minet_loss,
    saliency_iou_loss,
    ssim_loss,
    tsernet_loss,
)

Loss = Callable[..., Tensor]

PER_MAP = [bce_loss, ssim_loss, iou_loss, f_measure_loss]
FIVE_MAPS = [f"s{i}" for i in range(1, 6)]
TSERNET_MAPS = [
    "final",
    *(f"sal{i}" for i in range(1, 7)),
    "bridge",
    *(f"ref{i}" for i in range(1, 5)),
    "edge",
]


def as_map(*rows: list[float]) -> Tensor:
    return torch.tensor([[list(rows)]], dtype=torch.float32)


P = as_map([0.5, 0.5], [0.0, 1.0])
T = as_map([1.0, 0.0], [0.0, 1.0])


def random_pair(n: int = 2, k: int = 1, side: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = (torch.rand(n, 1, side, side, generator=generator) > 0.6).float()
    return torch.rand(n, k, side, side, generator=generator), truth


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (bce_loss, 2 * log(2) / 4),  # two pixels at one half, two right ones
        (cel_loss, (0.5 + 0.5) / (2 + 2)),  # one half too much here, one half too little there
        (iou_loss, 1 - 1.5 / (2 + 2 - 1.5)),
        (f_measure_loss, 1 - 1.3 * 1.5 / (0.3 * 2 + 2)),
    ],
)
def test_value_worked_by_hand(loss: Loss, value: float) -> None:
    assert float(loss(P, T)) == pytest.approx(value, abs=1e-6)


def test_balanced_bce_worked_by_hand() -> None:
    half = torch.full((1, 1, 2, 2), 0.5)
    edge = as_map([1.0, 0.0], [0.0, 0.0])  # one positive of four: it weighs 3/4, the others 1.1/4
    assert float(edge_bce_loss(half, edge)) == pytest.approx(log(2) * (3 / 4 + 3 * 1.1 / 4) / 4, abs=1e-6)


def test_ssim_is_scikit_images() -> None:
    # A black frame wider than the window makes the two ways of padding agree.
    prediction, truth = (torch.nn.functional.pad(x, [12] * 4) for x in random_pair(n=1, side=30))
    wanted = structural_similarity(
        *(x[0, 0].double().numpy() for x in (prediction, truth)),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]
    assert float(ssim_loss(prediction, truth)) == pytest.approx(1 - wanted.mean(), abs=1e-5)


def test_edge_truth_is_opencvs_morphological_gradient() -> None:
    mask = (np.random.default_rng(0).random((40, 50)) > 0.1).astype(np.uint8)
    mask[10:30, 15:40] = 0
    wanted = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    answer = edge_truth(torch.from_numpy(mask)[None, None].float())
    assert np.array_equal(answer[0, 0].numpy(), wanted)
    assert 0 < wanted.mean() < 1


def test_a_mask_that_touches_the_border_has_no_edge_along_it() -> None:
    assert not edge_truth(torch.ones(1, 1, 8, 8)).any()


@pytest.mark.parametrize("loss", [*PER_MAP, cel_loss])
def test_a_perfect_map_costs_nothing_and_its_opposite_most(loss: Loss) -> None:
    truth = random_pair()[1]
    assert float(loss(truth, truth)) == pytest.approx(0, abs=1e-5)
    worst, middling = (float(loss(p, truth)) for p in (1 - truth, 0.5 * truth + 0.25))
    assert worst > middling > 0.05


@pytest.mark.parametrize("loss", PER_MAP)
def test_several_maps_at_once_cost_the_mean_of_each(loss: Loss) -> None:
    maps, truth = random_pair(n=3, k=4)
    each = [float(loss(maps[i : i + 1, j : j + 1], truth[i : i + 1])) for i in range(3) for j in range(4)]
    assert float(loss(maps, truth)) == pytest.approx(sum(each) / 12, rel=1e-5)


def test_cel_pools_the_pictures_of_a_batch() -> None:
    """A clean picture with one pixel wrongly marked adds that pixel; alone it would cost all it can."""
    clean, one_wrong = torch.zeros_like(T), as_map([1.0, 0.0], [0.0, 0.0])
    assert float(cel_loss(one_wrong, clean)) == pytest.approx(1, abs=1e-5)
    value = cel_loss(torch.cat([P, one_wrong]), torch.cat([T, clean]))
    assert float(value) == pytest.approx((0.5 + 0.5 + 1) / (2 + 2 + 1), abs=1e-6)


def test_cel_of_several_maps_is_the_mean_of_each() -> None:
    maps, truth = random_pair(n=3, k=4)
    each = [float(cel_loss(maps[:, j : j + 1], truth)) for j in range(4)]
    assert float(cel_loss(maps, truth)) == pytest.approx(sum(each) / 4, rel=1e-5)


def test_cel_of_nothing_in_nothing_is_nothing() -> None:
    nothing = torch.zeros(2, 1, 4, 4)
    assert float(cel_loss(nothing, nothing)) == 0


@pytest.mark.parametrize(
    ("loss", "parts"),
    [(csepnet_loss, [bce_loss, iou_loss, cel_loss, ssim_loss]), (minet_loss, [bce_loss, ssim_loss])],
)
def test_loss_of_five_maps_sums_over_them(loss: Loss, parts: list[Any]) -> None:
    stacked, truth = random_pair(k=5)
    maps = {name: stacked[:, i : i + 1] for i, name in enumerate(FIVE_MAPS)}
    wanted = sum(float(part(p, truth)) for p in maps.values() for part in parts)
    assert float(loss(maps, truth)) == pytest.approx(wanted, rel=1e-5)


def test_tsernet_loss_sums_over_twelve_maps_and_the_edge() -> None:
    stacked, truth = random_pair(k=13)
    maps = {name: stacked[:, i : i + 1] for i, name in enumerate(TSERNET_MAPS)}
    wanted = float(edge_bce_loss(maps["edge"], edge_truth(truth)))
    for name in TSERNET_MAPS[:-1]:
        wanted += sum(float(loss(maps[name], truth)) for loss in PER_MAP)
    assert float(tsernet_loss(maps, truth)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("filling", [0.0, 1.0])
@pytest.mark.parametrize("answer", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("loss", "names"), [(csepnet_loss, FIVE_MAPS), (minet_loss, FIVE_MAPS), (tsernet_loss, TSERNET_MAPS)]
)
def test_finite_on_empty_and_full_masks(loss: Loss, names: list[str], answer: float, filling: float) -> None:
    maps = {name: torch.full((2, 1, 32, 32), answer, requires_grad=True) for name in names}
    value = loss(maps, torch.full((2, 1, 32, 32), filling))
    value.backward()
    assert torch.isfinite(value)
    for name, p in maps.items():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


def test_iou_of_all_saliency_maps_each_at_its_own_size() -> None:
    truth = torch.zeros(2, 1, 8, 8)
    truth[:, :, :4, :4] = 1
    small = torch.zeros(2, 1, 4, 4)
    small[:, :, :2, :4] = 1  # twice what the truth is there: 1/2 of it is right
    maps = {"s1": truth.clone(), "s2": small, "edge": torch.ones(2, 1, 4, 4)}
    assert float(saliency_iou_loss(maps, truth)) == pytest.approx(0.5, abs=1e-6)
