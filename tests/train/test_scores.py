from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdi.runtime.images import read_gray, resize_image
from sdi.train.data import Sample, find_pairs, read_truth
from sdi.train.face import Face
from sdi.train.models import build_model, model_spec
from sdi.train.scores import SCORE_NAMES, predict, score_maps

# Both papers' tables and PySODMetrics 1.6.2 on the published maps of the 360 test pictures.
PUBLISHED = {
    "tsernet": (0.8862, 0.8877, 0.8650, 0.8440, 0.9651, 0.9534, 0.9572, 0.0238),
    "csepnet": (0.8836, 0.8821, 0.8587, 0.8462, 0.9655, 0.9588, 0.9588, 0.0229),
    "bc": (0.5925, 0.4703, 0.4266, 0.4699, 0.6754, 0.6370, 0.7356, 0.1560),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_maps_score_as_published(steel_data: Path, name: str) -> None:
    folder = steel_data.parent / "published-maps" / name
    if not folder.is_dir():
        pytest.skip(f"the published maps are not at {folder}")
    pairs = find_pairs(steel_data, "test")
    scores = score_maps((read_gray(folder / f"{p.name}.png"), read_truth(p.mask)) for p in pairs)
    assert [f"{scores[key]:.4f}" for key in SCORE_NAMES] == [f"{value:.4f}" for value in PUBLISHED[name]]


def spot() -> np.ndarray:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 5:30] = 255
    return mask


def test_a_perfect_map_scores_full_marks() -> None:
    scores = score_maps([(spot(), spot())])
    assert scores["MAE"] == 0
    for name in ("S", "maxF", "adpF", "maxE", "adpE"):
        assert scores[name] == pytest.approx(1, abs=0.01), name


def test_an_inverted_map_fails() -> None:
    scores = score_maps([(255 - spot(), spot())])
    assert scores["MAE"] == pytest.approx(1)
    assert scores["S"] < 0.1
    assert scores["adpF"] < 0.1


def test_means_are_over_pictures() -> None:
    good, bad = (spot(), spot()), (255 - spot(), spot())
    assert score_maps([good, bad])["MAE"] == pytest.approx(0.5)
    assert score_maps([good, good, good, bad])["MAE"] == pytest.approx(0.25)


def test_predict_gives_each_picture_its_own_size(samples: list[Sample]) -> None:
    torch.manual_seed(0)
    face = Face(build_model("minet").eval(), model_spec("minet").preprocessing, (64, 64))
    large = Sample("large", resize_image(samples[0].image, (90, 50)), resize_image(samples[0].mask, (90, 50)))
    maps = list(predict(face, [*samples, large], batch_size=4))
    assert [m.shape for m in maps] == [s.mask.shape for s in [*samples, large]]
    assert all(m.dtype == np.uint8 for m in maps)
    # In one batch or alone, a picture has one answer; rounding may tip over by one level.
    alone = next(iter(predict(face, samples[3:4], batch_size=1)))
    assert np.abs(alone.astype(int) - maps[3]).max() <= 1
