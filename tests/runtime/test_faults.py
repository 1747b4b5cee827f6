"""What goes wrong in a factory, done on purpose. `docs/reliability.md` lists these with what is promised."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError, SdiError
from sdi.runtime.common.images import read_gray
from sdi.runtime.engine.manifest import manifest_path, read_manifest, verify_file
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.plan import HEADER_BYTES, PlanHeader, verify_plan
from sdi.runtime.frame import Event, Result, Skipped
from sdi.runtime.pipeline.loop import Loop
from sdi.runtime.sinks.masks import MasksSink
from sdi.runtime.sources import live as live_module
from sdi.runtime.sources.open import open_source, open_sources

WAIT_S = 60.0
Make = Callable[..., Path]


class Watch:
    """Runs a loop on a thread; waits for what it reports, in order."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.heard: list[Result | Skipped | Event] = []
        self.error: BaseException | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run(self._report)
        except BaseException as error:
            self.error = error
        with self._news:
            self._news.notify_all()

    def _report(self, item: Result | Skipped | Event) -> None:
        with self._news:
            self.heard.append(item)
            self._news.notify_all()

    def until(self, found: Callable[[Any], bool], start: int = 0) -> int:
        """Wait for an item from number `start` on that is `found`; its number."""
        position = [start]

        def seen() -> bool:
            while position[0] < len(self.heard):
                if found(self.heard[position[0]]):
                    return True
                position[0] += 1
            return self.error is not None

        with self._news:
            assert self._news.wait_for(seen, WAIT_S), f"it did not come among {len(self.heard)} items"
        if self.error is not None:
            raise self.error
        return position[0]

    def until_kind(self, kind: str, start: int = 0) -> int:
        return self.until(lambda item: isinstance(item, Event) and item.kind == kind, start)

    def until_result(self, start: int = 0) -> int:
        return self.until(lambda item: isinstance(item, Result), start)

    def stop(self) -> None:
        self.loop.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the loop did not end"

    def results(self) -> list[Result]:
        return [item for item in self.heard if isinstance(item, Result)]


@contextmanager
def watching(loop: Loop) -> Iterator[Watch]:
    watch = Watch(loop)
    try:
        yield watch
    finally:
        watch.stop()


