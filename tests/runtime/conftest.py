"""Tiny real engines, real files, a real stream and the command itself."""

from __future__ import annotations

import http.server
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines import SIZE_HW, write_engine
from sdi.runtime.engine.manifest import manifest_path


@pytest.fixture(scope="session")
def tiny_engine() -> Callable[..., Path]:
    """Writes a tiny ONNX engine and its manifest to a path; answers the path."""
    return write_engine


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny ONNX engine, with its manifest unless told otherwise; answers its path."""

    def make(
        kind: str = "mean",
        frame_hw: tuple[int, int] | None = None,
        *,
        batch: int | None = None,
        manifest: bool = True,
        name: str = "tiny.onnx",
    ) -> Path:
        folder = tmp_path / "engines"
        folder.mkdir(exist_ok=True)
        path = write_engine(folder / name, kind, frame_hw, batch=batch)
        if not manifest:
            manifest_path(path).unlink()
        return path

    return make


def _picture(seed: int = 0, size_hw: tuple[int, int] = SIZE_HW, top: int = 190) -> np.ndarray:
    """(H, W, 3) uint8: soft colours up to `top`, so that lossy formats keep them; its own for each seed."""
    rng = np.random.default_rng(seed)
    rough = cv2.GaussianBlur(rng.normal(0, 1, (*size_hw, 3)), (0, 0), 4)
    rough = (rough - rough.min()) / (rough.max() - rough.min())
    return (rough * top).astype(np.uint8)


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Draws a picture: `picture(seed, size_hw, top)`."""
    return _picture


@pytest.fixture
def make_pictures(tmp_path: Path) -> Callable[..., Path]:
    """Writes PNG pictures of the given names into a folder; answers the folder."""

    def make(*names: str, folder: str = "pictures", size_hw: tuple[int, int] = SIZE_HW) -> Path:
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(names):
            encoded = cv2.imencode(Path(name).suffix, _picture(seed, size_hw))[1]
            (place / name).write_bytes(encoded.tobytes())
        return place

    return make


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Writes a video whose frame number i is gray of level 4 * i; answers its path."""

    def make(name: str = "strip.avi", frames: int = 30, size_hw: tuple[int, int] = (48, 64)) -> Path:
        path = tmp_path / name
        code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(path), code, 25, size_hw[::-1])
        if not writer.isOpened():
            pytest.skip(f"this OpenCV writes no {path.suffix}")
        for number in range(frames):
            writer.write(np.full((*size_hw, 3), 4 * number, np.uint8))
        writer.release()
        return path

    return make


@pytest.fixture
def sdi_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`sdi-run` inside this process; answers its exit code, stdout and stderr."""
    from sdi.runtime.run.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sdi-run", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        streams = capsys.readouterr()
        return int(exit_info.value.code or 0), streams.out, streams.err

    return run


@pytest.fixture
def sdi_run_process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the installed `sdi-run`; whatever still runs at the end of the test is killed."""
    command = Path(sys.executable).parent / "sdi-run"
    if not command.exists():
        pytest.skip(f"sdi-run is not installed beside {sys.executable}")
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # type: ignore[call-overload]
            [str(command), *(a if isinstance(a, bytes) else str(a) for a in arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


class MjpegServer:
    """A network camera: `push` pictures, then `end` the stream, or `cut` it within one. One reader at a time."""

    def __init__(self) -> None:
        self.pictures: queue.Queue[np.ndarray | bytes | None] = queue.Queue()
        self.gone = threading.Event()  # the reader closed the connection
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):
                    while (image := owner.pictures.get(timeout=30)) is not None:
                        if isinstance(image, bytes):
                            self.wfile.write(image)
                            break
                        data = cv2.imencode(".jpg", image)[1].tobytes()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        self.wfile.flush()
                owner.gone.set()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/strip.mjpg"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def push(self, *images: np.ndarray) -> None:
        for image in images:
            self.pictures.put(image)

    def end(self) -> None:
        self.pictures.put(None)

    def cut(self, image: np.ndarray) -> None:
        data = cv2.imencode(".jpg", image)[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        self.pictures.put(head.encode() + data[: len(data) // 2])

    def close(self) -> None:
        self.end()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


@pytest.fixture
def mjpeg() -> Iterator[MjpegServer]:
    """A live stream on this machine that OpenCV reads through FFmpeg."""
    if "FFMPEG:                      YES" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has no FFmpeg, so it reads no streams")
    server = MjpegServer()
    yield server
    server.close()


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 1 MiB of room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "sdi-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], timeout=20, check=True)
