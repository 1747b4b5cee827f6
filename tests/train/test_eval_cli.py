"""`sdi-eval` against known scores, hand-made folders and the network that comes with sdi."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdi.runtime.common.images import read_gray, write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.shipped import find_engine
from sdi.train.eval_cli import main

Run = Callable[..., tuple[int, str, str]]
ENGINE = find_engine("minet")  # made from SHIPPED
SHIPPED = Path(__file__).parents[2] / "train" / "weights" / "minet.pt"


@pytest.fixture
def steel(steel_tree: Callable[..., Path]) -> Path:
    return steel_tree([f"In_{i}" for i in range(2)], ["Pa_0", "Sc_0", "Sc_1"])


@pytest.fixture
def strip(tmp_path: Path) -> Path:
    """Three synthetic pictures of different sizes with their masks, and two of clean steel."""
    for number, kind in enumerate((*DEFECTS, "clean", "clean")):
        image, mask = draw_strip(kind, number, (200 - 8 * number, 200))
        folder, name = ("clean", f"good_{number}") if kind == "clean" else ("images", f"{kind}_{number}")
        for part, pixels in ((folder, image), ("masks", mask)):
            (tmp_path / part).mkdir(exist_ok=True)
            if part != "masks" or kind != "clean":
                write_image(tmp_path / part / f"{name}.png", pixels)
    return tmp_path


def data_of(strip: Path) -> tuple[object, ...]:
    return "--images", strip / "images", "--masks", strip / "masks"


def scores_of(run_command: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = run_command(main, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_scores_all_and_each_class(run_command: Run, steel: Path) -> None:
    result = scores_of(run_command, "--maps", steel / "Ground truth", "--data", steel)
    for table in (result["scores"], result["unstretched"]):
        assert {name: row["pictures"] for name, row in table.items()} == {"all": 3, "class Pa": 1, "class Sc": 2}
        for row in table.values():  # the truth itself
            assert (row["maxF"], row["MAE"]) == (pytest.approx(1), 0)
    assert [len(result["curves"][name]) for name in ("precision", "recall", "F")] == [256] * 3
    assert (result["clean"], result["compared"], result["baseline"], result["files"]) == (None, {}, None, [])


def test_both_splits_are_groups_where_all_pictures_are_scored(run_command: Run, steel: Path) -> None:
    result = scores_of(run_command, "--maps", steel / "Ground truth", "--data", steel, "--split", "all")
    groups = {name: row["pictures"] for name, row in result["scores"].items()}
    assert groups == {"all": 5, "test split": 3, "training split": 2, "class In": 2, "class Pa": 1, "class Sc": 2}


def test_inverted_and_empty_masks_are_refused(run_command: Run, steel: Path) -> None:
    given = ("--maps", steel / "Ground truth", "--data", steel)
    masks = {path: read_gray(path) for path in (steel / "Ground truth").glob("*.png")}
    for change, told in ((255, "are the 3 masks inverted?"), (0, "none of 3 masks shows a defect")):
        for path, mask in masks.items():
            write_image(path, 255 - mask if change else mask * 0)
        code, _, err = run_command(main, *given)
        assert (code, told in err, "--trust-masks" in err) == (2, True, True), err
        assert run_command(main, *given, "--trust-masks")[0] == 0


def test_before_and_after_of_the_same_pictures(run_command: Run, strip: Path) -> None:
    """Dark maps before, the engine now: it finds what was drawn."""
    for path in (strip / "images").iterdir():
        (strip / "dark").mkdir(exist_ok=True)
        write_image(strip / "dark" / path.name, np.zeros(cv2.imread(str(path)).shape[:2], np.uint8))
    before = scores_of(run_command, "--maps", strip / "dark", *data_of(strip), "--report", strip / "before")
    now = ("--engine", ENGINE, *data_of(strip), "--report", strip / "after", "--baseline", strip / "before")
    result = scores_of(run_command, *now)
    assert result["baseline"]["scores"] == before["scores"]
    assert (result["baseline"]["label"], result["baseline"]["better"], result["baseline"]["worse"]) == ("dark", 3, 0)
    assert "Before and now" in (strip / "after" / "index.html").read_text()
    code, out, _ = run_command(main, *now)
    assert code == 0
    assert "change since dark: S of 3 pictures is higher, of 0 lower" in out
    code, _, err = run_command(main, "--maps", strip / "dark", *data_of(strip), "--baseline", strip / "images")
    assert (code, "is no report of sdi-eval" in err) == (2, True)


@pytest.mark.parametrize("source", ["--engine", "--checkpoint"])
def test_flips_score_the_mean_of_turned_maps(run_command: Run, tmp_path: Path, source: str) -> None:
    """The oracle asks for each turned picture by itself and turns the answers back with OpenCV."""
    turns = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
    back = (None, turns[3], turns[2], turns[1])

    def keep(folder: str, name: str, image: np.ndarray) -> None:
        for part, pixels in (("images", image), ("masks", np.zeros(image.shape[:2], np.uint8))):
            (tmp_path / folder / part).mkdir(exist_ok=True, parents=True)
            write_image(tmp_path / folder / part / f"{name}.png", pixels)

    ways = {"square": [(turn, flip) for turn in range(4) for flip in (0, 1)]}
    ways["wide"] = [(turn, flip) for turn, flip in ways["square"] if turn in (0, 2)]
    for name, size_hw in (("square", (96, 96)), ("wide", (64, 96))):
        image = draw_strip("scratch", 1, size_hw)[0]
        keep("few", name, image)
        for turn, flip in ways[name]:
            shown = cv2.flip(image, 1) if flip else image
            keep("turned", f"{name}-{turn}-{flip}", cv2.rotate(shown, turns[turn]) if turn else shown)
    network = ENGINE if source == "--engine" else SHIPPED
    for folder, flips in (("turned", ()), ("few", ("--flips",))):
        given = (*data_of(tmp_path / folder), "--trust-masks")  # they are empty
        scores_of(run_command, source, network, *given, "--batch", 3, "--save-maps", tmp_path / folder / "maps", *flips)
    for name, of in ways.items():
        answers = []
        for turn, flip in of:
            answer = read_gray(tmp_path / "turned" / "maps" / f"{name}-{turn}-{flip}.png")
            answer = cv2.rotate(answer, back[turn]) if turn else answer
            answers.append(cv2.flip(answer, 1) if flip else answer)
        wanted = np.mean(answers, axis=0)
        assert np.abs(read_gray(tmp_path / "few" / "maps" / f"{name}.png") - wanted).max() <= 0.5
        assert np.std(answers, axis=0).max() > 5, "a network that turns with its picture would prove nothing"


def test_table_names_the_measures(run_command: Run, steel: Path) -> None:
    code, out, _ = run_command(main, "--maps", steel / "Ground truth", "--data", steel, "--split", "train")
    assert code == 0
    assert all(name in out for name in ("pictures", "S", "maxF", "meanE", "MAE", "class In", "not stretched"))


def test_an_engine_scores_as_its_maps_do(run_command: Run, strip: Path) -> None:
    maps, report = strip / "kept", strip / "report"
    given = ("--clean", strip / "clean", *data_of(strip))
    ours = scores_of(run_command, "--engine", ENGINE, *given, "--save-maps", maps, "--report", report, "--batch", 2)
    assert sorted(path.name for path in maps.glob("*.png")) == [
        *("good_3.png", "good_4.png", "inclusion_0.png", "patch_1.png", "scratch_2.png"),
    ]
    assert read_gray(maps / "scratch_2.png").shape == (184, 200)
    theirs = scores_of(run_command, "--maps", maps, *given)
    for key in ("scores", "unstretched", "curves", "clean"):
        assert theirs[key] == ours[key], key
    assert ours["scores"]["all"]["S"] > 0.6  # it finds synthetic defects
    assert ours["files"] == [str(maps), str(report / "index.html")]
    assert "minet fp32" in (report / "index.html").read_text()
    # Ours may be written again, and the folder of masks stays ours.
    scores_of(run_command, "--engine", ENGINE, *given, "--save-maps", maps, "--report", report)


def test_a_checkpoint_scores_as_the_engine_made_of_it(run_command: Run, strip: Path) -> None:
    in_torch = scores_of(run_command, "--checkpoint", SHIPPED, *data_of(strip), "--batch", 2)
    exported = scores_of(run_command, "--engine", ENGINE, *data_of(strip))
    assert in_torch["label"] == "minet"
    assert in_torch["scores"]["all"] == pytest.approx(exported["scores"]["all"], abs=2e-3)


def test_an_engine_needs_no_torch(strip: Path) -> None:
    program = (
        "import sys\nfrom sdi.train.eval_cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--engine", ENGINE, *data_of(strip), "--report", strip / "report"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_clean_steel_is_measured_at_the_threshold(run_command: Run, strip: Path) -> None:
    maps = strip / "maps"
    for part in ("images", "clean"):
        for path in (strip / part).iterdir():
            maps.mkdir(exist_ok=True)
            write_image(maps / path.name, np.zeros(cv2.imread(str(path)).shape[:2], np.uint8))
    spotted = np.zeros((168, 200), np.uint8)
    spotted[:42, :100], spotted[0, 0] = 153, 152  # .6, and just under it
    write_image(maps / "good_4.png", spotted)
    clean = scores_of(run_command, "--maps", maps, *data_of(strip), "--clean", strip / "clean", "--threshold", 0.6)[
        "clean"
    ]
    area = (42 * 100 - 1) / (168 * 200)
    assert clean == {
        "pictures": 2,
        "threshold": 0.6,
        "mean_area": pytest.approx(area / 2),
        "worst_area": pytest.approx(area),
        "worst_picture": "good_4",
        "pictures_with_any": 1,
    }


def test_other_maps_are_set_beside(run_command: Run, steel: Path, tmp_path: Path) -> None:
    (tmp_path / "dark").mkdir()
    for name in ("Pa_0", "Sc_0", "Sc_1"):
        write_image(tmp_path / "dark" / f"{name}.png", np.zeros((40, 40), np.uint8))
    given = ("--maps", steel / "Ground truth", "--data", steel, "--compare", f"nothing={tmp_path / 'dark'}")
    result = scores_of(run_command, *given)
    assert result["compared"]["nothing"]["scores"]["all"]["maxF"] < 0.5
    _, out, _ = run_command(main, *given)
    assert "nothing" in out


def test_csv_has_groups_pictures_and_clean_steel(run_command: Run, strip: Path) -> None:
    table = strip / "scores.csv"
    given = ("--engine", ENGINE, *data_of(strip), "--clean", strip / "clean", "--csv", table)
    result = scores_of(run_command, *given)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    (whole,) = [row for row in rows if row["name"] == "all" and row["stretched"] == "1"]
    assert float(whole["S"]) == result["scores"]["all"]["S"]
    pictures = [row for row in rows if row["rows"] == "picture" and row["stretched"] == "0"]
    assert [row["name"] for row in pictures] == ["inclusion_0", "patch_1", "scratch_2"]
    assert np.mean([float(row["S"]) for row in pictures]) == pytest.approx(result["unstretched"]["all"]["S"])
    assert [row["name"] for row in rows if row["rows"] == "clean"] == ["good_3", "good_4"]
    scores_of(run_command, *given)  # ours may be written again
    table.write_text("somebody else's")
    code, _, err = run_command(main, *given)
    assert code == 2
    assert "scores.csv exists and is no table of sdi-eval" in err
    assert table.read_text() == "somebody else's"


def test_folders_of_others_are_left_alone(run_command: Run, strip: Path) -> None:
    for option in ("--report", "--save-maps"):
        code, _, err = run_command(main, "--engine", ENGINE, *data_of(strip), option, strip / "masks")
        assert code == 2
        assert f"masks holds files that sdi-eval {option} did not write" in err
    assert not (strip / "masks" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give one of --checkpoint, --engine and --maps"),
        (("--maps", "masks", "--engine", "x.onnx"), "give one of --checkpoint, --engine and --maps"),
        (("--maps", "masks", "--threshold", "0"), "--threshold must be above 0 and at most 1, got 0.0"),
        (("--maps", "masks", "--save-maps", "kept"), "those of --maps are in a folder already"),
        (("--maps", "nowhere"), "nowhere is not a folder"),
        (("--maps", "empty"), "no image in folder empty"),
        (("--maps", "images", "--compare", "a=masks", "--compare", "a=images"), "--compare a is given twice"),
        (("--maps", "images", "--compare", "=masks"), "--compare =masks has no name"),
        (("--maps", "images", "--clean", "empty"), "no image in folder empty"),
        (("--maps", "images", "--clean", "images"), "3 pictures of --clean have the name of a picture with a mask"),
        (("--maps", "images", "--clean", "clean"), "2 of 5 pictures have no map in images: good_3.png, good_4.png"),
        (("--maps", "images", "--csv", "nowhere/t.csv"), "nowhere is not a folder"),
        (("--engine", "empty/x.onnx"), "cannot read engine empty/x.onnx"),
        (("--engine", str(SHIPPED)), "is a PyTorch file, not an engine"),
        (("--checkpoint", "x.pt"), "checkpoint x.pt does not exist"),
        (("--checkpoint", str(SHIPPED), "--device", "tpu"), "unknown device 'tpu'; use auto, cpu or cuda"),
    ],
)
def test_wrong_use_is_told(
    run_command: Run, strip: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(strip)
    (strip / "empty").mkdir()
    code, out, err = run_command(main, *arguments, "--images", "images", "--masks", "masks")
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err


def test_missing_masks_and_split_are_told(run_command: Run, strip: Path, steel: Path) -> None:
    given = ("--maps", strip / "images")
    assert (
        "no-masks is not a folder"
        in run_command(main, *given, "--images", strip / "images", "--masks", strip / "no-masks")[2]
    )
    assert "cannot read split file" in run_command(main, *given, "--data", steel, "--split", "val")[2]
    assert "no data given" in run_command(main, *given)[2]
    (strip / "masks" / "patch_1.png").unlink()
    assert "1 without a mask of the same stem" in run_command(main, *given, *data_of(strip))[2]


def test_missing_map_is_named(run_command: Run, steel: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "Sc_0.png", np.zeros((40, 40), np.uint8))
    code, _, err = run_command(main, "--maps", tmp_path, "--data", steel)
    assert code == 2
    assert "2 of 3 pictures have no map" in err
    assert "Pa_0.png" in err
    assert "sdi-run --source" in err


def test_two_maps_of_one_picture_are_named(run_command: Run, steel: Path, tmp_path: Path) -> None:
    for suffix in (".png", ".bmp"):
        write_image(tmp_path / f"Sc_0{suffix}", np.zeros((40, 40), np.uint8))
    assert "1 pictures have two maps" in run_command(main, "--maps", tmp_path, "--data", steel)[2]


def test_map_of_another_size_is_named(run_command: Run, steel: Path, tmp_path: Path) -> None:
    for name in ("Pa_0", "Sc_0", "Sc_1"):
        write_image(tmp_path / f"{name}.png", np.zeros((10, 12), np.uint8))
    code, _, err = run_command(main, "--maps", tmp_path, "--data", steel)
    assert code == 2
    assert "Pa_0.png is 12x10, its mask" in err
    assert "Pa_0.png 40x40" in err
    assert "Traceback" not in err


def test_mask_of_another_size_than_the_picture_is_named(run_command: Run, strip: Path) -> None:
    write_image(strip / "masks" / "patch_1.png", np.zeros((10, 12), np.uint8))
    code, _, err = run_command(main, "--engine", ENGINE, *data_of(strip))
    assert code == 2
    assert "patch_1.png is 200x192, its mask" in err


def test_unreadable_maps_and_masks_are_named(run_command: Run, steel: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("Pa_0", "Sc_0", "Sc_1"):
        data = (steel / "Ground truth" / f"{name}.png").read_bytes()
        (maps / f"{name}.png").write_bytes(data[:-20] if name == "Sc_0" else data)
    code, _, err = run_command(main, "--maps", maps, "--data", steel, "--workers", 1)
    assert code == 2
    assert "Sc_0.png is truncated" in err
    write_image(steel / "Ground truth" / "Pa_0.png", np.ones((40, 40), np.uint8))
    assert "holds values 0..1; expected 0 and 255" in run_command(main, "--maps", maps, "--data", steel)[2]


def test_published_maps_have_their_known_scores(run_command: Run, steel_data: Path) -> None:
    maps = steel_data.parent / "published-maps" / "csepnet"
    if not maps.is_dir():
        pytest.skip(f"the published maps are not at {maps}")
    result = scores_of(run_command, "--maps", maps, "--data", steel_data, "--workers", 2)
    row = result["scores"]["all"]
    assert row["pictures"] == 360
    assert [f"{row[name]:.4f}" for name in ("S", "maxF", "MAE")] == ["0.8836", "0.8821", "0.0229"]
    counts = {name: group["pictures"] for name, group in result["scores"].items()}
    assert counts["class In"] == counts["class Pa"] == counts["class Sc"] == 120
    # docs/evaluation.md tells them.
    assert (counts["tiny defects"], counts["close defects"], counts["fine scratches"]) == (34, 74, 32)


def test_complexity_needs_no_data(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdi.train.complexity

    monkeypatch.setattr(sdi.train.complexity, "model_names", lambda: ["minet"])  # all of them take a while
    code, out, _ = run_command(main, "--complexity", "--json")
    assert code == 0
    (row,) = [row for row in json.loads(out) if row["kind"] == "ours"]
    assert (row["model"], row["paper_parameters"]) == ("minet", 280_000)
    assert row["parameters"] == pytest.approx(277_477, rel=0.001)
    assert "minet" in run_command(main, "--complexity")[1]
