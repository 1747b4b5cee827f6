"""The manners all commands share: results on stdout, logs on stderr, errors as one line and an exit code."""

from __future__ import annotations

import functools
import io
import json
import os
import sys
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from sdi.runtime.errors import SdiError

__all__ = ["escape", "log", "out", "print_json", "run_app", "single_command"]

# What users name their files is no markup and no emoji code: `escape` it where it is printed.
out = Console(highlight=False, soft_wrap=True, emoji=False)
log = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


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

    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    return app


def run_app(app: typer.Typer) -> None:
    """Run a command and leave the process with its exit code.

    An `SdiError` is what a user or a device caused: its text alone is shown. Anything else is a bug of ours
    and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text at all
    try:
        app()
    except SdiError as error:
        log.print(f"[bold red]error:[/] {escape(str(error))}")
        raise SystemExit(error.exit_code) from None


def print_json(value: Any) -> None:
    """One JSON document on stdout, for machines."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()
