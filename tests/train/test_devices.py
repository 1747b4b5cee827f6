"""What several processes on a CPU do, run as a user runs them, and devices that cannot be had."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import load_checkpoint
from sdi.train.data import find_pairs, load_samples
from sdi.train.devices import open_fabric
from sdi.train.models import build_model
from sdi.train.start import recipe_of_model
from sdi.train.trainer import Setup, Trainer
from support import command

NAMES = [f"{defect}_{i}" for i in range(4) for defect in ("In", "Pa")]
# Two processes, each with the smallest share that batch norm can do with.
TWO = (*("--model", "minet", "--recipe", "quick", "--size", 32, "--batch", 4, "--val", "none"), "--devices", 2)

needs_two_cores = pytest.mark.skipif(
    (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) < 2,
    reason="two processes need two CPU cores",
)


@pytest.fixture
def steel(steel_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SDI_DATA", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return steel_tree(NAMES)


@contextmanager
def training(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`sdi-train` on the CPU, ended with the block at the latest."""
    program = str(Path(sys.executable).with_name("sdi-train"))
    process = subprocess.Popen(
        [program, *map(str, arguments), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(300, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


def wait_for_epoch(n: int, process: subprocess.Popen[str]) -> str:
    """What the process logs until it has trained `n` epochs, and saved all but the last of them."""
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if line.startswith(f"epoch {n}:"):
            break
    return log


@needs_two_cores
def test_two_processes_give_what_one_gives_in_two_parts(steel: Path, tmp_path: Path) -> None:
    """Dropout, batch norm and schedule included."""
    done = command("sdi-train", *TWO, "--device", "cpu", "--data", steel, "--epochs", 2, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two' / 'best.pt'}\n"  # once, from the first process
    assert "minet 32x32 on 2 x cpu: 8 pictures" in done.stderr
    assert done.stderr.count("it starts from random weights") == 1
    changes = {"input_hw": (32, 32), "batch_size": 4, "accumulate": 2, "epochs": 2, "validation": "none"}
    recipe = recipe_of_model("minet", "quick", changes)
    torch.manual_seed(recipe.seed)
    (tmp_path / "one").mkdir()
    samples = load_samples(find_pairs(steel, "train"))
    one = Trainer("minet", build_model("minet"), recipe, samples, [], tmp_path / "one", Setup(open_fabric("cpu")))
    assert one.fit()
    for name in ("best.pt", "last.pt"):
        single, double = (load_checkpoint(tmp_path / run / name) for run in ("one", "two"))
        assert single.weights.keys() == double.weights.keys()
        for key, tensor in single.weights.items():
            if tensor.is_floating_point():  # one process counts each part as a batch
                torch.testing.assert_close(double.weights[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
    assert double.training["recipe"] == {**single.training["recipe"], "accumulate": 1}
    assert double.training["state"]["step"] == one.step == 4


@needs_two_cores
def test_a_signal_to_the_first_process_ends_and_saves_both(steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(*TWO, "--data", steel, "--epochs", 100000, "-o", run) as process:
        log = wait_for_epoch(1, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert process.returncode == 130, log + err
    assert out == f"{run / 'best.pt'}\n"
    assert "Traceback" not in log + err
    assert err.count("finishing the step") == 1
    step = load_checkpoint(run / "last.pt").training["state"]["step"]
    assert f"stopped at step {step} of 200000" in err


@needs_two_cores
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the other process in /proc")
def test_a_lost_process_is_a_clear_error(steel: Path, tmp_path: Path) -> None:
    with training(*TWO, "--data", steel, "--epochs", 100000, "-o", tmp_path / "run") as process:
        wait_for_epoch(2, process)
        (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(other), signal.SIGKILL)
        out, err = process.communicate()
        assert (process.returncode, out) == (3, ""), err
    assert "Traceback" not in err
    assert "error: training stopped: one of the 2 processes was lost; go on from the last epoch with --resume" in err
    assert load_checkpoint(tmp_path / "run" / "last.pt").training["state"]["step"] >= 2


@needs_two_cores
def test_a_loss_that_is_no_number_ends_both_and_keeps_the_whole_batch(steel: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(*TWO, "--data", steel, "--lr", 1e30, "-o", run) as process:
        out, err = process.communicate()
        assert (process.returncode, out) == (1, ""), err
    assert "Traceback" not in err
    assert len(re.findall("the loss is .* at step", err)) == 1
    with np.load(run / "bad-batch.npz") as batch:
        assert batch["frames"].shape == (4, 32, 32, 3)
        assert batch["masks"].shape == (4, 1, 32, 32)


def test_more_devices_than_there_are_is_refused() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with pytest.raises(InputError, match=f"--devices 1000 cannot be had: {cores} CPU cores here; use --devices"):
        open_fabric("cpu", 1000)


def test_a_precision_that_the_device_has_not_is_refused() -> None:
    with pytest.raises(InputError, match="--precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32"):
        open_fabric("cpu", precision="16-mixed")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="--device abacus cannot be used here"):
        open_fabric("abacus")
