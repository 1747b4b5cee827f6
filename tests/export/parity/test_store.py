"""The regression store: what is kept, what is never replaced, and what fails beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdi.export.parity.plots import history_html, write_history
from sdi.export.parity.regression import (
    REGRESSION_LIMITS,
    changes,
    compare_with_baseline,
    read_regression_limits,
    regression_limits_as_toml,
)
from sdi.export.parity.result import CandidateResult, GateResult, PictureMetrics, Row, regression_in_words
from sdi.export.parity.store import Record, check_release, last_like, read_store, record_of, save_records
from sdi.export.parity.tolerances import read_tolerances
from sdi.runtime.common.errors import InputError
from sdi.runtime.engine.shipped import find_engine
from sdi.train.checkpoint import shipped_checkpoint
from support import command

MINET = find_engine("minet")


def result_of(made: str = "2026-01-01T00:00:00Z", sha256: str = "a" * 64, **metrics: float) -> GateResult:
    """A gate's result of one INT8 file, with the metrics given and good ones otherwise."""
    candidate = CandidateResult(
        "minet-int8.onnx",
        "onnx",
        "builds/minet-int8.onnx",
        sha256,
        "int8",
        seconds_per_frame=0.010,
        rows=(Row("mean", 0.002, 0.02, False, ""),),
        metrics={"S": 0.86, "MAE": 0.027, "mean": 0.002, "iou": 0.97, "saturation": 0.004, "slope": 0.996} | metrics,
        pictures=(PictureMetrics("In_1", 40_000, 0.1, 0.01), PictureMetrics("Sc_2", 40_000, 0.1, 0.01)),
        quantiles={"reference": {"50": 0.01}, "engine": {"50": 0.012}},
    )
    machine = {"system": "Linux", "cores": 2, "device": "cpu", "made": made}
    checkpoint = {"file": "best.pt", "sha256": "c" * 64}
    return GateResult("minet", checkpoint, 0.5, 2, False, (candidate,), machine, reference_seconds_per_frame=0.05)


def record(made: str = "2026-01-01T00:00:00Z", release: str = "1.0", **metrics: float) -> Record:
    result = result_of(made, sha256="a" * 64, **metrics)
    return replace(record_of(result, result.candidates[0], release), file_sha256=release.ljust(64, "0"))


def test_a_record_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    result = result_of()
    kept = record_of(result, result.candidates[0], "1.4.0")
    (path,) = save_records(tmp_path / "store", [kept])
    assert path == tmp_path / "store" / "minet-int8-onnx-1.4.0.json"
    assert read_store(tmp_path / "store") == [kept]
    assert kept.latency_ratio == pytest.approx(0.2)
    assert (kept.file, kept.file_sha256, kept.checkpoint_sha256) == ("minet-int8.onnx", "a" * 64, "c" * 64)
    assert kept.values()["S"] == 0.86
    assert record_of(result, result.candidates[0]).release == "a" * 12


def test_a_plans_record_keeps_the_spelling_of_its_format(tmp_path: Path) -> None:
    kept = replace(record(), kind="plan")
    (path,) = save_records(tmp_path, [kept])
    assert path.name == "minet-int8-engine-1.0.json"
    assert json.loads(path.read_text())["kind"] == "engine"
    assert read_store(tmp_path) == [kept]


def test_a_record_is_never_replaced(tmp_path: Path) -> None:
    first = record()
    (path,) = save_records(tmp_path, [first])
    before = path.read_bytes()
    later = replace(first, made="2026-02-02T00:00:00Z", latency_ratio=0.5)
    assert save_records(tmp_path, [later]) == [path]  # the same engine once more
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="never replaced: choose another --release"):
        save_records(tmp_path, [record(release="2.0"), replace(first, file_sha256="b" * 64)])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # all or none
    with pytest.raises(InputError, match="two engines would be recorded as minet-int8-onnx-3\\.0\\.json"):
        save_records(tmp_path, [record(release="3.0"), record(release="3.0")])
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../1", "a/b", ".hidden", "a b", "x" * 65, "1\n"])
def test_a_release_must_be_fit_for_a_files_name(name: str) -> None:
    with pytest.raises(InputError, match="cannot be part of a file's name"):
        check_release(name)


@pytest.mark.parametrize("name", ["1.4.0", "2026-01-01", "v2+cuda", "a" * 12])
def test_usual_names_of_releases(name: str) -> None:
    check_release(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is no JSON"),
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is not a record of sdi-parity"),
        ('{"schema": "another tool"}', "is not a record of sdi-parity"),
        ('{"format": "sdi-parity-record", "format_version": 2}', "has format 2, this sdi reads 1; update sdi"),
        ('{"format": "sdi-parity-record", "format_version": 1}', "is damaged: checkpoint_sha256, figures, .* missing"),
    ],
)
def test_what_is_no_record_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    save_records(tmp_path, [record()])
    (tmp_path / "stray.json").write_text(text)
    with pytest.raises(InputError, match=rf"stray\.json {complaint}"):
        read_store(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("release", 3),
        ("pictures", "many"),
        ("pictures", True),
        ("latency_ratio", "fast"),
        ("figures", {"S": "good"}),
        ("figures", [0.8]),
        ("quantiles", {"engine": 0.5}),
        ("quantiles", {"engine": {"50": None}}),
    ],
)
def test_a_damaged_field_is_named(field: str, value: object, tmp_path: Path) -> None:
    (path,) = save_records(tmp_path, [record()])
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(InputError, match=rf"is damaged: {field} is "):
        read_store(tmp_path)


