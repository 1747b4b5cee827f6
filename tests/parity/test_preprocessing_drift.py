"""Preprocessing drift: the tensor that training computes from a file is the tensor that the line computes from it.

Training's side is `load_samples`, `augment` with nothing to change, and `Normalise` in PyTorch; the line's is
`ImageSource`, `Engine` and the nodes in front of the network in the ONNX graph, in ONNX Runtime. They must be equal
bit for bit, or both sides must refuse the file with the same class of error. Pillow, which sdi never calls, writes
most of the files and is the judge of what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sdi.export.half import half_model
from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import read_image, resize_image, write_image
from sdi.runtime.engine.batching import Batcher
from sdi.runtime.engine.onnx_runtime import OnnxRuntimeEngine
from sdi.runtime.frame import Frame, Skipped
from sdi.runtime.sources.images import ImageSource
from sdi.train.augment import Augmentation, augment
from sdi.train.data import Pair, load_samples
from sdi.train.engine_module import EngineModule
from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.preprocess import GRAY_STEEL, HALF, IMAGENET, Normalise, Preprocessing
from sdi.train.scores import predict_images

NETWORK_HW = (48, 64)
DIVIDED = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), divide_by_max=True)
UNCHANGED = Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.0)

rng = np.random.default_rng(7)
COLOUR = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)  # RGB, as Pillow has it
GRAY = COLOUR[..., 0]
ALPHA = COLOUR[..., 1]


class OneLayer(SaliencyNetwork):
    """The smallest network an exporter takes: what is in front of it is what is looked at here."""

    primary = "map"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 3, padding=1)

    def maps(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        return {"map": torch.sigmoid(self.layer(x))}


class ProbedEngine(OnnxRuntimeEngine):
    """The engine as it is; `seen` is the tensor in front of the network at the last execution."""

    seen: np.ndarray

    def probe(self, model: onnx.ModelProto) -> ProbedEngine:
        shift = next(name for node in model.graph.node for name in node.input if name.endswith("normalise.shift"))
        tensor = next(node.output[0] for node in model.graph.node if shift in node.input)
        probed = onnx.ModelProto()
        probed.CopyFrom(model)
        probed.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
        self._probed = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
        return self

    def execute(self, frames: np.ndarray) -> np.ndarray:
        saliency = super().execute(frames)
        again, self.seen = self._probed.run(None, {"frame": frames})
        assert np.array_equal(again, saliency)  # the probe changes nothing
        return saliency


class EngineOf(Protocol):
    """Gives the engine of a preprocessing and a kind, exported by the real exporter."""

    def __call__(self, how: Preprocessing = IMAGENET, kind: str = "fp32") -> ProbedEngine: ...


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> EngineOf:
    """Engine by preprocessing and kind, each exported once by the real exporter."""
    made: dict[tuple, ProbedEngine] = {}

    def build(how: Preprocessing = IMAGENET, kind: str = "fp32") -> ProbedEngine:
        if (how, kind) not in made:
            torch.manual_seed(0)
            module = EngineModule(
                OneLayer().eval(), how, NETWORK_HW, resizes=True if kind == "dynamic" else None
            ).eval()
            model = onnx_from_module(
                module, FrameShape(*NETWORK_HW, dynamic=kind == "dynamic", free_batch=kind == "batch")
            )
            if kind == "fp16":
                model = half_model(model)
            path = tmp_path_factory.mktemp("engine") / f"{kind}.onnx"
            onnx.save(model, path)
            made[how, kind] = ProbedEngine(path, None, "cpu", 1).probe(model)
        return made[how, kind]

    return build


def training_tensor(path: Path, how: Preprocessing = IMAGENET, size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """(3, h, w) float32: what a network in training is given of the file when the augmentation changes nothing."""
    mask = path.with_name("mask of it.png")
    write_image(mask, np.zeros(size_hw or _upright_hw(path), np.uint8))
    (sample,) = load_samples([Pair(path.stem, path, mask)])
    frame, _ = augment(sample.image, sample.mask, NETWORK_HW, UNCHANGED, np.random.default_rng(0))
    return Normalise(how)(torch.from_numpy(frame)[None])[0].numpy()


def runtime_tensor(path: Path, engine: ProbedEngine) -> np.ndarray:
    """(3, h, w) float32: what the network in an engine is given when `sdi-run --source FILE` shows it the file.

    Raises:
        InputError: with the text that the run would log, where the source skips the file.
    """
    (frame,) = ImageSource("file", [path]).frames()
    if isinstance(frame, Skipped):
        raise InputError(frame.reason)
    assert isinstance(frame, Frame)
    saliency = engine(frame.image)
    assert saliency.shape == frame.image.shape[:2]
    return engine.seen[0]


def evaluation_tensor(path: Path, how: Preprocessing = IMAGENET) -> np.ndarray:
    """(3, h, w) float32: what `sdi-eval --checkpoint` shows the network."""
    module = EngineModule(OneLayer().eval(), how, NETWORK_HW)
    seen: list[Tensor] = []
    module.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    list(predict_images(module, [read_image(path)]))
    return seen[0][0].numpy()


def _upright_hw(path: Path) -> tuple[int, int]:
    """Height and width of the upright picture, by Pillow."""
    with Image.open(path) as image:
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def _expected(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR by Pillow: turned upright, transparency dropped, gray repeated."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))[..., ::-1]


def _by_numpy(image: np.ndarray, how: Preprocessing) -> np.ndarray:
    """The preprocessing as its docstring has it, in float64."""
    rgb = resize_image(np.ascontiguousarray(image), NETWORK_HW)[..., ::-1].astype(np.float64)
    scaled = rgb / (max(rgb.max(), 1) if how.divide_by_max else 255)
    return ((scaled - how.mean) / how.std).transpose(2, 0, 1)


def _pillow(image: np.ndarray, mode: str | None = None, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(path, **options)

    return write


def _opencv(image: np.ndarray) -> Callable[[Path], None]:
    return lambda path: _written(path, cv2.imencode(path.suffix, image)[1].tobytes())


def _written(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _wide(image: np.ndarray) -> np.ndarray:
    """The same levels in 16 bit."""
    return image.astype(np.uint16) * 257


EVEN: dict[str, Any] = {"quality": 100, "subsampling": 0}  # so that two JPEG decoders have nothing to interpolate
# file -> how it is written, and whether Pillow reads it as the same bytes
FILES: dict[str, tuple[Callable[[Path], None], bool]] = {
    **{f"gray.{suffix}": (_pillow(GRAY), True) for suffix in ("png", "bmp", "tif")},
    **{f"colour.{suffix}": (_pillow(COLOUR), True) for suffix in ("png", "bmp", "tif")},
    "gray.jpg": (_pillow(GRAY, **EVEN), True),
    "colour.jpg": (_pillow(COLOUR, **EVEN), True),
    "coarse.jpg": (_pillow(COLOUR, quality=60), False),
    "progressive.jpg": (_pillow(COLOUR, progressive=True, **EVEN), True),
    "cmyk.jpg": (_pillow(COLOUR, "CMYK", **EVEN), False),
    "packed.tif": (_pillow(COLOUR, compression="tiff_lzw"), True),
    "rgba.png": (_pillow(np.dstack([COLOUR, ALPHA])), True),
    "opaque rgba.tif": (_pillow(np.dstack([COLOUR, np.full_like(ALPHA, 255)])), True),
    "rgba.tif": (_pillow(np.dstack([COLOUR, ALPHA])), False),  # libtiff multiplies by the alpha channel
    "gray and alpha.png": (_pillow(np.dstack([GRAY, ALPHA])), True),
    "palette.png": (_pillow(COLOUR, "P"), True),
    "palette.bmp": (_pillow(COLOUR, "P"), True),
    "two levels.png": (_pillow(GRAY > 127), True),
    "two levels.bmp": (_pillow(GRAY > 127), True),
    "two levels.tif": (_pillow(GRAY > 127), True),
    "sixteen bit gray.png": (_opencv(_wide(GRAY)), False),
    "sixteen bit gray.tif": (_opencv(_wide(GRAY)), False),
    "sixteen bit colour.png": (_opencv(_wide(COLOUR)), False),
    "sixteen bit colour.tif": (_opencv(_wide(COLOUR)), False),
    "sixteen bit rgba.png": (_opencv(_wide(np.dstack([COLOUR, ALPHA]))), False),
    "sixteen bit dark.png": (_opencv(GRAY.astype(np.uint16) * 3), False),  # nothing over 765: not stretched
    "black.png": (_pillow(np.zeros_like(GRAY)), True),  # its own maximum is 0
    **{f"turned {n}.jpg": (_pillow(COLOUR, exif=_turned(n), **EVEN), True) for n in range(1, 9)},
    "turned 6.png": (_pillow(COLOUR, exif=_turned(6)), True),
    "turned 8.tif": (_pillow(COLOUR, exif=_turned(8)), True),
    **{
        f"{height} x {width}.png": (_pillow(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)), True)
        for height, width in ((1, 1), (1, 9), (9, 1), (2, 2), (199, 201), (47, 65), NETWORK_HW, (3, 20_000))
    },
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_same_tensor_in_training_and_on_the_line(name: str, engine_of: EngineOf, tmp_path: Path) -> None:
    write, judged = FILES[name]
    path = tmp_path / name
    write(path)
    wanted = training_tensor(path)
    assert wanted.shape == (3, *NETWORK_HW)
    assert wanted.dtype == np.float32
    assert np.array_equal(runtime_tensor(path, engine_of()), wanted)
    assert np.array_equal(runtime_tensor(path, engine_of(kind="fp16")), wanted)  # half begins behind it
    assert np.array_equal(evaluation_tensor(path), wanted)
    if judged:
        assert np.array_equal(read_image(path), _expected(path))
        np.testing.assert_allclose(wanted, _by_numpy(_expected(path), IMAGENET), rtol=0, atol=2e-6)


@pytest.mark.parametrize("how", [GRAY_STEEL, HALF, DIVIDED], ids=["gray steel", "half", "divided by the maximum"])
@pytest.mark.parametrize("name", ["colour.png", "1 x 1.png", "black.png", "sixteen bit gray.tif", "turned 5.jpg"])
def test_every_preprocessing_is_the_same_on_both_sides(
    how: Preprocessing, name: str, engine_of: EngineOf, tmp_path: Path
) -> None:
    path = tmp_path / name
    FILES[name][0](path)
    wanted = training_tensor(path, how)
    assert np.isfinite(wanted).all()
    assert np.array_equal(runtime_tensor(path, engine_of(how)), wanted)
    assert np.array_equal(evaluation_tensor(path, how), wanted)
    np.testing.assert_allclose(wanted, _by_numpy(read_image(path), how), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("suffix", "depth"), [(".bmp", np.uint8), (".png", np.uint16)])
def test_a_huge_picture_is_the_same_tensor(suffix: str, depth: type, engine_of: EngineOf, tmp_path: Path) -> None:
    path, size_hw = tmp_path / f"huge{suffix}", (7000, 9000)
    levels = np.arange(size_hw[0]) % 251 * (1 if depth is np.uint8 else 257)
    stored: np.ndarray = np.repeat(levels.astype(depth)[:, None], size_hw[1], axis=1)
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix == ".png" else []
    path.write_bytes(cv2.imencode(suffix, stored, fast)[1].tobytes())
    del stored
    wanted = training_tensor(path, size_hw=size_hw)
    assert np.array_equal(runtime_tensor(path, engine_of()), wanted)


def _too_wide(path: Path) -> None:
    Image.new("L", (2**20 + 1, 1)).save(path)


REFUSED: dict[str, Callable[[Path], None]] = {
    "empty.png": lambda path: _written(path, b""),
    "cut.png": lambda path: _written(path, cv2.imencode(".png", COLOUR)[1].tobytes()[:-20]),
    "cut.jpg": lambda path: _written(path, cv2.imencode(".jpg", COLOUR)[1].tobytes()[:-20]),
    "cut.bmp": lambda path: _written(path, cv2.imencode(".bmp", COLOUR)[1].tobytes()[:-20]),
    "text.png": lambda path: _written(path, b"no picture"),
    "float.tif": _opencv(GRAY.astype(np.float32)),
    "signed.tif": _opencv(GRAY.astype(np.int16)),
    "32 bit.tif": _opencv(GRAY.astype(np.int32)),
    "wider than 2^20.png": _too_wide,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_side_refuses_the_other_refuses(
    name: str, engine_of: EngineOf, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, mask = tmp_path / name, tmp_path / "mask.png"
    REFUSED[name](path)
    write_image(mask, np.zeros(GRAY.shape, np.uint8))
    with pytest.raises(InputError) as in_training:
        load_samples([Pair(path.stem, path, mask)])
    with pytest.raises(InputError) as on_the_line:
        runtime_tensor(path, engine_of())
    assert str(on_the_line.value) in str(in_training.value)  # the very same reason


WRONG_ARRAYS = {
    "gray": GRAY,
    "gray with an axis": GRAY[..., None],
    "rgba": np.dstack([COLOUR, ALPHA]),
    "16 bit": _wide(COLOUR),
    "float": COLOUR.astype(np.float32),
    "signed": COLOUR.astype(np.int8),
    "planar": np.ascontiguousarray(COLOUR.transpose(2, 0, 1)),
    "without a pixel": COLOUR[:0],
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_arrays_that_are_no_picture_are_refused_everywhere(name: str, engine_of: EngineOf) -> None:
    """A program that calls the library may hand over anything; nothing of it is cast, cut or repeated in silence."""
    image = WRONG_ARRAYS[name]
    module = EngineModule(OneLayer().eval(), IMAGENET, NETWORK_HW)
    wrong = r"must be \(H, W, 3\) uint8 BGR"
    with pytest.raises(InputError, match=wrong):
        engine_of()(image)
    with pytest.raises(InputError, match=wrong):
        Batcher(engine_of(kind="batch"), 2)([np.ascontiguousarray(COLOUR[..., ::-1]), image])
    with pytest.raises(InputError, match=wrong):
        list(predict_images(module, [image]))


@pytest.mark.parametrize("frames", [(1, 8, 8, 4), (1, 8, 8, 1), (8, 8, 3), (1, 3, 8, 8)])
def test_the_preprocessing_itself_refuses_other_channels(frames: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="frames must be"):
        Normalise(IMAGENET)(torch.zeros(frames, dtype=torch.uint8))


@pytest.mark.parametrize("kind", [torch.int16, torch.int8, torch.int64, torch.bool])
def test_the_preprocessing_itself_refuses_other_integers(kind: torch.dtype) -> None:
    with pytest.raises(InputError, match="frames must be"):
        Normalise(IMAGENET)(torch.zeros(1, 8, 8, 3, dtype=kind))


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "channels reversed": lambda image: image[..., ::-1],
    "every other pixel": lambda image: image[::2, 1::3],
    "a window": lambda image: image[5:-7, 11:-3],
    "transposed": lambda image: image.transpose(1, 0, 2),
    "column order": np.asfortranarray,
    "read only": lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
    "one row repeated": lambda image: np.broadcast_to(image[:1], image.shape),
    "planes of a planar buffer": lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
    "already of the network's size, mirrored": lambda image: resize_image(image, NETWORK_HW)[:, ::-1],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_and_strides_change_nothing(name: str, engine_of: EngineOf) -> None:
    view = VIEWS[name](COLOUR)
    plain = np.array(view, order="C")
    mask = np.zeros(plain.shape[:2], np.uint8)
    frame, _ = augment(view, mask, NETWORK_HW, UNCHANGED, np.random.default_rng(0))
    wanted = Normalise(IMAGENET)(torch.from_numpy(frame)[None])[0].numpy()
    np.testing.assert_allclose(wanted, _by_numpy(plain, IMAGENET), rtol=0, atol=2e-6)

    engine = engine_of()
    for image in (view, plain):
        engine(image)
        assert np.array_equal(engine.seen[0], wanted)
    batched = engine_of(kind="batch")
    Batcher(batched, 2)([view, np.ascontiguousarray(COLOUR)])
    assert np.array_equal(batched.seen[0], wanted)

    module = EngineModule(OneLayer().eval(), IMAGENET, NETWORK_HW)
    seen: list[Tensor] = []
    module.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    list(predict_images(module, [view]))
    assert np.array_equal(seen[0][0].numpy(), wanted)


@pytest.mark.parametrize("seed", range(40))
def test_random_pictures_of_any_size_and_stride(seed: int, engine_of: EngineOf) -> None:
    draw = np.random.default_rng(seed)
    height, width = (int(side) for side in np.exp(draw.uniform(0, np.log(400), 2)))
    brightest = int(draw.integers(1, 257))
    image = draw.integers(0, brightest, (height, width, 3), dtype=np.uint8)
    steps = draw.choice([-2, -1, 1, 2], 2)
    view = image[:: steps[0], :: steps[1]]
    frame, _ = augment(view, np.zeros(view.shape[:2], np.uint8), NETWORK_HW, UNCHANGED, draw)
    for how in (IMAGENET, DIVIDED):
        engine = engine_of(how)
        engine(view)
        assert np.array_equal(engine.seen[0], Normalise(how)(torch.from_numpy(frame)[None])[0].numpy())


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (37, 61), (96, 128), (199, 201), (480, 640)])
def test_an_engine_that_resizes_inside_scales_the_same_way(size_hw: tuple[int, int], engine_of: EngineOf) -> None:
    """The one place with a difference, and a documented one: OpenCV rounds the resized frame to whole gray levels.

    Up to the resizing the tensors are equal; behind it they are less than one gray level apart.
    """
    image = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    engine = engine_of(kind="dynamic")
    engine(image)
    before_resizing = Normalise(IMAGENET)(torch.from_numpy(image)[None])[0].numpy()
    assert np.array_equal(engine.seen[0], before_resizing)
    resized = interpolate(torch.from_numpy(before_resizing)[None], NETWORK_HW, mode="bilinear")[0]
    frame = resize_image(image, NETWORK_HW)
    in_training = Normalise(IMAGENET)(torch.from_numpy(frame)[None])[0]
    levels = (resized - in_training).abs() * 255 * torch.tensor(IMAGENET.std).view(3, 1, 1)
    assert float(levels.max()) < 1
