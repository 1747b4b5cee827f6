"""Opening engines of every kind of wrong, and the I/O contract of the right ones. The engines are real, if tiny."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.manifest import manifest_path, read_manifest, write_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import default_engine

MakeEngine = Callable[..., Path]
Picture = Callable[..., np.ndarray]


def _mean(image: np.ndarray) -> np.ndarray:
    """What the tiny engines compute, by numpy."""
    return np.rint(image.astype(np.float32).mean(axis=2)).astype(np.uint8)


def test_a_static_engine(make_engine: MakeEngine, picture: Picture) -> None:
    with open_engine(make_engine(frame_hw=(32, 48), batch=1)) as engine:
        assert engine.frame_hw == (32, 48)
        assert engine.batch == 1
        assert engine.manifest is not None
        assert "CPU" in engine.device or "CUDA" in engine.device
        answer = engine(picture())
    assert answer.dtype == np.uint8
    assert np.array_equal(answer, _mean(picture()))


@pytest.mark.parametrize("size_hw", [(32, 48), (7, 301), (1, 1), (600, 20)])
def test_a_dynamic_engine_takes_any_size(size_hw: tuple[int, int], make_engine: MakeEngine, picture: Picture) -> None:
    image = picture(1, size_hw)
    with open_engine(str(make_engine())) as engine:
        assert engine.frame_hw is None
        assert engine.batch is None
        assert np.array_equal(engine(image), _mean(image))


@pytest.mark.parametrize("size_hw", [(32, 48), (33, 47), (100, 10), (1, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_answer_has_the_frames_own_size(
    size_hw: tuple[int, int], batch: int, make_engine: MakeEngine, picture: Picture
) -> None:
    image = picture(2, size_hw)
    kept = image.copy()
    with open_engine(make_engine(frame_hw=(32, 48), batch=batch)) as engine:
        answer = engine(image)
        answer[:] = 7  # the caller's own: neither the frame nor a later answer may change
        later = engine(image)
    assert answer.shape == size_hw
    assert np.array_equal(image, kept)
    if size_hw == (32, 48):
        assert np.array_equal(later, _mean(image))


@pytest.mark.parametrize("frame_hw", [None, (32, 48), (20, 30)])
def test_frames_that_are_not_contiguous_give_the_same_answer(
    frame_hw: tuple[int, int] | None, make_engine: MakeEngine, picture: Picture
) -> None:
    large = picture(3, (64, 96))
    views = [large[::2, ::2], large[32:, 48:], large[31::-1, 47::-1], large.transpose(1, 0, 2)[:48, :32]]
    views.append(np.asfortranarray(large[:32, :48]))
    frozen = large[:32, :48].copy()
    frozen.setflags(write=False)
    with open_engine(make_engine(frame_hw=frame_hw)) as engine:
        for view in (*views, large[:32, :48, ::-1], frozen):
            assert np.array_equal(engine(view), engine(view.copy(order="C")))


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((32, 48, 3), np.float32),
        np.zeros((32, 48, 3), np.uint16),
        np.zeros((32, 48), np.uint8),
        np.zeros((32, 48, 1), np.uint8),
        np.zeros((32, 48, 4), np.uint8),
        np.zeros((1, 32, 48, 3), np.uint8),
        np.zeros((0, 48, 3), np.uint8),
    ],
    ids=lambda frame: f"{frame.dtype}-{frame.shape}",
)
def test_other_frames_are_refused(frame: np.ndarray, make_engine: MakeEngine) -> None:
    expected = r"frame must be \(H, W, 3\) uint8 BGR, got \(.*\) \w+"
    with open_engine(make_engine()) as engine, pytest.raises(InputError, match=expected):
        engine(frame)


def _pytorch(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize(
    ("spoil", "texts"),
    [
        (lambda path: path.unlink(), ["No such file", "make one with sdi-export"]),
        (lambda path: (path.unlink(), path.mkdir()), ["is a folder", "takes a file"]),
        (lambda path: path.write_bytes(b""), ["is empty (0 bytes)", "again with sdi-export"]),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), ["its manifest says", "truncated", "copy both"]),
        (_pytorch, ["is a PyTorch file, not an engine", "sdi-export --model NAME --checkpoint"]),
        (lambda path: path.write_bytes(b"ftrt" + bytes(60)), ["is a TensorRT plan", "of target onnx"]),
        (lambda path: path.write_bytes(b"vtrt" + bytes(60)), ["is a TensorRT-RTX plan", "of target onnx"]),
        (lambda path: path.write_bytes(b"\x13\x37" * 500), ["is no engine", "expected an ONNX file", "sdi-export"]),
        (lambda path: manifest_path(path).write_text("{}"), ["is not a manifest of sdi", "export the engine again"]),
        (lambda path: manifest_path(path).write_text("{"), ["cannot be read", "export the engine again"]),
    ],
    ids=["missing", "folder", "empty", "truncated", "pytorch", "ftrt", "vtrt", "random", "foreign-json", "half-json"],
)
def test_what_is_no_engine_is_named_and_mended(
    spoil: Callable[[Path], object], texts: list[str], make_engine: MakeEngine
) -> None:
    path = make_engine()
    spoil(path)
    with pytest.raises(InputError) as error:
        open_engine(path)
    for text in (path.name, *texts):
        assert text in str(error.value)


def test_one_flipped_byte_is_noticed(make_engine: MakeEngine) -> None:
    path = make_engine()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"does not match the SHA-256 in tiny\.onnx\.json.*damaged or was replaced"):
        open_engine(path)


def test_the_manifest_given_instead_of_the_engine(make_engine: MakeEngine) -> None:
    path = make_engine()
    with pytest.raises(InputError, match=r"is a manifest; give the engine beside it: .*tiny\.onnx$"):
        open_engine(manifest_path(path))


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_truncated_without_a_manifest(part: float, make_engine: MakeEngine) -> None:
    path = make_engine(manifest=False)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(InputError, match=r"tiny\.onnx"):
        open_engine(path)


def test_no_manifest_is_left_to_the_caller(make_engine: MakeEngine) -> None:
    with open_engine(make_engine(manifest=False)) as engine:
        assert engine.manifest is None


def test_a_manifest_of_another_frame_size(make_engine: MakeEngine) -> None:
    path = make_engine(frame_hw=(32, 48))
    manifest = read_manifest(path)
    assert manifest is not None
    write_manifest(path, replace(manifest, frame_hw=(64, 64)))
    with pytest.raises(InputError, match=r"takes frames of \(32, 48\), its manifest says \(64, 64\)"):
        open_engine(path)


def test_a_newer_manifest(make_engine: MakeEngine) -> None:
    path = make_engine()
    beside = manifest_path(path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "format_version": 9}))
    with pytest.raises(InputError, match="has format 9, this sdi reads 1; update sdi"):
        open_engine(path)


@pytest.mark.parametrize("kind", ["float", "name", "rank"])
@pytest.mark.parametrize("manifest", [True, False])
def test_another_face_is_refused(kind: str, manifest: bool, make_engine: MakeEngine) -> None:
    path = make_engine(kind, manifest=manifest)
    with pytest.raises(
        InputError, match=r"breaks the I/O contract of an sdi engine: expected input frame uint8 .*sdi-export"
    ):
        open_engine(path)


def test_a_failed_execution_raises_and_gives_no_earlier_answer(make_engine: MakeEngine, picture: Picture) -> None:
    with open_engine(make_engine("fragile")) as engine:
        assert np.array_equal(engine(picture()), _mean(picture()))
        with pytest.raises(DeviceError, match=r"tiny\.onnx failed in ONNX Runtime: "):
            engine(np.full((32, 48, 3), 255, np.uint8))
        assert np.array_equal(engine(picture(1)), _mean(picture(1)))


def test_an_answer_of_another_size_is_no_answer(make_engine: MakeEngine, picture: Picture) -> None:
    """Stretched to the frame's size, it would look like a map."""
    with open_engine(make_engine("crop")) as engine, pytest.raises(DeviceError, match=r"answered \(1, 8, 8\)"):
        engine(picture())


