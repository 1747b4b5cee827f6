from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.common.images import read_gray, resize_image
from sdi.train.data import Sample, find_pairs, read_truth
from sdi.train.engine_module import EngineModule
from sdi.train.evaluation.paper_tables import paper_rows
from sdi.train.models import build_model, model_spec
from sdi.train.scores import (
    SCORE_NAMES,
    Measured,
    PictureScores,
    Scorer,
    mean_curves,
    mean_scores,
    predict,
    score_maps,
    score_picture,
)

# Both papers' tables and PySODMetrics 1.6.2 on the published maps of the 360 test pictures.
PUBLISHED = {
    "tsernet": (0.8862, 0.8877, 0.8650, 0.8440, 0.9651, 0.9534, 0.9572, 0.0238),
    "csepnet": (0.8836, 0.8821, 0.8587, 0.8462, 0.9655, 0.9588, 0.9588, 0.0229),
    "bc": (0.5925, 0.4703, 0.4266, 0.4699, 0.6754, 0.6370, 0.7356, 0.1560),
    "smd": (0.5824, 0.4664, 0.4151, 0.4390, 0.6479, 0.5878, 0.7158, 0.2090),
    "2lsg": (0.5541, 0.4355, 0.3848, 0.4155, 0.6302, 0.5589, 0.7132, 0.2458),
    "rcrr": (0.5325, 0.3917, 0.3350, 0.3283, 0.6277, 0.5459, 0.6442, 0.2422),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_maps_score_as_published(steel_data: Path, name: str) -> None:
    folder = steel_data.parent / "published-maps" / name
    if not folder.is_dir():
        pytest.skip(f"the published maps are not at {folder}")
    pairs = find_pairs(steel_data, "test")
    scores = score_maps((read_gray(folder / f"{p.name}.png"), read_truth(p.mask)) for p in pairs)
    assert [f"{scores[key]:.4f}" for key in SCORE_NAMES] == [f"{value:.4f}" for value in PUBLISHED[name]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_data_file_of_other_methods_says_the_same(name: str) -> None:
    (row,) = [r for r in paper_rows() if r.origin == "measured" and r.method.split()[0].lower() == name]
    assert [float(row.metrics[key]) for key in SCORE_NAMES] == list(PUBLISHED[name])


def spot() -> np.ndarray:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 5:30] = 255
    return mask


def drawn(number: int, low: int = 0, high: int = 256) -> list[tuple[np.ndarray, np.ndarray]]:
    """Noisy maps with their masks."""
    rng = np.random.default_rng(7)
    return [(rng.integers(low, high, (40, 40), dtype=np.uint8) // 2 + spot() // 4, spot()) for _ in range(number)]


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


def test_means_and_curves_are_those_that_pysodmetrics_itself_gathers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fmeasure is deprecated, which makes it an independent oracle of FmeasureV2
        import py_sod_metrics

        gathered = [py_sod_metrics.Smeasure(), py_sod_metrics.Fmeasure(beta=0.3), py_sod_metrics.Emeasure()]
    for saliency, mask in drawn(7):
        for measure in gathered:
            measure.step(pred=saliency, gt=mask)
    s, f, e = (measure.get_results() for measure in gathered)
    pictures = [score_picture(saliency, mask) for saliency, mask in drawn(7)]
    scores, curves = mean_scores(pictures), mean_curves(pictures)
    assert scores["S"] == s["sm"]
    assert (scores["maxE"], scores["meanE"], scores["adpE"]) == (
        e["em"]["curve"].max(),
        e["em"]["curve"].mean(),
        e["em"]["adp"],
    )
    assert (scores["maxF"], scores["adpF"]) == pytest.approx((f["fm"]["curve"].max(), f["fm"]["adp"]), abs=1e-12)
    np.testing.assert_allclose(curves["precision"][::-1], f["pr"]["p"], atol=1e-12)
    np.testing.assert_allclose(curves["recall"][::-1], f["pr"]["r"], atol=1e-12)


def test_curves_begin_at_threshold_0() -> None:
    """By definition, on a map that uses all levels, so that stretching changes nothing."""
    saliency = np.linspace(0, 255, 1600).round().astype(np.uint8).reshape(40, 40)
    curves = mean_curves([score_picture(saliency, spot())])
    truth = spot() > 0
    for threshold in (0, 1, 100, 255):
        over = saliency >= threshold
        assert curves["precision"][threshold] == pytest.approx(truth[over].mean())
        assert curves["recall"][threshold] == pytest.approx(over[truth].mean())


def test_raw_scores_see_what_the_stretch_hides() -> None:
    faint = spot() // 10  # gray 25 of 255: nothing over a threshold of one half
    (measured,) = Scorer().measure([(faint, spot())])
    assert measured.stretched.mae == 0
    assert measured.raw.mae == pytest.approx((1 - 25 / 255) * (spot() > 0).mean())
    assert measured.stretched.f[255 - 128] == pytest.approx(1)
    assert measured.raw.f[255 - 128] == 0


def test_a_map_of_full_range_is_not_changed_by_the_stretch() -> None:
    saliency = np.linspace(0, 255, 1600).round().astype(np.uint8).reshape(40, 40)
    (measured,) = Scorer().measure([(saliency, spot())])
    assert_equal(measured.stretched, measured.raw)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_empty_masks_and_flat_maps_have_finite_scores(level: int) -> None:
    nothing, flat = np.zeros((40, 40), np.uint8), np.full((40, 40), level, np.uint8)
    for mask in (nothing, spot(), ~nothing):
        (measured,) = Scorer().measure([(flat, mask)])
        for scores in (mean_scores([measured.stretched]), mean_scores([measured.raw])):
            assert all(0 <= value <= 1.001 for value in scores.values()), scores  # E divides by pixels - 1
            assert scores["MAE"] == pytest.approx(abs(level / 255 - mask.mean() / 255)) or mask is not nothing


def test_workers_change_no_digit_and_keep_the_order() -> None:
    maps = drawn(30)
    with Scorer(2) as scorer:
        shared, again = list(scorer.measure(maps)), list(scorer.measure(maps[:3]))
    alone = list(Scorer(1).measure(maps))
    assert len(shared) == 30
    for one, other in zip([*shared, *again], [*alone, *alone[:3]], strict=True):
        assert_measured_equal(one, other)


def test_a_worker_that_dies_is_told_with_the_remedy() -> None:
    def maps() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from drawn(5)  # by now both have been started
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)
        yield from drawn(100)

    with Scorer(2) as scorer, pytest.raises(DeviceError, match=r"scoring processes died.*--workers 1"):
        list(scorer.measure(maps()))


INTERRUPTED = """
import os, signal
import numpy as np
from sdi.train.scores import Scorer

def maps():
    for number in range(1000):
        if number == 5:
            os.killpg(0, signal.SIGINT)  # as a terminal does: the workers are starting
        yield np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background is started without it
    with Scorer(2) as scorer:
        list(scorer.measure(maps()))
"""


def test_ctrl_c_ends_the_workers_without_a_word_of_theirs(tmp_path: Path) -> None:
    program = tmp_path / "interrupted.py"
    program.write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, program], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        _, err = process.communicate(timeout=120)  # ends when no process holds stderr any more
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1, err
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_predict_gives_each_picture_its_own_size(samples: list[Sample]) -> None:
    torch.manual_seed(0)
    module = EngineModule(build_model("minet").eval(), model_spec("minet").preprocessing, (64, 64))
    large = Sample("large", resize_image(samples[0].image, (90, 50)), resize_image(samples[0].mask, (90, 50)))
    maps = list(predict(module, [*samples, large], batch_size=4))
    assert [m.shape for m in maps] == [s.mask.shape for s in [*samples, large]]
    assert all(m.dtype == np.uint8 for m in maps)
    # In one batch or alone, a picture has one answer; rounding may tip over by one level.
    alone = next(iter(predict(module, samples[3:4], batch_size=1)))
    assert np.abs(alone.astype(int) - maps[3]).max() <= 1


def assert_measured_equal(one: Measured, other: Measured) -> None:
    assert_equal(one.stretched, other.stretched)
    assert_equal(one.raw, other.raw)


def assert_equal(one: PictureScores, other: PictureScores) -> None:
    for field in fields(PictureScores):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name
