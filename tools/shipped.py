"""`python -m tools.shipped`: the engines that come with sdi, made anew from train/weights.

Exports each engine of runtime/shipped/shipped.json, INT8 after a new choice of calibration pictures, scores all of them
on the test pictures, and only then replaces engines, manifests and shipped.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sdi.runtime.common.console import log, run_app, single_command
from sdi.runtime.common.errors import GateError, InputError
from sdi.runtime.common.files import write_text
from sdi.runtime.engine.manifest import manifest_path, read_manifest

ROOT = Path(__file__).parent.parent
_SHIPPED = ROOT / "runtime" / "shipped"
_WEIGHTS = ROOT / "train" / "weights"
_SCORES = ("S", "maxF", "MAE")
_COMMANDS = {
    "sdi-calibrate": "sdi.calibration.cli",
    "sdi-export": "sdi.export.cli",
    "sdi-eval": "sdi.train.eval_cli",
}


def shipped_command(
    data: Annotated[Path, typer.Option(envvar="SDI_DATA", help="Folder of SD-saliency-900.")],
    only: Annotated[list[str] | None, typer.Option(help="Names of sdi-run --list; default: all.")] = None,
) -> None:
    """Make the engines that come with sdi from train/weights, score them, and replace those in runtime/shipped."""
    listed = json.loads((_SHIPPED / "shipped.json").read_text())
    chosen = [item for item in listed if not only or item["name"] in only]
    if only and len(chosen) < len(set(only)):
        raise InputError(f"--only takes {', '.join(item['name'] for item in listed)}; got {', '.join(only)}")
    with tempfile.TemporaryDirectory(prefix="sdi-shipped-") as scratch:
        folder = Path(scratch)
        calibration = folder / "calibration"
        for item in chosen:
            _export(item["file"], data, folder, calibration)
            shown = _run("sdi-eval", "--engine", folder / item["file"], "--data", data, "--json")
            scores = json.loads(shown)["scores"]["all"]
            item["scores"] = {name: round(scores[name], 4) for name in _SCORES}
            log.print(f"{item['name']}: {item['scores']}")
        for item in chosen:
            for path in (folder / item["file"], manifest_path(folder / item["file"])):
                shutil.copyfile(path, _SHIPPED / path.name)
        rows = ",\n".join("  " + json.dumps(item) for item in listed)
        write_text(_SHIPPED / "shipped.json", f"[\n{rows}\n]\n")


def _export(name: str, data: Path, folder: Path, calibration: Path) -> None:
    """The engine of a file's name, of the precision that its present manifest tells."""
    before = read_manifest(_SHIPPED / name)
    if before is None:
        raise InputError(f"{_SHIPPED / name} has no manifest, so nobody knows what it was made of; check it out again")
    options: list[object] = [f"--{before.precision}"]
    if before.precision == "int8":
        if not calibration.is_dir():
            names = data / "train.txt"
            _run("sdi-calibrate", "--images", data / "Source Images", "--names", names, "-o", calibration)
        rest = before.quantisation.get("rest", "fp16")
        options += ["--calibration", calibration, "--validation", data, "--rest", rest]
    weights = _WEIGHTS / f"{before.model}.pt"
    _run("sdi-export", "--checkpoint", weights, *options, "--target", "onnx", "-o", folder)
    if not (folder / name).is_file():
        raise GateError(f"sdi-export made no {name} of {weights}; is it named otherwise now?")


def _run(command: str, *arguments: object) -> str:
    """One of our commands in a process of its own; answers its stdout."""
    code = f"from {_COMMANDS[command]} import main; main()"
    log.print(f"{command} {' '.join(map(str, arguments))}")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise GateError(f"{command} failed with {done.returncode}; nothing was replaced")
    return done.stdout


if __name__ == "__main__":
    run_app(single_command(shipped_command))