def test_unknown_device(make_engine: MakeEngine) -> None:
    with pytest.raises(InputError, match=r"^unknown device 'tpu'; use auto, cpu or cuda$"):
        open_engine(make_engine(), device="tpu")


def test_cuda_where_there_is_none(make_engine: MakeEngine) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(DeviceError, match=r"has no CUDA .*--device cpu$"):
        open_engine(make_engine(), device="cuda")


@pytest.fixture
def cuda_asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An ONNX Runtime that has CUDA compiled in, and finds that it cannot start; what it was asked."""
    import onnxruntime

    asked: dict[str, Any] = {"preloaded": 0}
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: list[Any], **more: Any) -> Any:
        assert asked["preloaded"] or providers == ["CPUExecutionProvider"], "CUDA's libraries are loaded before"
        asked["providers"] = providers
        return real(path, options, providers=["CPUExecutionProvider"], **more)

    def preload() -> None:
        asked["preloaded"] += 1
        print("Failed to load libcudnn.so.9")  # as the real one does

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return asked


def test_cuda_gets_its_libraries_from_pips_wheels_and_no_tf32(
    make_engine: MakeEngine, cuda_asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with open_engine(make_engine()) as engine:
        assert "CPU" in engine.device
    assert cuda_asked["preloaded"] == 1
    assert cuda_asked["providers"] == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    streams = capsys.readouterr()
    assert streams.out == ""  # stdout is for results
    assert "runs on the CPU: CUDA is installed but did not start" in " ".join(streams.err.split())


def test_cuda_that_does_not_start_is_an_error_where_it_was_asked_for(
    make_engine: MakeEngine, cuda_asked: dict[str, Any]
) -> None:
    with pytest.raises(DeviceError, match="could not start CUDA"):
        open_engine(make_engine(), device="cuda")


def test_the_cpu_needs_no_cuda_libraries(make_engine: MakeEngine, cuda_asked: dict[str, Any]) -> None:
    with open_engine(make_engine(), device="cpu"):
        assert cuda_asked["preloaded"] == 0


def test_an_old_onnx_runtime_has_nothing_to_preload(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    from sdi.runtime.engine.onnx_runtime import load_cuda_libraries

    monkeypatch.delattr(onnxruntime, "preload_dlls", raising=False)
    load_cuda_libraries(onnxruntime)


@pytest.mark.parametrize(
    "given", [np.zeros((0, 32, 48, 3), np.uint8), np.zeros((1, 32, 48, 3)), np.zeros((32, 48, 3), np.uint8)]
)
def test_execute_refuses_what_is_no_batch_of_frames(make_engine: MakeEngine, given: np.ndarray) -> None:
    with open_engine(make_engine()) as engine, pytest.raises(InputError, match=r"takes frames \(N, H, W, 3\) uint8"):
        engine.execute(given)


def test_a_closed_engine_refuses(make_engine: MakeEngine, picture: Picture) -> None:
    engine = open_engine(make_engine())
    token = engine.submit(picture()[None])
    assert np.array_equal(engine.collect(token)[0], _mean(picture()))
    engine.close()
    engine.close()
    with pytest.raises(DeviceError, match=r"^tiny\.onnx was closed; open it again$"):
        engine(picture())


def test_the_first_error_is_the_one_told(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that cannot be closed either hides nothing."""
    engine = open_engine(make_engine())

    def fail() -> None:
        raise DeviceError("cannot be closed")

    monkeypatch.setattr(engine, "_release", fail)
    with pytest.raises(InputError, match=r"^the real one$"), engine:
        raise InputError("the real one")


