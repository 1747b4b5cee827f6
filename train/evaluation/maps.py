"""Where the maps that are scored come from: a folder, an engine or a checkpoint, behind one interface."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sdi.runtime.common.console import warn
from sdi.runtime.common.errors import DeviceError, InputError, some_of
from sdi.runtime.common.images import list_images, read_gray, read_image
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.batching import Batcher
from sdi.runtime.engine.open import open_tiled
from sdi.runtime.engine.tiled import run_in_windows
from sdi.runtime.engine.tiling import Grids, Tiling, TrainedScale

if TYPE_CHECKING:
    from typing_extensions import Self

    from sdi.train.engine_module import EngineModule

__all__ = ["CheckpointMaps", "EngineMaps", "FolderMaps", "MapSource", "NetworkMaps", "NetworkOptions", "compared_maps"]


Item = TypeVar("Item")


class MapSource(abc.ABC):
    """Gives saliency maps of pictures. A context manager.

    Attributes:
        label: what it is, in a word, for tables and legends.
        detail: what it is, in full.
    """

    label: str
    detail: str

    def check(self, pictures: Sequence[Path]) -> None:
        """Find out beforehand, where that is cheap, whether all of them can have a map.

        Raises:
            InputError: they cannot; the text names those that have none.
        """

    @abc.abstractmethod
    def maps(self, pictures: Sequence[Path]) -> Iterator[np.ndarray]:
        """The map of each picture, in order: (H, W) uint8, probability x 255, at the picture's own size.

        Raises:
            InputError: a picture or its map is missing or cannot be read.
            DeviceError: the execution failed.
        """

    def origin(self, picture: Path) -> str:
        """What decides the size of the picture's map, for error texts."""
        return f"picture {picture}"

    def close(self) -> None:
        """Free what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FolderMaps(MapSource):
    """Image files that carry the pictures' stems, as `sdi-run --masks` writes them.

    Raises:
        InputError: no folder, no image in it, or two of one stem.
    """

    def __init__(self, folder: Path, label: str | None = None) -> None:
        self.label, self.detail = folder.resolve().name if label is None else label, f"maps in {folder}"
        self._folder = folder
        files = list_images(folder)
        twice = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
        if twice:
            raise InputError(f"{len(twice)} pictures have two maps in {folder}: {some_of(twice)}")
        self._files = {path.stem: path for path in files}

    def check(self, pictures: Sequence[Path]) -> None:
        absent = [f"{picture.stem}.png" for picture in pictures if picture.stem not in self._files]
        if absent:
            raise InputError(
                f"{len(absent)} of {len(pictures)} pictures have no map in {self._folder}: {some_of(absent)}; make "
                f"them: sdi-run --source {pictures[0].parent} --masks {self._folder}"
            )

    def maps(self, pictures: Sequence[Path]) -> Iterator[np.ndarray]:
        self.check(pictures)
        return (read_gray(self._files[picture.stem]) for picture in pictures)

    def origin(self, picture: Path) -> str:
        return f"map {self._files[picture.stem]}"


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is asked for maps."""

    device: str = "auto"
    threads: int | None = None
    batch: int = 8  # pictures a call, where an engine leaves that open
    flips: bool = False  # see `NetworkMaps`
    tiling: Tiling = field(default_factory=Tiling)  # of pictures that are larger than those it was trained on
    first_look: str | None = None  # an engine that sees windows before, as in `open_engine`


