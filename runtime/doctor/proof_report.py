"""The report of `sdi-doctor --prove`: one page for people and one file for machines, which say the same."""

from __future__ import annotations

import html
import json
import platform
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdi.runtime.common.files import write_text
from sdi.runtime.common.output_folder import safe_name
from sdi.runtime.doctor.finding import Finding
from sdi.runtime.doctor.prove import Outcome, Proof

__all__ = ["proof_to_dict", "write_proof"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .8em; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #888 } td { border-bottom: 1px solid #ddd } td.n { text-align: right }
pre { background: #f4f4f4; overflow-x: auto; padding: .6em } .failed, .fault { color: #b00020; font-weight: bold }
.passed, .ok { color: #1b6e1b } .skipped, .note { color: #8a6d00 }
"""


def write_proof(folder: Path, proof: Proof, findings: Sequence[Finding]) -> list[Path]:
    """Write proof.json and proof.html into `folder`; answers their paths."""
    facts = proof_to_dict(proof, findings)
    paths = [folder / "proof.json", folder / "proof.html"]
    write_text(paths[0], json.dumps(facts, indent=2) + "\n")
    write_text(paths[1], _page(facts))
    return paths


def proof_to_dict(proof: Proof, findings: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values."""
    failed = [outcome.step.name for outcome in proof.failed]
    logs = [f"steps/{safe_name(outcome.step.name)}.txt" for outcome in proof.failed]
    return {
        "format": "sdi-proof",
        "format_version": 1,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "gpu": proof.gpu.name,
            "compute_capability": proof.gpu.compute_capability,
            "integrated": proof.gpu.integrated,
            "system": platform.platform(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
        "passed": not failed,
        "failed": failed,
        "send_back": ["proof.json", "proof.html", *logs],
        "fast": _speeds(proof.outcomes),
        "findings": [asdict(finding) for finding in findings],
        "steps": [
            {
                "name": outcome.step.name,
                "kind": outcome.step.kind,
                "status": outcome.status,
                "seconds": round(outcome.seconds, 3),
                "exit_code": outcome.exit_code,
                "command": shlex.join(outcome.step.command),
                "said": outcome.said,
                "answer": outcome.answer,
            }
            for outcome in proof.outcomes
        ],
    }


def _speeds(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Engines by their median, the fastest first."""
    rows = [
        {
            "engine": Path(row["engine"]).name,
            "size": row["size"],
            "p50_ms": row["p50_ms"],
            "p99_ms": row["p99_ms"],
            "device_p50_ms": row.get("device_p50_ms"),
            "throttled": row.get("throttled"),
        }
        for outcome in outcomes
        if outcome.step.kind == "bench" and outcome.answer
        for row in outcome.answer["engines"]
    ]
    return sorted(rows, key=lambda row: float(row["p50_ms"]))


def _page(facts: dict[str, Any]) -> str:
    machine = facts["machine"]
    title = (
        f"{machine['gpu']}: {'all steps passed' if facts['passed'] else str(len(facts['failed'])) + ' steps failed'}"
    )
    files = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in facts["send_back"])
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{facts['made']}</p>",
        _table(("machine", ""), [(name.replace("_", " "), value) for name, value in machine.items()]),
        f"<h2>What to send back</h2><ul>{files}</ul>",
        "<h2>What is fast</h2>",
        _table(
            ("engine", "frame", "p50 ms", "p99 ms", "on the device, p50 ms", "throttled"),
            [tuple(row.values()) for row in facts["fast"]],
        ),
        "<h2>Steps</h2>",
        _table(
            ("step", "status", "seconds", "exit code"),
            [(step["name"], step["status"], step["seconds"], step["exit_code"]) for step in facts["steps"]],
        ),
        *(_details(step) for step in facts["steps"] if step["status"] != "passed"),
        "<h2>The machine, as sdi-doctor sees it</h2>",
        _table(
            ("check", "status", "found", "remedy"),
            [(each["check"], each["status"], each["found"], each["fix"]) for each in facts["findings"]],
        ),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _details(step: dict[str, Any]) -> str:
    return (
        f"<h3>{html.escape(step['name'])}: {step['status']}</h3><pre>$ {html.escape(step['command'])}\n"
        f"{html.escape(step['said'])}</pre>"
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="n">{value:.2f}</td>'
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    known = text if text in ("passed", "failed", "skipped", "ok", "note", "fault") else ""
    return f'<td class="{known}">{html.escape(text)}</td>'
