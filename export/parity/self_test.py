"""Golden pictures: what is left to check on the device, where neither PyTorch nor the checkpoint is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sdi.export.parity.tables import verdict
from sdi.runtime.common.console import log, out, print_json
from sdi.runtime.common.errors import GateError, InputError
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.open import open_engine

__all__ = ["self_test"]


def self_test(engines: Sequence[Path], device: str, json: bool) -> None:
    """Run the golden pictures of each engine's manifest on this device, through the runtime alone, and print the table.

    Args:
        device: for ONNX files, see `open_engine`; plans run on a GPU.
        json: print JSON instead.
    Raises:
        InputError: no engine, or one without a manifest; see also `open_engine`.
        DeviceError: an engine cannot run here.
        GateError: an answer is further off than its manifest allows.
    """
    if not engines:
        raise InputError("--self-test needs --engine FILE, several times if need be")
    table = Table(title="golden pictures", title_justify="left")
    for heading in ("engine", "on", "off by", "allowed", ""):
        table.add_column(heading, justify="left" if heading in ("engine", "on") else "right", overflow="fold")
    records: list[dict[str, Any]] = []
    for path in engines:
        manifest = read_manifest(path)
        # A plan runs on a GPU, whatever is asked for ONNX files.
        with open_engine(path, device if manifest is None or manifest.target == "onnx" else "auto") as engine:
            golden = engine.golden_check()
            if golden is None:
                raise InputError(f"no manifest beside {path}: it has no golden pictures; copy its .json too")
            records.append(
                {
                    "engine": str(path),
                    "device": engine.device,
                    "difference": golden.difference,
                    "tolerance": golden.tolerance,
                    "passed": golden.passed,
                }
            )
            table.add_row(
                path.name, engine.device, f"{golden.difference:.2f}", f"{golden.tolerance:g}", verdict(golden.passed)
            )
    if json:
        print_json({"passed": all(record["passed"] for record in records), "engines": records})
    else:
        out.print(table)
        log.print("gray levels, of the means of 8 x 8 tiles of the answers to two pictures drawn from integers")
    if failed := [Path(record["engine"]).name for record in records if not record["passed"]]:
        raise GateError(
            f"{', '.join(failed)}: the answer to a golden picture is off by more than the manifest allows; update "
            "the driver and the runtime, or export the engine again"
        )
