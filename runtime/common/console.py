"""What all commands share: results on stdout, logs on stderr, errors as one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import sys
import traceback
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from sdi.runtime.common.errors import SdiError

__all__ = ["log", "out", "print_json", "run_app", "single_command", "warn"]

# Without markup and emoji codes: what users name their files is printed as it is.
out = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
log = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


# What a missing package belongs to.
_EXTRA_OF = {
    "torch": "export",
    "torchvision": "export",
    "lightning_fabric": "train",
    "py_sod_metrics": "eval",
    "jinja2": "eval",
    "matplotlib": "eval",
    "onnx": "export",
    "onnxscript": "export",
    "tomli": "export",
    "onnxruntime": "cpu",
    "cv2": "opencv",
    "paho": "line",
    "prometheus_client": "line",
}
_BUG = 70  # EX_SOFTWARE of sysexits.h


def warn(text: str, label: str = "warning:", style: str = "yellow") -> None:
    """One line on stderr behind a coloured label."""
    log.print(Text.assemble((label, style), f" {text}"))


def single_command(function: Any) -> typer.Typer:
    """A typer application with one command, `--help` kept in the order it was written."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except BrokenPipeError:
            # The reader of our stdout (`| head`) went away, which typer would take for a failed gate; Python would
            # complain again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    command.__doc__ = _paragraphs(function.__doc__ or "")
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    return app


def run_app(app: typer.Typer) -> None:
    """Run a command and leave the process with its exit code.

    A user or a device caused an `SdiError`, so only its text is shown. So it is with errors of the system, e.g. a full
    disk, and with packages that are not installed. Anything else is a bug of ours: it keeps its traceback and the exit
    code 70, so that nobody takes it for a failed gate.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text at all
    try:
        app()
    except Exception as error:
        text = _explanation(error)
        if text is None:
            traceback.print_exc()
            raise SystemExit(_BUG) from None
        warn(text, "error:", "bold red")
        raise SystemExit(getattr(error, "exit_code", 2)) from None


def print_json(value: Any) -> None:
    """One JSON document on stdout, for machines."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def _explanation(error: Exception) -> str | None:
    """The text for an error; None where it is our own bug."""
    if isinstance(error, SdiError | OSError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        return f"{error.name} is not installed: pip install 'sdi[{extra}]'" if extra else None
    return None


def _paragraphs(text: str) -> str:
    """A docstring whose lines are joined within each paragraph, so that help fills whatever width there is."""
    blocks = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(block if block.startswith(" ") else " ".join(block.split()) for block in blocks)