class NetworkMaps(MapSource):
    """What a network answers.

    Attributes:
        batch: pictures asked of it at once.
        flips: answer with the mean map of the picture's turns and flips: all eight of a square one, which has the same
            size however it is turned, and the four flips of others.
    """

    batch: int
    flips: bool

    @abc.abstractmethod
    def predict(self, images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Maps of at most `batch` pictures, (H, W, 3) uint8 BGR each; see `maps`."""

    def maps(self, pictures: Sequence[Path]) -> Iterator[np.ndarray]:
        for chunk in _chunks(pictures, self.batch):
            images = [read_image(path) for path in chunk]
            if self.flips:
                yield from (self._mean_of_flips(image) for image in images)
            else:
                yield from self.predict(images)

    def _mean_of_flips(self, image: np.ndarray) -> np.ndarray:
        turns = (0, 1, 2, 3) if image.shape[0] == image.shape[1] else (0, 2)
        ways = [(turn, flipped) for turn in turns for flipped in (False, True)]
        variants = [np.rot90(image[:, ::-1] if flipped else image, turn) for turn, flipped in ways]
        total = np.zeros(image.shape[:2])
        for chunk in _chunks(list(zip(ways, variants, strict=True)), self.batch):
            answers = self.predict([np.ascontiguousarray(variant) for _, variant in chunk])
            for ((turn, flipped), _), answer in zip(chunk, answers, strict=True):
                back = np.rot90(answer, -turn)
                total += back[:, ::-1] if flipped else back
        return np.rint(total / len(ways)).astype(np.uint8)


class EngineMaps(NetworkMaps):
    """What an engine answers, at its own input size or in windows, as `sdi-run` does; needs no torch.

    Its golden pictures are checked first.

    Raises:
        InputError, DeviceError: see `open_engine` and `Engine.self_test`.
    """

    def __init__(self, path: Path, options: NetworkOptions | None = None) -> None:
        options = options or NetworkOptions()
        self._engine: Engine = open_tiled(path, options.device, options.threads, options.tiling, options.first_look)
        try:
            self._engine.self_test()
        except BaseException:
            self._engine.close()
            raise
        manifest = self._engine.manifest
        self.label, self.detail = path.stem, f"engine {path} on {self._engine.device}"
        if manifest is None:
            warn(f"no manifest beside {path}: it cannot be checked; copy its .json too")
        else:
            self.label = f"{manifest.model} {manifest.precision}"
            if manifest.random_weights:
                warn("this engine has random weights: its scores mean nothing")
        self._batcher = Batcher(self._engine, self._engine.batch or options.batch)
        self.batch, self.flips = self._batcher.largest, options.flips

    def predict(self, images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        yield from self._batcher(images)

    def close(self) -> None:
        self._engine.close()


class CheckpointMaps(NetworkMaps):
    """What a checkpoint of ours answers in PyTorch, float32, at the size it was trained at or in windows.

    Raises:
        InputError: see `load_checkpoint` and `load_network`; or an unknown device.
        DeviceError: no CUDA here.
    """

    def __init__(self, path: Path, options: NetworkOptions | None = None) -> None:
        import torch

        from sdi.train.checkpoint import load_checkpoint, load_network
        from sdi.train.engine_module import EngineModule

        options = options or NetworkOptions()
        device, tiling = options.device, options.tiling
        if device not in ("auto", "cpu", "cuda"):
            raise InputError(f"unknown device '{device}'; use auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("PyTorch finds no CUDA GPU; use --device cpu")
        where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if options.threads:
            torch.set_num_threads(options.threads)
        checkpoint = load_checkpoint(path)
        self._module: EngineModule = EngineModule(
            load_network(checkpoint), checkpoint.preprocessing, checkpoint.input_hw
        ).to(where)
        self._grids = Grids(tiling, TrainedScale(checkpoint.native_hw, checkpoint.mm_per_pixel, checkpoint.input_hw))
        self.batch, self.flips = options.batch, options.flips
        self.label = checkpoint.model
        self.detail = f"checkpoint {path} in PyTorch {torch.__version__} on {where}"

    def predict(self, images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        import torch

        from sdi.train.scores import predict_images

        def answers(calls: Iterable[Sequence[np.ndarray]]) -> Iterator[np.ndarray]:
            return (answer for some in calls for answer in predict_images(self._module, some, self.batch))

        grids = [self._grids.of(_size_hw(image)) for image in images]
        try:
            whole = answers([[image for image, grid in zip(images, grids, strict=True) if grid is None]])
            for image, grid in zip(images, grids, strict=True):
                yield next(whole) if grid is None else run_in_windows(image, grid, answers, self.batch)
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{self.label} needs more GPU memory than is free; use a smaller --batch") from error


def compared_maps(compare: Iterable[str]) -> list[FolderMaps]:
    """The folders of `--compare`, NAME=FOLDER each; one without a name is called as the folder is.

    Raises:
        InputError: a folder has no maps, or a name is missing or given twice.
    """
    found: dict[str, FolderMaps] = {}
    for text in compare:
        name, is_named, folder = text.partition("=")
        other = FolderMaps(Path(folder), name) if is_named else FolderMaps(Path(text))
        if not other.label:
            raise InputError(f"--compare {text} has no name; expected NAME=FOLDER")
        if other.label in found:
            raise InputError(f"--compare {other.label} is given twice; expected another name for each folder")
        found[other.label] = other
    return list(found.values())


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _size_hw(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
