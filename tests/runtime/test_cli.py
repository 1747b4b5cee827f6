"""`sdi-run` as users start it. What takes a process of its own is run in one; the rest in this one, for time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdi.runtime.common.images import read_gray, read_image
from sdi.runtime.engine.manifest import manifest_path

WAIT_S = 60.0
Run = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[bytes]"]
Make = Callable[..., Path]


def _finish(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT_S)
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out.decode(), err.decode()


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    """The next line of stdout; fails the test where none comes."""
    lines: list[bytes] = []
    assert process.stdout is not None
    thread = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
    thread.start()
    thread.join(WAIT_S)
    assert lines, "sdi-run printed nothing"
    return lines[0]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_a_folder_with_one_corrupt_picture(
    sdi_run_process: Start, make_engine: Make, make_pictures: Make, tmp_path: Path
) -> None:
    folder = make_pictures("a.png", "b.bmp", "c.png", "ü 1.png")
    _cut(folder / "b.bmp")
    process = sdi_run_process(
        "--engine", make_engine(), "--source", folder, "--masks", tmp_path / "maps", "--jsonl", tmp_path / "r.jsonl"
    )  # fmt: skip
    code, out, err = _finish(process)
    assert code == 2
    assert out.splitlines() == [str(tmp_path / "maps"), str(tmp_path / "r.jsonl")]
    assert "skipped: image " in err
    assert "b.bmp is truncated" in err
    assert "3 frames in " in err
    assert "1 skipped" in err
    assert "warning" not in err
    for name in ("a.png", "c.png", "ü 1.png"):
        mean = np.rint(read_image(folder / name).astype(np.float32).mean(axis=2)).astype(np.uint8)
        assert np.array_equal(read_gray(tmp_path / "maps" / name), mean)
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.png")) == ["a.png", "c.png", "ü 1.png"]
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    told = [line.get("event") or line["name"] for line in lines]
    told = [name for name in told if name not in ("alarm", "cleared")]
    assert told == ["started", "a", "skipped", "c", "ü 1", "stopped"]


@pytest.mark.parametrize("name", [b"[red]:smile:.png", b"[/x].bmp", b"caf\xe9 [b.png"], ids=["tag", "end", "bytes"])
def test_names_that_look_like_markup_or_are_no_text(
    name: bytes, sdi_run_process: Start, make_engine: Make, tmp_path: Path
) -> None:
    """A folder `[` with a file `x].bmp` makes a path that ends in `[/x].bmp`, an end with no beginning."""
    path = os.path.join(os.fsencode(tmp_path), b"[bold]", name)
    os.makedirs(os.path.dirname(path))
    Path(os.fsdecode(path)).write_bytes(b"no picture")
    maps = os.path.join(os.fsencode(tmp_path), b"[maps]:smile:\xe9")
    engine = make_engine(manifest=False, name="[red]:smile:.onnx")
    process = sdi_run_process("--engine", engine, "--source", os.path.dirname(path), "--masks", maps)
    code, out, err = _finish(process)
    assert code == 2
    assert "[bold]/" + os.fsdecode(name).encode(errors="backslashreplace").decode() in err
    assert err.count("[red]:smile:.onnx") == 2
    assert out.strip().endswith("[maps]:smile:\\udce9")


def test_an_error_shows_a_name_as_it_is(sdi_run: Run, make_engine: Make, make_pictures: Make) -> None:
    code, _, err = sdi_run("--engine", "[/bold] [red]:smile:.onnx", "--source", make_pictures("a.png"))
    assert code == 2
    assert "error: cannot read engine [/bold] [red]:smile:.onnx: No such file" in err


def test_a_camera_that_does_not_open(sdi_run_process: Start, make_engine: Make) -> None:
    code, out, err = _finish(sdi_run_process("--engine", make_engine(), "--camera", 77))
    assert code == 3
    assert not out
    assert err.splitlines()[-1].startswith("error: camera 77 does not open")


def test_json_is_one_document(sdi_run_process: Start, make_engine: Make, make_pictures: Make, tmp_path: Path) -> None:
    process = sdi_run_process(
        "--engine", make_engine(), "--source", make_pictures("a.png", "b.png"), "--json", "--overlay", tmp_path / "o"
    )  # fmt: skip
    code, out, _ = _finish(process)
    assert code == 0
    value = json.loads(out)
    stages = {"grab_ms", "wait_ms", "engine_ms", "inspect_ms", "age_ms", "sink_ms"}
    assert set(value) == {
        "frames", "with_defects", "alarms", "skipped", "drops", "seconds", "fps", "sources", "outputs", *stages
    }  # fmt: skip
    assert value["frames"] == 2
    assert value["outputs"] == [str(tmp_path / "o")]
    assert all(set(value[stage]) == {"p50", "p95", "p99"} for stage in stages)
    parts = sum(value[stage]["p50"] for stage in ("wait_ms", "engine_ms", "inspect_ms"))
    assert 0 < parts <= value["age_ms"]["p99"] + 0.1
    assert [source["frames"] for source in value["sources"]] == [2]


def test_json_lines_on_stdout_parse(sdi_run: Run, make_engine: Make, make_pictures: Make) -> None:
    folder = make_pictures("a.png", "b.png")
    code, out, err = sdi_run("--engine", make_engine(), "--source", folder, "--jsonl", "-")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["name"] for line in lines if "event" not in line] == ["a", "b"]
    assert "2 frames" in err


def test_a_reader_that_leaves_is_no_failure(sdi_run_process: Start, make_engine: Make, make_video: Make) -> None:
    video = make_video(frames=60)
    process = sdi_run_process("--engine", make_engine(), "--source", video, "--jsonl", "-")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(WAIT_S) == 0
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(("level", "code"), [(200, 1), (100, 0)])
def test_fail_on_defect(level: int, code: int, sdi_run: Run, make_engine: Make, tmp_path: Path) -> None:
    path = tmp_path / "strip" / "a.png"
    path.parent.mkdir()
    path.write_bytes(cv2.imencode(".png", np.full((32, 48, 3), level, np.uint8))[1].tobytes())
    arguments = ("--engine", make_engine(), "--source", path)
    assert sdi_run(*arguments)[0] == 0
    assert sdi_run(*arguments, "--fail-on-defect")[0] == code
    assert sdi_run(*arguments, "--fail-on-defect", "--min-area", 32 * 48 + 1)[0] == 0
    assert sdi_run(*arguments, "--fail-on-defect", "--threshold", "0.3")[0] == 1


def test_ctrl_c_on_a_long_folder_ends_with_the_summary(
    sdi_run_process: Start, make_engine: Make, make_pictures: Make, tmp_path: Path
) -> None:
    folder = make_pictures("0.png", size_hw=(1000, 1500))
    for number in range(1, 3000):  # minutes of work
        os.link(folder / "0.png", folder / f"{number}.png")
    process = sdi_run_process(
        "--engine", make_engine(), "--source", folder, "--jsonl", "-", "--overlay", tmp_path / "o.avi"
    )  # fmt: skip
    assert json.loads(_read_line(process))["event"] == "started"
    first = _read_line(process)
    process.send_signal(signal.SIGINT)
    code, out, err = _finish(process)
    assert code == 130
    lines = [json.loads(line) for line in (first.decode() + out).splitlines() if line.startswith("{")]
    lines = [line for line in lines if "event" not in line]
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert f"{len(lines)} frames in " in err
    assert len(lines) < 3000
    video = cv2.VideoCapture(str(tmp_path / "o.avi"))  # finished, so that it can be read
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == len(lines)
    video.release()


def test_ctrl_c_on_a_stream_is_a_good_end(sdi_run_process: Start, make_engine: Make, mjpeg: Any) -> None:
    over = threading.Event()

    def film() -> None:
        level = 0
        while not over.wait(0.02):  # the pace of a camera
            level = (level + 1) % 100
            mjpeg.push(np.full((48, 64, 3), level, np.uint8))

    camera = threading.Thread(target=film)
    camera.start()
    try:
        process = sdi_run_process("--engine", make_engine(), "--source", mjpeg.url, "--jsonl", "-")
        while b'"engine_ms"' not in _read_line(process):
            pass
        process.send_signal(signal.SIGINT)
        code, _, err = _finish(process)
    finally:
        over.set()
        camera.join(WAIT_S)
    assert code == 0
    assert " frames in " in err


def test_several_sources_go_through_one_engine(
    sdi_run: Run, make_engine: Make, make_pictures: Make, make_video: Make, tmp_path: Path
) -> None:
    left, right = make_pictures("a.png", "b.png", folder="left"), make_pictures("a.png", folder="right")
    sources = ("--source", left, "--source", f"right={right}", "--source", make_video(frames=3))
    code, out, _ = sdi_run("--engine", make_engine(), *sources, "--masks", tmp_path / "maps", "--json")
    assert code == 0
    names = {path.name for path in (tmp_path / "maps").glob("*.png")}
    assert names == {"1_a.png", "1_b.png", "right_a.png", *(f"3_strip_{i:06}.png" for i in range(3))}
    assert [source["frames"] for source in json.loads(out)["sources"]] == [2, 1, 3]


def test_a_watched_folder_until_sigterm(sdi_run_process: Start, make_engine: Make, make_pictures: Make) -> None:
    folder = make_pictures("a.png")
    process = sdi_run_process("--engine", make_engine(), "--watch", folder, "--jsonl", "-")
    assert json.loads(_read_line(process))["event"] == "started"
    assert json.loads(_read_line(process))["name"] == "a"
    process.send_signal(signal.SIGTERM)
    code, _, err = _finish(process)
    assert code == 0
    assert "1 frames in " in err


def test_the_end_of_a_stream_is_a_lost_device(sdi_run_process: Start, make_engine: Make, mjpeg: Any) -> None:
    mjpeg.push(*(np.full((48, 64, 3), 8 * i, np.uint8) for i in range(20)))
    mjpeg.end()
    process = sdi_run_process("--engine", make_engine(), "--source", mjpeg.url, "--jsonl", "-", "--give-up", 0)
    code, out, err = _finish(process)
    assert code == 3
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["frame"] for line in lines if "event" not in line][-1] == 19  # the newest frame was finished
    assert [line["event"] for line in lines if "event" in line][-2:] == ["source_lost", "stopped"]
    assert "source_lost: " in err
    assert "was lost after 20 frames" in err.splitlines()[-1]


def test_a_failing_engine_is_a_lost_device_and_keeps_what_was_done(
    sdi_run: Run, make_engine: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "strip"
    folder.mkdir()
    for number, level in enumerate((50, 60, 255, 70)):
        data = cv2.imencode(".png", np.full((32, 48, 3), level, np.uint8))[1].tobytes()
        (folder / f"{number}.png").write_bytes(data)
    engine = make_engine("fragile", manifest=False)  # with one, the self-test would find it out at once
    code, _, err = sdi_run("--engine", engine, "--source", folder, "--masks", tmp_path / "maps")
    assert code == 3
    assert "error: tiny.onnx failed in ONNX Runtime" in err
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.png")) == ["0.png", "1.png"]


def test_an_engine_that_fails_its_self_test_is_refused(sdi_run: Run, make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine("mean", (32, 48))
    manifest = json.loads((engine.parent / "tiny.onnx.json").read_text())
    manifest["golden"]["tile_means"][0][3][4] += 5
    (engine.parent / "tiny.onnx.json").write_text(json.dumps(manifest))
    code, out, err = sdi_run("--engine", engine, "--source", "demo", "--masks", tmp_path / "maps")
    assert (code, out) == (3, "")
    assert "tiny.onnx fails its self-test on ONNX Runtime" in err
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    ("spoil", "texts"),
    [
        (lambda path: path.unlink(), ["No such file", "sdi-export"]),
        (lambda path: path.write_bytes(b""), ["is empty (0 bytes)"]),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), ["truncated", "copy both files again"]),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), ["does not match the SHA-256"]),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)), ["is a PyTorch file"]),
        (lambda path: path.write_bytes(b"ftrt" + bytes(99)), ["is a TensorRT plan"]),
        (lambda path: path.write_bytes(os.urandom(7) + bytes(99)), ["tiny.onnx"]),
        (lambda path: manifest_path(path).write_bytes(b"\x00" * 40), ["manifest", "cannot be read"]),
    ],
    ids=["missing", "empty", "truncated", "flipped", "pytorch", "plan", "random", "manifest"],
)
def test_a_bad_engine_is_one_line(
    spoil: Callable[[Path], object], texts: list[str], sdi_run: Run, make_engine: Make, tmp_path: Path
) -> None:
    path = make_engine()
    spoil(path)
    code, out, err = sdi_run("--engine", path, "--source", "demo", "--masks", tmp_path / "maps")
    assert code == 2
    assert not out
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    for text in texts:
        assert text in line
    assert not (tmp_path / "maps").exists()


def test_a_missing_manifest_is_a_warning(sdi_run: Run, make_engine: Make, make_pictures: Make) -> None:
    code, _, err = sdi_run("--engine", make_engine(manifest=False), "--source", make_pictures("a.png"))
    assert code == 0
    assert "warning: no manifest beside " in err


def test_random_weights_are_a_warning(sdi_run: Run, make_engine: Make, make_pictures: Make) -> None:
    engine = make_engine()
    beside = manifest_path(engine)
    beside.write_text(beside.read_text().replace('"random_weights": false', '"random_weights": true'))
    _, _, err = sdi_run("--engine", engine, "--source", make_pictures("a.png"))
    assert "warning: this engine has random weights" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give --source, --camera or --watch"),
        (("--camera", "front"), "source 'front' is not there"),
        (("--watch", "gone"), "gone is not a folder"),
        (("--source", "demo", "--source", "demo"), "two sources are called demo; name them"),
        (("--source", "a=demo", "--source", "a=foreign"), "two sources are called a"),
        (
            ("--source", "demo", "--resolution", "big"),
            "--resolution must be a width and a height, e.g. 1920x1080, got 'big'",
        ),
        (("--source", "demo", "--fps", "0"), "--fps must be above 0"),
        (("--source", "demo", "--fourcc", "JPEG2"), "--fourcc must have four letters"),
        (("--source", "demo", "--give-up", "-1"), "--give-up must be 0 or more seconds"),
        (("--source", "demo", "--frozen-after", "1"), "--frozen-after must be 0 (never) or at least 2"),
        (("--source", "demo", "--max-age-ms", "0"), "--max-age-ms must be above 0"),
        (("--source", "demo", "--json", "--jsonl", "-"), "would mix on stdout"),
        (("--source", "demo", "--threshold", "0"), "threshold must be above 0"),
        (("--source", "demo", "--threshold", "nan"), "threshold must be above 0"),
        (("--source", "demo", "--masks", "o", "--overlay", "o"), "need folders of their own"),
        (("--source", "demo", "--masks", "o", "--overlay", "./x/../o"), "need folders of their own"),
        (("--source", "gone"), "source 'gone' is not there"),
        (("--source", ""), "the source is empty"),
        (("--source", "x" * 300), "cannot read source"),
        (("--source", "demo", "--engine", "x" * 300), "cannot read engine"),
        (("--source", "demo", "--masks", "file"), "cannot write to folder file"),
        (("--source", "demo", "--masks", "file/deeper"), "cannot write to folder file/deeper"),
        (("--source", "demo", "--overlay", "file/deeper"), "cannot write to folder file/deeper"),
        (("--source", "demo", "--overlay", "file/v.avi"), "cannot write to folder file"),
        (("--source", "demo", "--overlay", "folder.avi", "--overwrite"), "folder.avi is a folder"),
        (("--source", "demo", "--jsonl", "file/r.jsonl"), "cannot write file/r.jsonl"),
        (("--source", "demo", "--jsonl", "/dev/full"), "cannot write /dev/full"),
        (("--source", "demo", "--masks", "x" * 300), "cannot use folder"),
        (("--source", "demo", "--masks", "foreign"), "holds files that sdi-run --masks did not write"),
        (("--source", "demo", "--device", "tpu"), "error: unknown device 'tpu'"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: tuple[str, ...],
    text: str,
    sdi_run: Run,
    make_engine: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.avi").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "truth.png").touch()
    code, out, err = sdi_run("--engine", make_engine(), *arguments)
    assert code == 2
    assert not out
    assert err.splitlines()[-1].startswith("error: ")
    assert text in err
    assert "frames in" not in err


@pytest.mark.parametrize("flag", ["--masks", "--overlay"])
@pytest.mark.parametrize("source", ["pictures", "pictures/a.png", "pictures/*.png", "**/*.png", "link"])
@pytest.mark.parametrize("extra", [(), ("--overwrite",)])
def test_no_picture_may_land_on_a_source(
    flag: str,
    source: str,
    extra: tuple[str, ...],
    sdi_run: Run,
    make_engine: Make,
    make_pictures: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_pictures("a.png")
    before = (folder / "a.png").read_bytes()
    (tmp_path / "link").symlink_to(folder)
    code, _, err = sdi_run("--engine", make_engine(), "--source", source, flag, "x/../pictures", *extra)
    assert code == 2
    assert "names stand for several" in err or "is where the source's pictures lie" in err
    assert os.listdir(folder) == ["a.png"]
    assert (folder / "a.png").read_bytes() == before


def test_no_file_may_land_on_a_source(sdi_run: Run, make_engine: Make, make_pictures: Make, make_video: Make) -> None:
    engine, picture, video = make_engine(), make_pictures("a.png") / "a.png", make_video()
    before = picture.read_bytes(), video.read_bytes()
    for arguments in (
        ("--source", picture, "--jsonl", picture),
        ("--source", picture.parent, "--jsonl", picture),
        ("--source", video, "--overlay", video, "--overwrite"),
        ("--source", video, "--jsonl", video),
    ):
        code, _, err = sdi_run("--engine", engine, *arguments)
        assert code == 2
        assert "is what the source reads" in err
    assert (picture.read_bytes(), video.read_bytes()) == before


def test_the_demo_writes_into_the_folder_it_is_started_in(
    sdi_run: Run, make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`demo` is no path, so nothing of it lies here."""
    engine = make_engine()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert sdi_run("--engine", engine, "--source", "demo", "--masks", ".")[0] == 0
    assert len(list(Path().glob("*.png"))) == 12