@contextmanager
def _rtsp_server(port: int, width: int, height: int) -> Iterator[subprocess.Popen[str]]:
    """GStreamer's RTSP server in a process of its own; killed in the end."""
    python = shutil.which("python3", path="/usr/bin")
    if python is None:
        pytest.skip("no system Python for GStreamer's RTSP server")
    process = subprocess.Popen(
        [python, str(Path(__file__).with_name("rtsp_server.py")), str(port), str(width), str(height)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            pytest.skip(
                "no RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
            )
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_rtsp_server_is_killed_and_started_again(
    make_engine: Make, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time its pictures have another size: both changes are told, and every frame is a true one."""
    monkeypatch.setattr(live_module, "BACK_OFF_S", (0.2,))
    url = f"rtsp://user:secret@127.0.0.1:{closed_port}/strip"
    with (
        open_engine(make_engine()) as engine,
        _rtsp_server(closed_port, 64, 48) as server,
        open_source(url) as source,
        watching(Loop(source, engine, [])) as watch,
    ):
        watch.until_result()
        server.send_signal(signal.SIGKILL)
        lost = watch.until_kind("source_lost")
        with _rtsp_server(closed_port, 96, 64):
            back = watch.until_kind("source_back", lost)
            watch.until_result(watch.until_kind("source_changed", back))
            watch.stop()
    assert watch.error is None
    event = watch.heard[back]
    assert isinstance(event, Event)
    assert event.details["outage_s"] > 0
    assert "secret" not in event.source + event.text
    before = [item for item in watch.heard[:lost] if isinstance(item, Result)]
    after = [item for item in watch.heard[back:] if isinstance(item, Result)]
    assert {result.saliency.shape for result in before} == {(48, 64)}
    assert {result.saliency.shape for result in after} == {(64, 96)}
    assert not any(isinstance(item, Result) for item in watch.heard[lost:back])  # nothing in between was made up
    indices = [result.frame.index for result in watch.results()]
    assert indices == sorted(set(indices))
    times = [result.frame.captured for result in watch.results()]
    assert times == sorted(set(times))
    (summary,) = watch.loop.summary.sources
    assert (summary.lost, summary.outage_s) == (1, pytest.approx(event.details["outage_s"]))


def test_one_camera_is_lost_and_the_other_goes_on(
    mjpeg: Any, make_engine: Make, make_video: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "BACK_OFF_S", (3600.0,))
    mjpeg.push(*(np.full((48, 64, 3), 8 * i, np.uint8) for i in range(12)))
    mjpeg.end()
    video = make_video(frames=60)
    with ExitStack() as stack:
        engine = stack.enter_context(open_engine(make_engine()))
        sources = [stack.enter_context(source) for source in open_sources([f"camera={mjpeg.url}", f"film={video}"])]
        watch = stack.enter_context(watching(Loop(sources, engine, [])))
        watch.until_kind("source_lost")
        watch.until(lambda item: isinstance(item, Result) and (item.frame.source, item.frame.index) == ("film", 59))
    assert watch.error is None
    film = [result for result in watch.results() if result.frame.source == "film"]
    assert [result.frame.index for result in film] == list(range(60))
    assert all(abs(int(result.saliency.mean()) - 4 * result.frame.index) <= 4 for result in film)


@pytest.mark.parametrize("share", [0.4, 0.42, 0.44, 0.46, 0.48])
def test_a_video_cut_within_a_frame(
    share: float, make_engine: Make, picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    """The whole frames come, no half one, and what is missing is told."""
    path = tmp_path / "strip.avi"
    pictures = [picture(seed, (96, 128)) for seed in range(30)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 96))
    for image in pictures:
        writer.write(image)
    writer.release()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    heard: list[Result | Skipped | Event] = []
    with open_engine(make_engine()) as engine, open_source(str(path)) as source:
        Loop(source, engine, []).run(heard.append)
    results = [item for item in heard if isinstance(item, Result)]
    skipped = heard[-1]
    assert 8 <= len(results) <= 16
    for result, image in zip(results, pictures, strict=False):
        assert np.abs(result.saliency[-16:].astype(float) - image[-16:].mean(axis=2)).mean() < 8
    assert isinstance(skipped, Skipped)
    assert f"ended after {len(results)} of 30 frames; it is truncated or damaged" in skipped.reason


def test_a_folder_whose_files_vanish(make_engine: Make, make_pictures: Make, tmp_path: Path) -> None:
    folder = make_pictures(*(f"{i}.png" for i in range(40)))
    maps = tmp_path / "maps"
    with open_engine(make_engine()) as engine, open_source(str(folder)) as source, MasksSink(maps) as masks:
        heard: list[Result | Skipped | Event] = []

        def report(item: Result | Skipped | Event) -> None:
            heard.append(item)
            if len(heard) == 1:
                shutil.rmtree(folder)

        summary = Loop(source, engine, [masks]).run(report)
    assert summary.frames + summary.skipped == 40
    assert 0 < summary.frames < 40
    told = [item for item in heard if isinstance(item, Skipped)]
    assert len(told) == summary.skipped
    assert all("No such file" in item.reason for item in told)
    assert len(list(maps.glob("*.png"))) == summary.frames


@contextmanager
def _full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("a full disk needs the right to mount a small file system (root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("flag", ["--masks", "--overlay", "--jsonl"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    flag: str, sdi_run: Callable[..., tuple[int, str, str]], make_engine: Make, make_video: Make, tmp_path: Path
) -> None:
    video = make_video(frames=60, size_hw=(240, 320))
    with _full_disk(tmp_path) as place:
        (place / "ballast").write_bytes(bytes(52 * 1024))
        target = place / ("r.jsonl" if flag == "--jsonl" else "out")
        code, _, err = sdi_run("--engine", make_engine(), "--source", video, flag, target, "--threshold", "0.01")
        assert code == 2
        assert "No space left on device; make room or choose another" in err.splitlines()[-1]
        if flag == "--jsonl":
            whole = target.read_bytes().split(b"\n")[:-1]
            assert len(whole) > 5
            assert all(json.loads(line) for line in whole)
        else:
            pictures = [path for path in target.iterdir() if path.suffix == ".png"]
            assert not [path for path in pictures if path.name.startswith(".")]
            assert all(read_gray(path).shape == (240, 320) for path in pictures)


def test_a_file_that_may_not_grow_is_finished_by_the_next_run(
    sdi_run_process: Callable[..., subprocess.Popen[bytes]], make_engine: Make, make_video: Make, tmp_path: Path
) -> None:
    """A quota instead of a full disk: a line that did not fit is cut, and the next run does not glue its own to it."""
    video, lines = make_video(frames=60), tmp_path / "r.jsonl"
    arguments = ("--engine", make_engine(), "--source", video, "--jsonl", lines)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    process = sdi_run_process(*arguments, preexec_fn=limit)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert err.decode().splitlines()[-1].startswith(f"error: cannot write {lines}: File too large")
    assert lines.stat().st_size <= 4096
    process = sdi_run_process(*arguments)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    broken, frames = 0, []
    for line in lines.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            broken += 1
        else:
            frames += [record["frame"]] if "event" not in record else []
    assert broken <= 1
    assert frames[-60:] == list(range(60))


def test_an_engine_that_fails_once_ends_the_run_and_repeats_no_map(make_engine: Make, tmp_path: Path) -> None:
    """One bright picture among dark ones makes a real engine fail; the frames after it would have been good."""
    folder = tmp_path / "strip"
    folder.mkdir()
    for number, level in enumerate((50, 60, 255, *[70] * 20)):
        (folder / f"{number:02}.png").write_bytes(
            cv2.imencode(".png", np.full((32, 48, 3), level, np.uint8))[1].tobytes()
        )
    maps = tmp_path / "maps"
    with open_engine(make_engine("fragile", manifest=False)) as engine, open_source(str(folder)) as source:
        loop = Loop(source, engine, [MasksSink(maps)])
        with pytest.raises(DeviceError, match=r"failed in ONNX Runtime"):
            loop.run()
    assert {path.stem: int(read_gray(path)[0, 0]) for path in maps.glob("*.png")} == {"00": 50, "01": 60}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_an_outage_closes_everything(
    number: int, sdi_run_process: Callable[..., subprocess.Popen[bytes]], make_engine: Make, mjpeg: Any, tmp_path: Path
) -> None:
    mjpeg.push(*(np.full((48, 64, 3), 8 * i, np.uint8) for i in range(20)))
    mjpeg.end()
    process = sdi_run_process("--engine", make_engine(), "--source", mjpeg.url, "--overlay", tmp_path / "seen.avi")
    assert process.stderr is not None
    for line in process.stderr:
        if b"source_lost" in line:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert b"Traceback" not in err
    video = cv2.VideoCapture(str(tmp_path / "seen.avi"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) >= 1
    video.release()


# Broken files. What may come of one: it is taken, or an SdiError says what is wrong with it. Nothing else.

_NASTY: list[Any] = [
    None, True, -1, 0, 2**63, 2**200, 1e308, "", "x" * 5000, "\ud800", [], [[]], {}, {"": 0}, [1, [2, [3]]], [0, 0],
    [1e9, 1e9], ["32", "48"], [None, None], [True, True], "NaN",
]  # fmt: skip


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    kind, place = rng.randrange(5), rng.randrange(len(data))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + rng.randbytes(rng.randrange(1, 40)) + data[place:]
    if kind == 3:
        return data[:place] + data[place + rng.randrange(1, 40) :]
    other = rng.randrange(len(data))
    return data[:place] + data[other : other + 60] + data[place:]


def _mutated_value(value: Any, rng: random.Random) -> Any:
    """The same document with one value, anywhere in it, replaced, renamed or left out."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.25:
        return rng.choice(_NASTY)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [_mutated_value(item, rng) if i == place else item for i, item in enumerate(value)]
    name = rng.choice(list(value))
    kind = rng.randrange(4)
    rest = {key: item for key, item in value.items() if key != name}
    if kind == 0:
        return rest
    if kind == 1:
        return {**rest, name + "x": value[name]}
    return {**value, name: _mutated_value(value[name], rng)}


def test_2000_broken_manifests(make_engine: Make) -> None:
    engine_path = make_engine("mean", (32, 48))
    beside = manifest_path(engine_path)
    good = beside.read_bytes()
    rng = random.Random(7)
    refused = 0
    with open_engine(engine_path) as engine:
        for number in range(2000):
            if number % 2:
                beside.write_bytes(mutated_bytes(good, rng))
            else:
                beside.write_text(json.dumps(_mutated_value(json.loads(good), rng)))
            try:
                manifest = read_manifest(engine_path)
                if manifest is not None:
                    verify_file(engine_path, manifest)
                    if number % 4 == 0:
                        engine.manifest = manifest
                        engine.self_test()
            except SdiError:
                refused += 1
    assert refused > 1000  # the rest changed what nothing depends on, or nothing


def test_500_broken_plan_headers(make_engine: Make, tmp_path: Path) -> None:
    manifest = read_manifest(make_engine())
    rng = random.Random(8)
    path = tmp_path / "x.plan"
    for magic in (b"ftrt", b"vtrt"):
        good = magic + bytes(12) + (300).to_bytes(8, "little") + bytes((1, 7, 1, 116)) + rng.randbytes(272)
        for _ in range(250):
            data = mutated_bytes(good, rng)
            path.write_bytes(data)
            header = PlanHeader.of(data[:HEADER_BYTES])
            if header is None:
                assert data[:4] not in (b"ftrt", b"vtrt")
                continue
            for described in (None, manifest):
                with suppress(SdiError):
                    verify_plan(path, header, described)


_LOAD_MANY = """
import random, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {folder!r})
from test_faults import mutated_bytes
from sdi.runtime.engine.open import open_engine
from sdi.runtime.common.errors import SdiError
path, rng, loaded = Path({path!r}), random.Random(9), 0
good = path.read_bytes()
for number in range(500):
    path.write_bytes(mutated_bytes(good, rng))
    try:
        with open_engine(path, "cpu", 1) as engine:
            loaded += 1
            answer = engine(np.zeros((32, 48, 3), np.uint8))
            assert answer.shape == (32, 48) and answer.dtype == np.uint8
    except SdiError as error:
        assert str(error)
print("loaded", loaded)
"""


def test_500_broken_engines_without_a_manifest(make_engine: Make) -> None:
    """In a process of its own: a library that reads a broken file may take its process with it."""
    path = make_engine("mean", (32, 48), manifest=False)
    code = _LOAD_MANY.format(folder=str(Path(__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seed", range(4))
def test_a_broken_engine_beside_its_manifest_is_never_loaded(seed: int, make_engine: Make) -> None:
    path = make_engine("mean", (32, 48))
    good = path.read_bytes()
    rng = random.Random(seed)
    for _ in range(50):
        data = mutated_bytes(good, rng)
        if data == good:
            continue
        path.write_bytes(data)
        with pytest.raises(SdiError):
            open_engine(path, "cpu", 1)
