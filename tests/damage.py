"""Faults planted in engines that were made well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.manifest import Manifest, write_manifest

Edit = Callable[[onnx.ModelProto], None]


def save_engine(path: Path, model: onnx.ModelProto, manifest: Manifest, precision: str) -> Path:
    """Write a graph with the manifest of another engine, in which file and precision are its own."""
    onnx.save(model, path)
    digest, size = sha256_of(path), path.stat().st_size
    write_manifest(path, replace(manifest, precision=precision, sha256=digest, onnx_sha256=digest, bytes=size))
    return path


def negate(layer: str) -> Edit:
    """An edit that turns the sign of a layer's weights, in whatever precision they are."""

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name in (f"network.{layer}.weight", f"network.{layer}.weight.int8"):
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(-values), tensor.name))
                return
        raise AssertionError(f"no weights of {layer}")

    return edit
