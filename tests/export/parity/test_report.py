"""Reports as the programs that read them do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sdi.export.parity.metrics import METRICS
from sdi.export.parity.report import html_report, junit_report, markdown_report, write_reports
from sdi.export.parity.result import CandidateResult, Divergence, GateResult, Layer, PictureMetrics, Row
from sdi.runtime.common.images import write_image

GOOD = Row("max", 0.01, 0.1, False, "half has 11 bits")
BAD = Row("iou", 0.5, 0.9, True, "an edge a pixel off")
PICTURES = (
    PictureMetrics("In_1", 100, max=0.01, mean=0.001, iou=1.0, regions=1.0, peak=0.0),
    PictureMetrics("Sc_2", 100, max=0.90, mean=0.2, iou=0.25, regions=0.5, peak=0.3),
)
LEVELS = {"1": 0.0, "50": 0.01, "99": 0.98}


@pytest.fixture
def result(tmp_path: Path) -> GateResult:
    """One candidate that passes, one that fails with evidence and a layer, and one that cannot run here."""
    picture = tmp_path / "a|b.onnx-Sc_2.png"
    write_image(picture, np.full((20, 60, 3), 90, np.uint8))
    divergence = Divergence(
        "Sc_2", 0.1, 300, (Layer("encoder.2", "conv2d_3", "Conv", 1.5, 0.1),), "encoder.2", "conv2d_3", "Conv",
        share=0.9, error=1.5, inputs_error=1e-6,
    )  # fmt: skip
    common: dict[str, Any] = {
        "pictures": PICTURES, "quantiles": {"reference": LEVELS, "engine": LEVELS}, "metrics": {"slope": 0.8},
    }  # fmt: skip
    candidates = (
        CandidateResult("good.onnx", "onnx", "good.onnx", "1" * 64, "fp16", 0.012, (GOOD,), **common),
        CandidateResult(
            "a|b.onnx", "onnx", "a|b.onnx", "2" * 64, "int8", 0.01, (GOOD, BAD),
            evidence=(str(picture),), divergence=divergence, notes=("<script>alert(1)</script>",), **common,
        ),
        CandidateResult("c.plan", "plan", "c.plan", "3" * 64, "fp16", unavailable="no \x1b[31mGPU here"),
    )  # fmt: skip
    machine = {"system": "Linux", "versions": {"torch": "2"}, "made": "2026-01-02T03:04:05Z"}
    return GateResult("minet", {"file": "best.pt", "sha256": "0" * 64}, 0.5, 2, False, candidates, machine)


def test_junit_has_a_case_for_each_metric(result: GateResult) -> None:
    root = ElementTree.fromstring(junit_report(result))
    assert (root.tag, root.attrib) == (
        "testsuites",
        {"name": "sdi-parity", "tests": "4", "failures": "1", "errors": "1"},
    )
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["minet: good.onnx", "minet: a|b.onnx", "minet: c.plan"]
    assert [case.get("name") for case in suites["minet: a|b.onnx"]] == ["max difference", "mask IoU"]
    (failure,) = suites["minet: a|b.onnx"].iter("failure")
    assert failure.get("message") == "mask IoU 0.5 is under 0.9"
    for text in ("an edge a pixel off", "worst picture Sc_2", "first to differ: encoder.2"):
        assert text in (failure.text or "")
    (error,) = suites["minet: c.plan"].iter("error")
    assert error.get("message") == "no ?[31mGPU here"  # XML has no escape characters
    for suite in root:
        assert int(suite.attrib["tests"]) == len(list(suite.iter("testcase")))
        assert int(suite.attrib["failures"]) == len(list(suite.iter("failure")))


def test_markdown_is_one_table_that_file_names_cannot_break(result: GateResult) -> None:
    lines = markdown_report(result).splitlines()
    assert lines[0] == "## Parity of minet: FAILED"
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(row) for row in table} == {3}
    assert [cell.strip() for cell in table[0]] == ["metric", "good.onnx (fp16)", r"a\|b.onnx (int8)"]
    rows = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in table[2:]}
    assert rows == {
        "max difference": ["1.0e-02 ≤ 0.1", "1.0e-02 ≤ 0.1"],
        "mask IoU": ["", "**0.5000 ≥ 0.9 FAILED**"],
    }
    text = "\n".join(lines)
    assert "c.plan cannot be compared here" in text
    assert "<script>" not in text.replace(r"\<script\>", "")


def test_a_passed_gate_says_so(result: GateResult) -> None:
    passed = replace(result, candidates=result.candidates[:1])
    assert markdown_report(passed).startswith("## Parity of minet: passed\n")
    assert "<title>Parity of minet</title>" in html_report(passed)
    assert ElementTree.fromstring(junit_report(passed)).get("failures") == "0"


def test_the_page_needs_no_other_file_and_runs_nothing(result: GateResult) -> None:
    page = html_report(result)
    assert page.count("data:image/png;base64,") == 1
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    for text in (
        "half has 11 bits",
        "an edge a pixel off",
        "first to differ: encoder.2",
        "Sc_2",
        "GPU here",
        "12.0 ms",
    ):
        assert text in page
    assert all(METRICS[row.metric].title in page for row in (GOOD, BAD))


def test_json_is_the_result(result: GateResult, tmp_path: Path) -> None:
    absent = replace(result.candidates[2], unavailable="no GPU here")
    result = replace(result, candidates=(*result.candidates[:2], absent))
    (tmp_path / "out").mkdir()
    paths = write_reports(tmp_path / "out", result)
    assert [path.name for path in paths] == ["parity.json", "parity.xml", "parity.md", "parity.html"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    assert GateResult.from_dict(json.loads(paths[0].read_text(encoding="utf-8"))) == result


def test_reports_come_all_or_none(result: GateResult, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    failing = replace(result.candidates[1], evidence=(*result.candidates[1].evidence, str(tmp_path / "gone.png")))
    result = replace(result, candidates=(result.candidates[0], failing))
    with pytest.raises(FileNotFoundError):
        write_reports(tmp_path / "out", result)
    assert list((tmp_path / "out").iterdir()) == []
