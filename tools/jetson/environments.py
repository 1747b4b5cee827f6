"""Environments of the lean runtime with the libraries that a Jetson has, on a machine that is none."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tools.jetson.recipe import ROOT, VERSIONS, StepError, call, declared, made_once, pinned, write_commands

__all__ = ["ENVIRONMENTS", "environment"]

TESTS = ["hypothesis>=6.100", "onnx>=1.17", "pytest>=8", "pytest-xdist>=3.6", "scipy"]  # what the runtime's tests need
_RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}  # of uv
ENVIRONMENTS = {
    "lowest": "the lowest declared version of every dependency",
    "jetpack6": f"JetPack 6's set: {', '.join(pinned())}",
    "newest": "the newest version of every dependency",
    "gstreamer": "Debian's OpenCV, which has GStreamer",
}


def environment(name: str, cache: Path) -> Path:
    """The folder of one of `ENVIRONMENTS`; made where it is not there yet. The newest is made anew each time.

    Raises:
        StepError: something cannot be installed.
    """
    debian = name == "gstreamer"
    python = Path("/usr/bin/python3") if debian else _interpreter(name)
    packages = [*pinned(), *declared()]
    if debian:  # a wheel of OpenCV would hide Debian's
        packages = [package for package in packages if not package.startswith("opencv")]
    recipe = {"python": str(python), "packages": packages, "tests": TESTS}
    if name in _RESOLUTIONS:
        recipe["packages"] = [(ROOT / "pyproject.toml").read_text()]

    def make(folder: Path) -> None:
        advice = "is python3-venv installed, and does pip reach its index?"
        call([python, "-m", "venv", *(["--system-site-packages"] if debian else []), folder], advice)
        inside = folder / "bin" / "python"
        if name in _RESOLUTIONS:
            uv: list[str | Path] = [Path(sys.executable).with_name("uv"), "pip"]
            install: list[str | Path] = [*uv, "install", "--quiet", "--python", inside]
            project: list[str | Path] = ["-r", ROOT / "pyproject.toml", "--extra", "cpu", "--extra", "line"]
            call([*install, "--resolution", _RESOLUTIONS[name], *project], advice)
            # The tests' own tools must not lift what is under test.
            held = folder / "held.txt"
            held.write_text(call([*uv, "freeze", "--python", inside], advice))
            call([*install, "-c", held, *TESTS], advice)
        else:
            pip: list[str | Path] = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            call([*pip, *packages, *TESTS], advice)
        write_commands(folder)

    if name == "newest":
        shutil.rmtree(cache / name, ignore_errors=True)
    return made_once(cache / name, recipe, make)


def _interpreter(name: str) -> Path:
    """JetPack 6's Python where there is one, for the newest packages the newest; else the one that runs this."""
    wanted = ["3.13", "3.12"] if name == "newest" else [VERSIONS["jetpack6"]["python"]]
    for version in wanted:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
        found = [*pyenv[-1:], *([Path(path)] if (path := shutil.which(f"python{version}")) else [])]
        for python in found:
            try:
                call([python, "-c", "import venv"], "")
            except StepError:  # pyenv's shim of a version that is not active
                continue
            return python
    return Path(sys.executable)
