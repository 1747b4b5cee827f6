"""`sdi-run --list`: the engines that come with sdi, scored, and timed on this machine."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from sdi.runtime.common.console import log, out, print_json
from sdi.runtime.common.errors import SdiError

__all__ = ["list_engines"]

_SECONDS = 0.5  # for which each engine is timed, in turns


def list_engines(device: str, threads: int | None, json: bool) -> None:
    """Print name, size, scores and speed of each, and why an engine cannot run on this machine.

    Raises:
        InputError: a file of the package is damaged.
        SdiError: none of them can run, e.g. since the device asked for is not there.
    """
    rows = _measured(device, threads)
    if json:
        print_json({"engines": rows})
        return

    from rich.table import Table

    table = Table(title="engines that come with sdi; the first is the default", title_justify="left")
    table.add_column("--engine", no_wrap=True)
    for heading in ("precision", "input"):
        table.add_column(heading)
    for heading in ("MB", "S", "maxF", "MAE", "ms here"):
        table.add_column(heading, justify="right")
    for row in rows:
        scores = (f"{row['scores'][name]:.4f}".lstrip("0") for name in ("S", "maxF", "MAE"))
        size = "x".join(map(str, row["frame_hw"]))
        ms = "-" if row["ms"] is None else f"{row['ms']:.1f}"
        table.add_row(row["name"], row["precision"], size, f"{row['bytes'] / 1e6:.1f}", *scores, ms)
    out.print(table)
    timed_on = next(row["device"] for row in rows if row["device"])
    log.print(
        f"scores: SD-saliency-900's 360 test pictures; ms: a frame, median of {_SECONDS} s in turns, on {timed_on}"
    )
    for row in rows:
        if row["error"] is not None:
            log.print(f"{row['name']} cannot run here: {row['error']}", markup=False)


def _measured(device: str, threads: int | None) -> list[dict[str, Any]]:
    import numpy as np

    from sdi.runtime.bench.measure import strip_frames, time_calls
    from sdi.runtime.engine.base import Engine
    from sdi.runtime.engine.manifest import read_manifest
    from sdi.runtime.engine.open import open_engine
    from sdi.runtime.engine.shipped import shipped_engines

    rows, running, calls = [], [], []
    errors: list[SdiError] = []
    with ExitStack() as stack, log.status("timing"):
        for item in shipped_engines():
            manifest = read_manifest(item.path)
            assert manifest is not None  # a test holds the package to it
            row: dict[str, Any] = {
                "name": item.name,
                "model": manifest.model,
                "precision": manifest.precision,
                "frame_hw": list(manifest.frame_hw or manifest.network_hw),
                "bytes": manifest.bytes,
                "scores": item.scores,
                "ms": None,
                "device": None,
                "error": None,
                "path": str(item.path),
            }
            rows.append(row)
            try:
                engine: Engine = stack.enter_context(open_engine(item.path, device, threads))
                engine.self_test()
            except SdiError as error:
                errors.append(error)
                row["error"] = str(error)
                continue
            row["device"] = engine.device
            running.append(row)
            calls.append(partial(engine.whole, strip_frames((row["frame_hw"][0], row["frame_hw"][1]))[0]))
        if not running:
            raise errors[0]
        times = time_calls(calls, _SECONDS, warmup=2)
    for row, values in zip(running, times, strict=True):
        row["ms"] = float(np.median(values))
    return rows
