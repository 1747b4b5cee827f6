from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from sdi.train.checkpoint import load_checkpoint, shipped_checkpoint
from sdi.train.cli import main
from sdi.train.models import known_models

Run = Callable[..., tuple[int, str, str]]
NAMES = [f"{defect}_{i}" for i in range(4) for defect in ("In", "Pa")]
TINY = ("--model", "minet", "--recipe", "quick", "--size", 32, "--batch", 2, "--device", "cpu", "--threads", 1)


@pytest.fixture
def steel(steel_tree: Callable[..., Path]) -> Path:
    """Eight pictures to train on, two to test."""
    return steel_tree(NAMES, ["Sc_1", "Sc_2"])


def assert_one_line(outcome: tuple[int, str, str], *wanted: str) -> None:
    """The manners of an error: exit code 2, nothing on stdout, one line on stderr and no traceback."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for text in wanted:
        assert text in err


def test_trains_and_says_where_the_result_is(run_command: Run, steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = run_command(main, *TINY, "--data", steel, "--epochs", 2, "-o", run)
    assert (code, out) == (0, f"{run / 'best.pt'}\n")
    assert "7 pictures, 1 to validate (--val 0.1), test split untouched; 2 epochs of 3 steps, batch 2" in err
    assert f"sdi-export --model minet --checkpoint {run / 'best.pt'}" in err
    assert {p.name for p in run.iterdir()} == {"best.pt", "last.pt", "log.csv", "curves.png", "first-batches.png"}
    checkpoint = load_checkpoint(run / "best.pt", "minet")
    assert checkpoint.input_hw == (32, 32)
    assert 0 < checkpoint.metrics["S"] < 1
    assert checkpoint.training["recipe"]["learning_rate"] == 4e-3


def test_goes_on_where_it_stopped_and_reports_as_json(run_command: Run, steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = run_command(
        main, *TINY, "--data", steel, "--val", "none", "--epochs", 2, "-o", run, "--limit-steps", 3, "--json"
    )
    assert started[0] == 0
    assert json.loads(started[1]) == {"run": str(run), "finished": False, "step": 3, "best_S": None}
    assert f"stopped at step 3 of 8; go on with: sdi-train --resume {run}" in started[2]
    for resume in (run, run / "last.pt"):  # the folder, and then the file of a finished run
        # As it was printed: the run knows where its pictures lie.
        code, out, err = run_command(main, "--resume", resume, "--device", "cpu", "--json")
        assert code == 0
        assert json.loads(out)["finished"]
        assert json.loads(out)["step"] == 8
        assert "resumed at step" in err


def test_takes_two_folders_and_the_environments_data(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, steel: Path, tmp_path: Path
) -> None:
    folders = ("--images", steel / "Source Images", "--masks", steel / "Ground truth")
    common = (*TINY, "--epochs", 1, "--val", "none", "--limit-steps", 1)
    code, _, err = run_command(main, *common, *folders, "-o", tmp_path / "a")
    assert code == 0
    assert "10 pictures, 0 to validate" in err
    monkeypatch.setenv("SDI_DATA", str(steel))
    code, _, err = run_command(main, *common, "-o", tmp_path / "b")
    assert code == 0
    assert "8 pictures, 0 to validate" in err


def test_val_test_scores_the_test_split(run_command: Run, steel: Path, tmp_path: Path) -> None:
    arguments = (*TINY, "--data", steel, "--val", "test", "--epochs", 1, "-o", tmp_path / "run")
    code, _, err = run_command(main, *arguments)
    assert code == 0
    assert "8 pictures, 2 to validate (--val test)" in err
    assert "untouched" not in err
    assert load_checkpoint(tmp_path / "run" / "best.pt").metrics["S"] > 0


def test_ctrl_c_saves_leaves_with_130_and_can_be_resumed(run_command: Run, steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *(str(Path(sys.executable).with_name("sdi-train")), *map(str, TINY), "--data", str(steel)),
        *("--val", "none", "--epochs", "100000", "-o", str(run)),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "SDI_DATA"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        assert process.stderr is not None
        log = ""
        for line in process.stderr:
            log += line
            if line.startswith("epoch 1:"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        process.kill()
        guard.cancel()
    assert process.returncode == 130, log + err
    assert "Traceback" not in log + err
    assert out == f"{run / 'best.pt'}\n"
    step = load_checkpoint(run / "last.pt").training["state"]["step"]
    assert step >= 4
    assert f"stopped at step {step} of 400000; go on with: sdi-train --resume {run}" in err
    again = (
        "--resume",
        run,
        "--data",
        steel,
        "--device",
        "cpu",
        "--limit-steps",
        2,
        "--json",
    )
    code, out, _ = run_command(main, *again)
    assert (code, json.loads(out)["step"]) == (0, step + 2)


def test_no_model_lists_them(run_command: Run, steel: Path) -> None:
    outcome = run_command(main, "--data", steel)
    assert_one_line(outcome, f"choose a network with --model: {known_models()}")


def test_an_unknown_model_lists_the_known_ones(run_command: Run, steel: Path) -> None:
    assert_one_line(run_command(main, "--model", "u2net", "--data", steel), "unknown model 'u2net'; known: csepnet")


def test_no_data_says_how_to_give_some(run_command: Run) -> None:
    assert_one_line(run_command(main, "--model", "minet"), "no data given; use --data DIR (or set SDI_DATA)")


def test_a_missing_data_folder_is_named(run_command: Run, tmp_path: Path) -> None:
    assert_one_line(run_command(main, *TINY, "--data", tmp_path / "none"), str(tmp_path / "none"), "layout")


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--val", "2", "--val takes a share between 0 and 1, 'test' or 'none'; got '2'"),
        ("--val", "all", "got 'all'"),
        ("--size", "40", "must be a multiple of 16, and 32 at the least; got 40x40"),
        ("--size", "0", "must be a multiple of 16, and 32 at the least; got 0x0"),
        ("--epochs", "0", "epochs must be greater than 0"),
        ("--lr", "-1", "learning_rate must be greater than 0"),
        ("--steps", "9", "give the length in epochs or in steps, one of them; got 1 and 9"),
        ("--accumulate", "4", "a batch of 2 cannot be cut into 4 equal shares"),
        ("--precision", "16-mixed", "--precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32"),
        ("--precision", "8", "precision is one of 32, 16-mixed, bf16-mixed; got '8'"),
        ("--devices", "1000", "--devices 1000 cannot be had"),
        ("--layout", "voc", "unknown layout 'voc'; known: sd-saliency-900, orssd"),
        ("--set", "nesterov=true", "unknown recipe field nesterov; known: learning_rate, input_hw, crop_hw"),
        ("--set", "augmentation.gain=2", "augmentation.gain must be between 0 and 1, got 2.0"),
        ("--set", "batch_size=4", "--set batch_size and --batch say the same; give one of them"),
        ("--device", "abacus", "--device abacus cannot be used here"),
    ],
)
def test_a_wrong_value_is_explained(
    run_command: Run, steel: Path, tmp_path: Path, option: str, value: str, wanted: str
) -> None:
    epochs = () if option == "--epochs" else ("--epochs", 1)
    outcome = run_command(main, *TINY, "--data", steel, "-o", tmp_path / "run", *epochs, option, value)
    assert_one_line(outcome, wanted)
    assert not list(tmp_path.glob("run/*.pt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_explained(run_command: Run, steel: Path, tmp_path: Path) -> None:
    outcome = run_command(main, *TINY, "--data", steel, "-o", tmp_path / "run", "--device", "cuda")
    assert_one_line(outcome, "--device cuda cannot be used here")


def test_val_test_needs_a_test_split(run_command: Run, steel: Path) -> None:
    (steel / "test.txt").unlink()
    assert_one_line(
        run_command(main, *TINY, "--data", steel, "--val", "test"), "--val test needs --data with a test split"
    )


def test_pictures_in_both_splits_are_refused(run_command: Run, steel: Path, tmp_path: Path) -> None:
    (steel / "test.txt").write_text("Sc_1\nIn_1\n")
    outcome = run_command(main, *TINY, "--data", steel, "--val", "none", "-o", tmp_path / "run")
    assert_one_line(outcome, "1 pictures are both in train.txt and in test.txt: In_1")


def test_test_pictures_are_never_trained_on_for_want_of_a_split_file(run_command: Run, steel: Path) -> None:
    (steel / "train.txt").rename(steel / "Train.txt")
    assert_one_line(run_command(main, *TINY, "--data", steel), "has a test split but no train split")


def test_a_picture_under_two_names_is_not_both_trained_and_validated_on(
    run_command: Run, steel_tree: Callable[..., Path], tmp_path: Path
) -> None:
    names = [f"In_{i}" for i in range(10)]
    folder = steel_tree(names)
    for part, suffix in (("Source Images", "bmp"), ("Ground truth", "png")):
        for name in names[1:]:
            content = (folder / part / f"{names[0]}.{suffix}").read_bytes()
            (folder / part / f"{name}.{suffix}").write_bytes(content)
    outcome = run_command(main, *TINY, "--data", folder, "-o", tmp_path / "run")
    assert_one_line(outcome, "1 validation pictures are also trained on: In_")


def test_inverted_and_empty_masks_are_refused(run_command: Run, steel: Path, tmp_path: Path) -> None:
    masks = {path: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (steel / "Ground truth").glob("*.png")}
    for change, told in (
        (255, "of a mask is a defect: are the 8 masks inverted?"),
        (0, "none of 8 masks shows a defect"),
    ):
        for path, mask in masks.items():
            cv2.imwrite(str(path), 255 - mask if change else mask * 0)
        outcome = run_command(main, *TINY, "--data", steel, "-o", tmp_path / "run")
        assert_one_line(outcome, told, "--trust-masks")
    trusting = ("--trust-masks", "--data", steel, "--limit-steps", 1, "--val", "none", "-o", tmp_path / "run")
    assert run_command(main, *TINY, *trusting)[0] == 0
    assert run_command(main, "--resume", tmp_path / "run", "--device", "cpu", "--limit-steps", 1)[0] == 0


def test_a_run_is_not_overwritten(run_command: Run, steel: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_text("precious")
    outcome = run_command(main, *TINY, "--data", steel, "-o", tmp_path / "run")
    assert_one_line(outcome, f"{tmp_path / 'run'} holds a run already; go on with --resume {tmp_path / 'run'}")
    assert (tmp_path / "run" / "last.pt").read_text() == "precious"


def test_an_output_that_is_a_file_is_refused(run_command: Run, steel: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    assert_one_line(run_command(main, *TINY, "--data", steel, "-o", tmp_path / "run"), "cannot write to folder")


def test_resume_takes_no_recipe(run_command: Run, tmp_path: Path) -> None:
    outcome = run_command(main, "--resume", tmp_path, "--lr", 0.1, "--epochs", 3, "-o", tmp_path / "b")
    assert_one_line(outcome, "leave out --epochs, --lr, --output")
    outcome = run_command(main, "--resume", tmp_path, "--recipe", "quick", "--set", "ema=0.9")
    assert_one_line(outcome, "leave out --set, --recipe")


def test_resume_refuses_a_run_of_another_network(run_command: Run, steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_command(main, *TINY, "--data", steel, "--val", "none", "-o", run, "--limit-steps", 1)
    outcome = run_command(main, "--resume", run, "--model", "tsernet-xs", "--device", "cpu")
    assert_one_line(outcome, f"{run / 'last.pt'} holds minet, not tsernet-xs; use --model minet")
    code, _, err = run_command(main, "--resume", run, "--model", "minet", "--device", "cpu", "--limit-steps", 1)
    assert code == 0, err


def test_resume_refuses_a_recipe_of_another_sdi(run_command: Run, steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_command(main, *TINY, "--data", steel, "--val", "none", "-o", run, "--limit-steps", 1)
    value = torch.load(run / "last.pt", weights_only=True)
    value["training"]["recipe"]["nesterov"] = True
    torch.save(value, run / "last.pt")
    assert_one_line(run_command(main, "--resume", run, "--device", "cpu"), "unknown recipe field nesterov; known: ")


def test_the_papers_recipe_is_the_default_and_every_field_can_be_changed(
    run_command: Run, steel: Path, tmp_path: Path
) -> None:
    common = ("--model", "minet", "--size", 64, "--device", "cpu", "--threads", 1, "--data", steel, "--limit-steps", 1)
    code, _, err = run_command(
        main,
        *(*common, "--batch", 4, "--val", "none", "-o", tmp_path / "run"),
        *("--set", "augmentation.rotation=10", "--set", "betas=0.5,0.9", "--set", "ema=0.9"),
    )
    assert code == 0, err
    assert "on a CPU choose --recipe quick" in err
    recipe = load_checkpoint(tmp_path / "run" / "last.pt").training["recipe"]
    assert (recipe["optimiser"], recipe["schedule"], recipe["epochs"]) == ("adam", "constant", 1803)
    assert (recipe["input_hw"], recipe["crop_hw"], recipe["batch_size"]) == ([64, 64], [64, 64], 4)
    assert (recipe["betas"], recipe["ema"], recipe["augmentation"]["rotation"]) == ([0.5, 0.9], 0.9, 10.0)


def test_trains_on_the_layout_of_orssd_and_resumes_there(
    run_command: Run, orssd_tree: Callable[..., Path], tmp_path: Path
) -> None:
    folder = orssd_tree(["0001", "0002", "0003", "0004"], ["0001"])
    run = tmp_path / "run"
    common = (*TINY, "--data", folder, "--steps", 2, "--val", "test", "-o", run, "--limit-steps", 1)
    code, _, err = run_command(main, *common)
    assert code == 0, err
    assert "4 pictures, 1 to validate (--val test)" in err
    assert "2 steps, 2 an epoch, batch 2" in err
    code, out, err = run_command(main, "--resume", run, "--device", "cpu", "--json")
    assert (code, json.loads(out)["finished"]) == (0, True), err


def test_init_starts_from_a_checkpoints_weights(run_command: Run, steel: Path, tmp_path: Path) -> None:
    still = ("--data", steel, "--epochs", 1, "--lr", 1e-12, "--set", "weight_decay=0", "--val", "none")
    assert run_command(main, *TINY, *still, "--init", "default", "-o", tmp_path / "run")[0] == 0
    ours, shipped = load_checkpoint(tmp_path / "run" / "best.pt"), load_checkpoint(shipped_checkpoint("minet"))
    for name, tensor in ours.weights.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(tensor, shipped.weights[name], rtol=0, atol=1e-6)
    other = run_command(main, "--model", "tsernet-xs", "--data", steel, "--init", tmp_path / "run" / "best.pt")
    assert_one_line(other, "holds minet, not tsernet-xs")
    none = run_command(main, "--model", "csepnet", "--data", steel, "--init", "default")
    assert_one_line(none, "no checkpoint of csepnet comes with sdi")


def test_resume_without_a_run_is_refused(run_command: Run, tmp_path: Path) -> None:
    assert_one_line(run_command(main, "--resume", tmp_path), f"checkpoint {tmp_path / 'last.pt'} does not exist")


def test_resume_from_what_cannot_be_resumed_is_refused(run_command: Run, steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_command(main, *TINY, "--data", steel, "--val", "none", "-o", run, "--limit-steps", 1)
    given = ("--data", steel, "--device", "cpu")
    assert_one_line(run_command(main, "--resume", run / "best.pt", *given), "resume from last.pt")
    value = torch.load(run / "best.pt", weights_only=True)
    torch.save({**value, "training": {"imported_from": "x.pth"}}, run / "best.pt")
    assert_one_line(run_command(main, "--resume", run / "best.pt", *given), "was not trained by sdi-train")


def test_help_shows_an_example(run_command: Run) -> None:
    code, out, _ = run_command(main, "--help")
    assert code == 0
    assert "sdi-train --model minet --recipe quick --data SD-saliency-900" in out