def test_our_own_folder_is_accepted_again(sdi_run: Run, make_engine: Make, make_pictures: Make, tmp_path: Path) -> None:
    arguments = ("--engine", make_engine(), "--source", make_pictures("a.png"), "--masks", tmp_path / "maps")
    assert [sdi_run(*arguments)[0] for _ in range(2)] == [0, 0]


def test_a_truncated_video(sdi_run: Run, make_engine: Make, make_video: Make, tmp_path: Path) -> None:
    video = make_video("Band ü 1.avi", frames=30)
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10])
    out_path = tmp_path / "ö [1].avi"
    code, out, err = sdi_run("--engine", make_engine(), "--source", video, "--overlay", out_path)
    assert code == 2
    assert "skipped: " in err
    assert "truncated or damaged" in err
    assert out.strip() == str(out_path)
    assert out_path.exists()


def test_help_names_the_exit_codes(sdi_run: Run) -> None:
    code, out, _ = sdi_run("--help")
    assert code == 0
    for text in ("--fail-on-defect", "--min-area", "Exit codes", "130"):
        assert text in out


def test_signals_are_the_callers_again_after_a_run(sdi_run: Run, make_engine: Make, make_pictures: Make) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    sdi_run("--engine", make_engine(), "--source", make_pictures("a.png"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