def test_other_files_in_a_store_are_nobodys_business(tmp_path: Path) -> None:
    save_records(tmp_path, [record()])
    (tmp_path / "README.md").write_text("records")
    (tmp_path / ".half-written.json").write_text("{")
    assert len(read_store(tmp_path)) == 1
    with pytest.raises(InputError, match=r"cannot read store .*gone: No such file.*--record"):
        read_store(tmp_path / "gone")
    with pytest.raises(InputError, match="Not a directory"):
        read_store(tmp_path / "README.md")


def test_only_what_is_alike_is_compared() -> None:
    new = record("2026-05-01T00:00:00Z", "2.0")
    others = [
        replace(new, release="fp16", precision="fp16"),
        replace(new, release="model", model="csepnet"),
        replace(new, release="plan", kind="plan"),
        replace(new, release="pictures", pictures_sha256="d" * 64),
        replace(new, release="threshold", threshold=0.3),
    ]
    assert last_like(new, others) is None
    for other in others:
        with pytest.raises(InputError, match="cannot be compared with"):
            changes(new, other)
    old, older = record("2026-02-01T00:00:00Z", "1.1"), record("2026-01-01T00:00:00Z", "1.0")
    assert last_like(new, [*others, old, older]) == old
    assert last_like(new, [new, old, older]) == old  # recorded already: the one before it
    assert last_like(new, [new]) == new  # the first is its own baseline


@pytest.mark.parametrize("name", REGRESSION_LIMITS)
def test_each_metric_may_worsen_up_to_its_bound_and_no_further(name: str) -> None:
    rule = REGRESSION_LIMITS[name]
    assert rule.reason
    old = 0.5
    bound = rule.bound(old)
    assert bound < old if rule.at_least else bound > old
    step = -1e-6 if rule.at_least else 1e-6
    verdicts = []
    for new in (old, bound, bound + step, float("nan")):
        before, now = (replace(record(), metrics={name: value}, latency_ratio=None) for value in (old, new))
        if name == "latency_ratio":
            before, now = (replace(record(), metrics={}, latency_ratio=value) for value in (old, new))
        (change,) = changes(now, before)
        assert (change.metric, change.bound) == (name, bound)
        verdicts.append(change.passed)
    assert verdicts == [True, True, False, False]


def test_a_worse_release_fails_and_says_by_what() -> None:
    kept = [record("2025-01-01T00:00:00Z", "1.0", S=0.7), record("2025-06-01T00:00:00Z", "1.1")]
    result = result_of(S=0.85, mean=0.003, iou=0.99)
    result = compare_with_baseline(result, kept)
    (candidate,) = result.candidates
    assert not result.passed
    assert [change.metric for change in candidate.regressions] == ["S"]
    assert regression_in_words(candidate) == "worse than release 1.1: S was 0.86 and is 0.85, under 0.855"
    assert GateResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result

    result = result_of(S=0.858, mean=0.0035)
    result = compare_with_baseline(result, kept)
    assert result.passed
    assert regression_in_words(result.candidates[0]) == "no worse than release 1.1 in 6 metrics"


def test_a_first_release_has_no_baseline() -> None:
    with pytest.raises(InputError, match=r"no baseline that minet int8 .* can be compared with.*--record"):
        compare_with_baseline(result_of(), [replace(record(), precision="fp16")])


def test_a_candidate_that_was_not_compared_is_passed_over() -> None:
    result = result_of()
    absent = CandidateResult("a.plan", "plan", "a.plan", "e" * 64, "fp16", unavailable="no GPU here")
    result = compare_with_baseline(replace(result, candidates=(*result.candidates, absent)), [record()])
    assert result.candidates[0].baseline is not None
    assert result.candidates[1].baseline is None


