"""`sdi-run --list`: the engines that come with sdi, scored, and timed on this machine."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from sdi.runtime.common.console import log, out, print_json

__all__ = ["list_engines"]

_SECONDS = 0.5  # that each engine is timed for, in turns


def list_engines(device: str, threads: int | None, json: bool) -> None:
    """Print name, size, scores and speed of each.

    Raises:
        InputError: a file of the package is damaged.
        DeviceError: the device asked for is not there.
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
        table.add_row(row["name"], row["precision"], size, f"{row['bytes'] / 1e6:.1f}", *scores, f"{row['ms']:.1f}")
    out.print(table)
    device_said = rows[0]["device"]
    log.print(
        f"scores: SD-saliency-900's 360 test pictures; ms: a frame, median of {_SECONDS} s in turns, on {device_said}"
    )


def _measured(device: str, threads: int | None) -> list[dict[str, Any]]:
    import numpy as np

    from sdi.runtime.bench.measure import strip_frames, time_calls
    from sdi.runtime.engine.open import open_engine
    from sdi.runtime.engine.shipped import shipped_engines

    shipped = shipped_engines()
    with ExitStack() as stack, log.status("timing"):
        engines = [stack.enter_context(open_engine(item.path, device, threads)) for item in shipped]
        calls = [
            partial(engine, strip_frames(engine.frame_hw or engine.manifest.network_hw)[0])  # type: ignore[union-attr]
            for engine in engines
        ]
        times = time_calls(calls, _SECONDS, warmup=2)
    rows = []
    for item, engine, values in zip(shipped, engines, times, strict=True):
        manifest = engine.manifest
        assert manifest is not None  # a test holds the package to it
        rows.append(
            {
                "name": item.name,
                "model": manifest.model,
                "precision": manifest.precision,
                "frame_hw": list(engine.frame_hw or manifest.network_hw),
                "bytes": manifest.bytes,
                "scores": item.scores,
                "ms": float(np.median(values)),
                "device": engine.device,
                "path": str(item.path),
            }
        )
    return rows
