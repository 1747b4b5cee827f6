"""`sdi` and `python -m sdi`: the list of commands, and a way to each of them: `sdi run` is `sdi-run`."""

from __future__ import annotations

import difflib
import sys
from importlib.metadata import entry_points
from typing import NoReturn

from sdi import __version__
from sdi.runtime.common.console import out, warn

__all__ = ["COMMANDS", "main"]

# In the order in which a network comes to the line.
COMMANDS = {
    "train": "train a network on pictures and masks",
    "import": "take over a checkpoint that a paper's authors published",
    "eval": "score an engine, a checkpoint or a folder of maps",
    "calibrate": "choose the pictures that INT8 ranges are measured on",
    "export": "make an ONNX file, and a TensorRT plan, of a checkpoint",
    "parity": "prove that an engine answers what PyTorch answers",
    "run": "find defects in pictures, a video, a stream or a camera",
    "bench": "measure engines on this machine",
    "doctor": "tell what works on this machine, and what mends the rest",
}


def main() -> None:
    """Entry point of `sdi`."""
    first, *rest = sys.argv[1:] or ["--help"]
    if first in ("-h", "--help"):
        out.print(_help())
    elif first == "--version":
        out.print(f"sdi {__version__}")
    elif first.removeprefix("sdi-") in COMMANDS:
        _run(f"sdi-{first.removeprefix('sdi-')}", rest)
    else:
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f"did you mean 'sdi {near[0]}'?" if near else f"known: {', '.join(COMMANDS)}"
        _refuse(f"sdi has no command '{first}'; {hint}")


def _help() -> str:
    lines = [f"sdi {__version__}: steel-defect networks, from training to the camera", ""]
    lines += [f"  sdi {name:<10} {what}" for name, what in COMMANDS.items()]
    lines += ["", "Each is also a program of its own, e.g. sdi-run; --help after a command explains it."]
    return "\n".join(lines)


def _run(program: str, arguments: list[str]) -> None:
    """Become `program`, as pyproject.toml declares it."""
    found = list(entry_points(group="console_scripts", name=program))
    if not found:
        _refuse(f"{program} is not installed here: pip install sdi (in a checkout: pip install -e .)")
    sys.argv = [program, *arguments]
    sys.modules["__main__"].__package__ = ""  # else its help calls it "python -m sdi.sdi-run"
    found[0].load()()


def _refuse(text: str) -> NoReturn:
    warn(text, "error:", "bold red")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
