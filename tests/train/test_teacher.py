"""Distillation: what a teacher says is what it would answer, and a student that hears nothing else follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.train.checkpoint import load_checkpoint, load_network, save_checkpoint
from sdi.train.cli import main
from sdi.train.data import Sample
from sdi.train.devices import open_fabric
from sdi.train.models import build_model
from sdi.train.preprocess import Normalise
from sdi.train.recipe import Recipe
from sdi.train.teacher import Teachers
from sdi.train.trainer import Setup, Trainer
from support import lively_checkpoint

Run = Callable[..., tuple[int, str, str]]
TINY = ("--model", "minet", "--recipe", "quick", "--size", 32, "--batch", 2, "--device", "cpu", "--threads", 1)


def test_teachers_answer_the_mean_of_their_maps_each_preprocessed_as_it_was_trained(tmp_path: Path) -> None:
    names = []
    for model in ("minet", "tsernet-xs"):
        save_checkpoint(tmp_path / f"{model}.pt", lively_checkpoint(model, 32))
        names.append(tmp_path / f"{model}.pt")
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    expected = []
    for name in names:
        checkpoint = load_checkpoint(name)
        network = load_network(checkpoint)
        with torch.inference_mode():
            expected.append(network(Normalise(checkpoint.preprocessing)(frames))[network.primary])
    answer = Teachers(names)(frames)
    assert answer.shape == (2, 1, 64, 64)
    assert not answer.requires_grad
    torch.testing.assert_close(answer, torch.stack(expected).mean(dim=0))
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


def test_a_student_of_the_teacher_alone_learns_what_the_masks_do_not_say(tmp_path: Path) -> None:
    """The masks are empty, and the teacher sees something everywhere."""
    empty = [
        Sample(f"In_{i}", draw_strip(DEFECTS[i % 3], i, (32, 32))[0], np.zeros((32, 32), np.uint8)) for i in range(8)
    ]
    recipe = Recipe(learning_rate=1e-2, input_hw=(32, 32), epochs=30, batch_size=4, distil=1.0)
    file = tmp_path / "teacher.pt"
    save_checkpoint(file, lively_checkpoint("minet", 32))
    frames = torch.from_numpy(np.stack([sample.image for sample in empty]))
    taught = float(Teachers([file])(frames).mean())
    assert taught > 0.3
    bright = []
    for teachers in (None, Teachers([file])):
        torch.manual_seed(0)
        run = tmp_path / str(len(bright))
        run.mkdir()
        fabric = open_fabric("cpu", precision="32")
        trainer = Trainer("minet", build_model("minet"), recipe, empty, [], run, Setup(fabric, teachers=teachers))
        assert trainer.fit()
        with torch.inference_mode():
            bright.append(float(trainer.network.eval()(trainer.engine_module.normalise(frames))["s1"].mean()))
    assert bright[0] < 0.1
    assert bright[1] == pytest.approx(taught, abs=0.1)
    assert load_checkpoint(run / "best.pt").training["teachers"] == list(Teachers([file]).files.values())


def test_a_run_is_resumed_with_its_teachers_or_not_at_all(
    run_command: Run, steel_tree: Callable[..., Path], tmp_path: Path
) -> None:
    steel = steel_tree([f"In_{i}" for i in range(8)], ["Sc_1"])
    teacher, run = tmp_path / "teacher.pt", tmp_path / "run"
    save_checkpoint(teacher, lively_checkpoint("minet", 32))
    arguments = (*TINY, "--data", steel, "--val", "none", "--epochs", 2)
    whole = tmp_path / "whole"
    assert run_command(main, *arguments, "--teacher", teacher, "-o", whole)[0] == 0
    assert run_command(main, *arguments, "--teacher", teacher, "-o", run, "--limit-steps", 3)[0] == 0
    assert "teacher.pt" not in str(load_checkpoint(run / "best.pt").training)  # a path of this machine
    kept = teacher.read_bytes()
    save_checkpoint(teacher, lively_checkpoint("minet", 32, seed=1))
    code, _, err = run_command(main, "--resume", run, "--device", "cpu")
    assert code == 2
    assert f"the teacher {teacher} is another one now; put it back to resume" in err
    teacher.unlink()
    assert "is gone; put it back" in run_command(main, "--resume", run, "--device", "cpu")[2]
    teacher.write_bytes(kept)
    assert run_command(main, "--resume", run, "--device", "cpu", "--threads", 1)[0] == 0
    one, other = (load_checkpoint(folder / "best.pt").weights for folder in (whole, run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    code, _, err = run_command(main, "--resume", run, "--teacher", teacher)
    assert code == 2
    assert "leave out --teacher" in err


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such"):
        Teachers(["no-such"])
    with pytest.raises(InputError, match="distil must be greater than 0"):
        replace(Recipe(0.01, (32, 32)), distil=0.0)