def test_the_table_comes_back_from_its_own_print(tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text(regression_limits_as_toml(REGRESSION_LIMITS))
    assert read_regression_limits(path) == REGRESSION_LIMITS
    assert read_tolerances(path)  # the same file may hold both


def test_bounds_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text("[regression]\nS = 0.02\nmean = { room = 0.001, factor = 3, reason = 'new calibration' }\n")
    allowed = read_regression_limits(path)
    assert allowed["S"].bound(0.86) == pytest.approx(0.84)
    assert allowed["S"].reason == "set in bounds.toml"
    assert allowed["mean"].bound(0.002) == pytest.approx(0.007)
    assert allowed["MAE"] == REGRESSION_LIMITS["MAE"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("regression = 3", "expected a table"),
        ("[regression]\nspeed = 1", "regression.speed is no metric with a regression limit; known: S, "),
        ("[regression]\nS = -1", "regression.S.room is -1; expected a number of 0 or more"),
        ("[regression]\nS = nan", "expected a number"),
        ("[regression]\nS = true", "expected a number"),
        ("[regression]\nmean = { factor = inf }", "regression.mean.factor is inf"),
        ("[regression]\nS = { factor = 2 }", "regression.S.factor is unknown; expected reason, room"),
        ("[regression]\nS = { room = 1, reason = 2 }", "reason is 2; expected a text"),
        ("[regression", "is no TOML"),
    ],
)
def test_wrong_bounds_are_refused_by_name(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_regression_limits(path)


def test_the_page_shows_every_release_and_needs_nothing_beside_it() -> None:
    records = [record(f"2026-0{i}-01T00:00:00Z", f"1.{i}", S=0.8 + i / 100, clean=0.01 / i) for i in range(1, 5)]
    records.append(replace(records[-1], precision="fp16", release="1.4", model="<csepnet>"))
    page = history_html(records)
    for one in records:
        assert one.release in page
    assert "&lt;csepnet&gt;" in page
    assert page.count("data:image/svg+xml;base64,") == 2  # one for each model
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<tr>") == 2 + len(records)
    with pytest.raises(InputError, match="no record to plot"):
        history_html([])


def test_a_page_replaces_no_other_file(tmp_path: Path) -> None:
    page, notes = tmp_path / "page.html", tmp_path / "notes.html"
    write_history(page, [record()])
    write_history(page, [record(release="1.0"), record(release="1.1")])
    assert "1.1" in page.read_text()
    notes.write_text("mine")
    with pytest.raises(InputError, match="is no page of --plot; choose another or pass --overwrite"):
        write_history(notes, [record()])
    assert notes.read_text() == "mine"
    write_history(notes, [record()], overwrite=True)
    assert "1.0" in notes.read_text()
    with pytest.raises(InputError, match="cannot write"):
        write_history(tmp_path, [record()])


def test_from_release_to_release_on_the_command_line(tmp_path: Path) -> None:
    """Recorded and plotted; then compared with one that was worse, and with one that was better."""
    store, page, report = tmp_path / "store", tmp_path / "history.html", tmp_path / "report"
    given = ("--checkpoint", shipped_checkpoint("minet"), "--engine", MINET)
    done = command("sdi-parity", *given, "--record", store, "--release", "1.0", "--plot", page)
    assert done.returncode == 0, done.stderr
    (path,) = store.iterdir()
    assert path.name == "minet-fp32-onnx-1.0.json"
    assert "1.0" in page.read_text()

    def kept_as_last(iou: float) -> None:
        value = json.loads(path.read_text()) | {"release": "1.1", "file_sha256": "0" * 64, "latency_ratio": 1e6}
        value["made"] = "2100-01-01T00:00:00Z"
        value["figures"]["iou"] = iou
        (store / "minet-fp32-onnx-1.1.json").write_text(json.dumps(value))

    kept_as_last(iou=0.9)
    done = command("sdi-parity", *given, "--baseline", store, "--record", store, "--release", "1.2", "--json")
    assert done.returncode == 0, done.stderr
    (runner,) = json.loads(done.stdout)["runners"]
    assert runner["against"]["release"] == "1.1"
    assert "latency_ratio" in [row["figure"] for row in runner["against"]["rows"]]
    assert (store / "minet-fp32-onnx-1.2.json").is_file()

    kept_as_last(iou=1.5)
    done = command("sdi-parity", *given, "--against", store, "--record", store, "--release", "1.3", "--report", report)
    assert done.returncode == 1
    assert "--against is now --baseline" in done.stderr
    words = "worse than release 1.1: iou was 1.5 and is 1, under 1.49"
    assert words in done.stderr
    assert not (store / "minet-fp32-onnx-1.3.json").exists()  # what fails is no release
    for name in ("parity.xml", "parity.md", "parity.html"):
        assert words in (report / name).read_text()


def test_wrong_use_is_told_before_any_work(tmp_path: Path) -> None:
    given = ("--checkpoint", shipped_checkpoint("minet"), "--engine", MINET)
    done = command("sdi-parity", *given, "--baseline", tmp_path / "gone")
    assert (done.returncode, "cannot read store" in done.stderr) == (2, True)
    done = command("sdi-parity", "--plot", tmp_path / "page.html")
    assert (done.returncode, "give --baseline STORE or --record STORE" in done.stderr) == (2, True)
    done = command("sdi-parity", "--plot", tmp_path / "page.html", "--baseline", tmp_path)
    assert (done.returncode, "has no record to plot" in done.stderr) == (2, True)
    done = command("sdi-parity", *given, "--record", tmp_path, "--release", "a/b")
    assert (done.returncode, "cannot be part of a file's name" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []
