"""What the place-of-use environments are made of, and the folder that keeps them between runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ROOT", "VERSIONS", "StepError", "cache_folder", "call", "declared", "made_once", "pinned", "write_commands"]

ROOT = Path(__file__).resolve().parents[2]
VERSIONS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("versions.toml").read_text())
COMMANDS = {"sdi-run": "run", "sdi-doctor": "doctor", "sdi-bench": "bench"}


class StepError(Exception):
    """A step failed; the text says which one and what mends it."""


def cache_folder() -> Path:
    """$SDI_JETSON_CACHE, else sdi/jetson in the user's cache."""
    given = os.environ.get("SDI_JETSON_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdi" / "jetson"


def declared() -> list[str]:
    """What the lean runtime needs besides JetPack 6's set, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = [*project["dependencies"], *project["optional-dependencies"]["line"]]
    return [text for text in wanted if not text.startswith(tuple(VERSIONS["tried"]))]


def pinned() -> list[str]:
    """JetPack 6's set as pip takes it: "numpy==1.26.4" and so on."""
    return [f"{name}=={version}" for name, version in VERSIONS["tried"].items()]


def call(command: list[str | Path], advice: str, **options: Any) -> str:
    """Run a command; its stdout.

    Raises:
        StepError: it is not there or fails; with the end of what it said, and `advice`.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    except OSError as error:
        raise StepError(f"{words[0]} cannot be run: {error.strerror}; {advice}") from error
    if done.returncode != 0:
        said = "\n  ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-8:])
        raise StepError(f"{' '.join(words[:4])} ... failed ({done.returncode}); {advice}\n  {said}")
    return done.stdout


def made_once(folder: Path, recipe: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder, made by `make` unless it is there, complete, and of the same recipe."""
    stamp, wanted = folder / ".recipe.json", json.dumps(recipe, sort_keys=True)
    if stamp.is_file() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    beside = folder / ".recipe.part"
    beside.write_text(wanted)
    beside.replace(stamp)  # last: a folder without it is not complete
    return folder


def write_commands(folder: Path) -> None:
    """sdi-run and its kin beside FOLDER/bin/python. They run the checkout that PYTHONPATH names, so it may change."""
    for name, room in COMMANDS.items():
        script = folder / "bin" / name
        script.write_text(
            f"#!{folder}/bin/python\nimport sys\nfrom sdi.runtime.{room}.cli import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