def test_threads_do_not_change_the_answer(make_engine: MakeEngine, picture: Picture) -> None:
    path = make_engine()
    answers = []
    for threads in (1, 2, None):
        with open_engine(path, "cpu", threads) as engine:
            answers.append(engine(picture()))
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_names_that_no_file_can_have() -> None:
    with pytest.raises(InputError, match="cannot read engine"):
        open_engine("x" * 300)
    with pytest.raises(InputError, match="is a folder"):
        open_engine("")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match="is empty"):
        open_engine(tmp_path / "pipe.onnx")


_FUZZ = """
import sys
from pathlib import Path
import numpy as np
from sdi.runtime.engine.open import open_engine
from sdi.runtime.common.errors import SdiError

path, rng = Path(sys.argv[1]), np.random.default_rng(0)
data, frame = path.read_bytes(), np.full((32, 48, 3), 99, np.uint8)
opened = refused = 0
for _ in range(300):
    broken = bytearray(data)
    for place in sorted(rng.integers(1, len(data), int(rng.integers(1, 5))).tolist(), reverse=True):
        kind = int(rng.integers(0, 3))
        if kind == 0:
            broken[place] = int(rng.integers(0, 256))
        elif kind == 1:
            del broken[place : place + int(rng.integers(1, 9))]
        elif rng.random() < 0.3:
            del broken[place:]
    path.write_bytes(broken)
    try:
        with open_engine(path, "cpu", 1) as engine:
            opened += 1
            if (engine.batch or 1) <= 8 and np.prod(engine.frame_hw or (1, 1), dtype=float) < 1e6:
                assert engine(frame).shape == (32, 48)
    except SdiError:
        refused += 1
print(opened, refused)
"""


def test_random_changes_give_an_engine_or_an_sdi_error(make_engine: MakeEngine) -> None:
    """In a process of its own: ONNX Runtime is C++, and what it does to the process would be our fault too."""
    path = make_engine(frame_hw=(32, 48), batch=1, manifest=False)
    command = [sys.executable, "-c", _FUZZ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    opened, refused = map(int, done.stdout.splitlines()[-1].split())  # ONNX Runtime has its own say on stdout
    assert opened > 10
    assert refused > 100


def test_the_engine_that_the_package_ships() -> None:
    path = default_engine()
    with open_engine(path) as engine:
        assert engine.manifest is not None
        assert not engine.manifest.random_weights
        assert engine(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70)
