"""What is asked of a parsed network, and of an ONNX file before it is parsed."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdi.runtime.common.errors import InputError

__all__ = ["NEWEST_OPSET", "check_contract", "check_opset", "edge_layers", "half_tensor", "opset_of"]

NEWEST_OPSET = 20  # that every TensorRT from 10.3 on reads; parsers take any number in silence


def check_contract(trt: Any, network: Any, path: Path, *, planar: bool) -> None:
    """Make sure that the parsed network has our inputs and outputs, and no output was dropped.

    Raises:
        InputError: it has not; the text names what was expected and what is there.
    """
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    kind = trt.float32 if planar else trt.uint8
    right = (
        [(t.name, t.dtype, len(t.shape)) for t in inputs] == [("frame", kind, 4)]
        and inputs[0].shape[1 if planar else 3] == 3
        and [(t.name, t.dtype, len(t.shape)) for t in outputs] == [("saliency", kind, 4 if planar else 3)]
    )
    if not right:
        expected = (
            "frame float32 [N, 3, H, W] and saliency float32 [N, 1, H, W]"
            if planar
            else "frame uint8 [N, H, W, 3] and saliency uint8 [N, H, W]"
        )
        there = ", ".join(f"{t.name} {t.dtype.name.lower()} {list(t.shape)}" for t in (*inputs, *outputs))
        raise InputError(
            f"{path} breaks the I/O contract of an sdi engine: expected {expected}; it has {there or 'none'}"
        )


def half_tensor(trt: Any, network: Any) -> str | None:
    """Name of the first tensor in half; None in a float32 network."""
    for layer in _layers(network):
        for i in range(layer.num_outputs):
            tensor = layer.get_output(i)
            if tensor is not None and tensor.dtype == trt.float16:
                return str(tensor.name)
    return None


def edge_layers(trt: Any, network: Any) -> list[Any]:
    """Layers between `frame` and the first convolutions, and between the last ones and `saliency`.

    They scale pixels by 1/255 and make probabilities of logits: half has too few digits for both.
    """
    convolutions = {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION}
    layers = list(_layers(network))
    makers = {_output(layer, i): n for n, layer in enumerate(layers) for i in range(layer.num_outputs)}
    users: dict[str, list[int]] = {}
    for n, layer in enumerate(layers):
        for name in _inputs(layer):
            users.setdefault(name, []).append(n)

    def reach(start: str, step: dict[str, list[int]], ahead: bool) -> set[int]:
        found: set[int] = set()
        waiting = [start]
        while waiting:
            for n in step.get(waiting.pop(), []):
                if n not in found and layers[n].type not in convolutions:
                    found.add(n)
                    waiting += (
                        [_output(layers[n], i) for i in range(layers[n].num_outputs)]
                        if ahead
                        else list(_inputs(layers[n]))
                    )
        return found

    head = reach(network.get_input(0).name, users, ahead=True)
    tail = reach(network.get_output(0).name, {name: [n] for name, n in makers.items()}, ahead=False)
    return [layers[n] for n in sorted(head | tail)]


def check_opset(path: Path) -> None:
    """Refuse an opset that parsers would read in silence and perhaps wrongly.

    Raises:
        InputError: it is newer than `NEWEST_OPSET`, or the file is no whole ONNX model.
    """
    opset = opset_of(path)
    if opset is None:
        raise InputError(f"{path} is no whole ONNX model; copy it again or export it again")
    if opset > NEWEST_OPSET:
        raise InputError(
            f"{path} uses opset {opset}; engines are built from opset {NEWEST_OPSET} at most, which TensorRT from "
            "10.3 on reads. Export it again with sdi-export"
        )


def opset_of(path: Path) -> int | None:
    """Version of the standard operators that an ONNX file uses; None where it is no whole model.

    Reads the top level of the file alone, so that a device needs no `onnx` package.

    Source: onnx.proto, ModelProto: field 8 is opset_import {1: domain, 2: version}.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for field, value in _fields(data, 0, len(data)):
                if field == 8 and isinstance(value, range):
                    inner = dict(_fields(data, value.start, value.stop))
                    domain = inner.get(1, range(0))
                    name = data[domain.start : domain.stop] if isinstance(domain, range) else b"?"
                    number = inner.get(2)
                    if name in (b"", b"ai.onnx") and isinstance(number, int):
                        return number
        except (IndexError, ValueError):
            return None
    return None


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int | range]]:
    """Fields of a protocol buffer message: numbers as they are, what has a length as the range of its bytes."""
    while start < stop:
        key, start = _varint(data, start)
        kind = key & 7
        if kind == 0:
            value, start = _varint(data, start)
            yield key >> 3, value
            continue
        if kind == 2:
            length, start = _varint(data, start)
        else:
            length = {1: 8, 5: 4}[kind] if kind in (1, 5) else stop
        if start + length > stop:
            raise ValueError("a field reaches over the end")
        yield key >> 3, range(start, start + length)
        start += length


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(i) for i in range(network.num_layers))


def _inputs(layer: Any) -> Iterator[str]:
    tensors = (layer.get_input(i) for i in range(layer.num_inputs))
    return (tensor.name for tensor in tensors if tensor is not None)


def _output(layer: Any, i: int) -> str:
    return str(layer.get_output(i).name)
