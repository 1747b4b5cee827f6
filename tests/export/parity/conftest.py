"""Engines of a trained network in every precision, made without tracing it again; and the same with a fault in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from damage import Edit, save_engine
from sdi.calibration.ranges import measure_ranges
from sdi.export.half import half_model
from sdi.export.quantize import quantizable_layers, quantized_model
from sdi.runtime.common.images import read_image, resize_image, write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.shipped import find_engine
from sdi.train.checkpoint import shipped_checkpoint


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """Of the small network that comes with sdi, really trained."""
    found = shipped_checkpoint("minet")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def strip_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `images` and `masks`: drawn strip of every kind, and clean strip."""
    folder = tmp_path_factory.mktemp("strip")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for kind in (*DEFECTS, "clean"):
        image, mask = draw_strip(kind, 3)
        write_image(folder / "images" / f"{kind}.png", image)
        write_image(folder / "masks" / f"{kind}.png", mask)
    return folder


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory, strip_pairs: Path) -> dict[str, Path]:
    """fp32, fp16 and int8 -> an engine of `checkpoint`."""
    folder, source = tmp_path_factory.mktemp("engines"), find_engine("minet")
    manifest, model = read_manifest(source), onnx.load(source)
    assert manifest is not None
    frames = [resize_image(read_image(path), manifest.network_hw)[None] for path in (strip_pairs / "images").iterdir()]
    inputs = {layer.tensor for layer in quantizable_layers(model)}
    models = {
        "fp32": model,
        "fp16": half_model(model),
        "int8": quantized_model(model, measure_ranges(model, frames, tensors=inputs)),
    }
    return {name: save_engine(folder / f"minet-{name}.onnx", made, manifest, name) for name, made in models.items()}


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[Path, Edit], Path]:
    """A copy of an engine after an edit of its graph, with a manifest that knows nothing of it."""

    def damage(engine: Path, edit: Edit) -> Path:
        model, manifest = onnx.load(engine), read_manifest(engine)
        assert manifest is not None
        edit(model)
        return save_engine(tmp_path / engine.name, model, manifest, manifest.precision)

    return damage
