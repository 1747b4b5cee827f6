"""The manners all commands share: results on stdout, logs on stderr, errors as one line and an exit code."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import typer
from rich.console import Console

from sdi.runtime.errors import SdiError

__all__ = ["log", "out", "print_json", "run_app", "single_command"]

out = Console(highlight=False, soft_wrap=True)
log = Console(stderr=True, highlight=False, soft_wrap=True)


def single_command(function: Any) -> typer.Typer:
    """A typer application with one command, `--help` kept in the order it was written."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(function)
    return app


def run_app(app: typer.Typer) -> None:
    """Run a command and leave the process with its exit code.

    An `SdiError` is what a user or a device caused: its text alone is shown. Anything else is a bug of ours
    and keeps its traceback.
    """
    try:
        app()
    except SdiError as error:
        log.print(f"[bold red]error:[/] {_escape(str(error))}")
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        # The reader of our stdout (`| head`) went away; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def print_json(value: Any) -> None:
    """One JSON document on stdout, for machines."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
