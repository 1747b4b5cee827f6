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
import onnx
import pytest
from onnx import TensorProto, helper

from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.golden import golden_frames, golden_record
from sdi.runtime.engine.manifest import Manifest, manifest_path, write_manifest

SIZE_HW = (32, 48)
BRIGHT = 200  # from here on the engine of kind "fragile" fails


def _graph(kind: str, frame_hw: tuple[int, int] | None, batch: int | None) -> onnx.GraphProto:
    """`mean`: the mean of the three channels, rounded. The others differ from it by one fault each."""
    size = frame_hw or ("h", "w")
    count = batch or "n"
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
        helper.make_tensor("bright", TensorProto.INT64, [], [BRIGHT]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("zero2", TensorProto.INT64, [2], [0, 0]),
        helper.make_tensor("eight2", TensorProto.INT64, [2], [8, 8]),
        helper.make_tensor("hw", TensorProto.INT64, [2], [1, 2]),
    ]
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "last"], ["mean"], keepdims=int(kind == "rank")),
        helper.make_node("Round", ["mean"], ["round"]),
    ]
    name, answer, kinds, size_out = "round", "saliency", TensorProto.UINT8, size
    if kind == "fragile":  # an index out of range where the brightest pixel reaches BRIGHT
        nodes += [
            helper.make_node("ReduceMax", ["float"], ["max"], keepdims=0),
            helper.make_node("Cast", ["max"], ["max64"], to=TensorProto.INT64),
            helper.make_node("Div", ["max64", "bright"], ["index"]),
            helper.make_node("Gather", ["one", "index"], ["factor"]),
            helper.make_node("Mul", ["round", "factor"], ["scaled"]),
        ]
        name = "scaled"
    elif kind == "crop":  # a map of another size than the frame's
        nodes.append(helper.make_node("Slice", ["round", "zero2", "eight2", "hw"], ["part"]))
        name, size_out = "part", ("h2", "w2")
    elif kind == "float":
        kinds = TensorProto.FLOAT
    elif kind == "name":
        answer = "output"
    nodes.append(helper.make_node("Cast", [name], [answer], to=kinds))
    shape = [count, *size_out, 1] if kind == "rank" else [count, *size_out]
    return helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [count, *size, 3])],
        [helper.make_tensor_value_info(answer, kinds, shape)],
        constants,
    )


def tiny_manifest(artefact: Path, frame_hw: tuple[int, int] | None, batch: int | None = 1) -> Manifest:
    """A true manifest of a tiny engine, all fields filled in."""
    height, width = frame_hw or SIZE_HW
    saliency = np.rint(golden_frames(height, width).mean(axis=3)).astype(np.uint8)
    digest = sha256_of(artefact)
    return Manifest(
        model="tiny",
        family="tiny",
        precision="fp32",
        target="onnx",
        face="uint8",
        batch=batch,
        frame_hw=frame_hw,
        network_hw=(height, width),
        preprocessing={"mean": [0.0], "std": [1.0]},
        random_weights=False,
        checkpoint_sha256=None,
        onnx_sha256=digest,
        bytes=artefact.stat().st_size,
        sha256=digest,
        builder={"onnx": onnx.__version__},
        golden=golden_record((height, width), saliency, 1.0),
        parity={"max": 0.0},
        metrics={"mae": 0.5},
        high_precision_layers=("round",),
    )


def _write_engine(
    path: Path, kind: str = "mean", frame_hw: tuple[int, int] | None = None, *, batch: int | None = None
) -> Path:
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(_graph(kind, frame_hw, batch), opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    write_manifest(path, tiny_manifest(path, frame_hw, batch))
    return path


@pytest.fixture(scope="session")
def tiny_engine() -> Callable[..., Path]:
    """Writes a tiny ONNX engine and its manifest to a path; answers the path."""
    return _write_engine


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
        path = _write_engine(folder / name, kind, frame_hw, batch=batch)
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
