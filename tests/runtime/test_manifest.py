"""The manifest beside an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdi.runtime.common.errors import InputError, SdiError
from sdi.runtime.engine.manifest import manifest_path, read_manifest, verify_file, write_manifest


def test_a_manifest_is_read_as_it_was_written(make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    manifest = read_manifest(engine)
    assert manifest is not None
    assert manifest.model == "tiny"
    assert manifest.frame_hw is None
    assert manifest.network_hw == (32, 48)
    assert manifest.high_precision_layers == ("round",)
    verify_file(engine, manifest)
    again = replace(manifest, frame_hw=(32, 48), batch=2)
    write_manifest(engine, again)
    assert read_manifest(engine) == again


def test_its_name_is_the_artefacts_with_json(tmp_path: Path) -> None:
    assert manifest_path(tmp_path / "minet-fp16.onnx").name == "minet-fp16.onnx.json"


def test_none_where_there_is_none(make_engine: Callable[..., Path]) -> None:
    assert read_manifest(make_engine(manifest=False)) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "other"}, "is not a manifest of sdi"),
        ({"format_version": 2}, "has format 2, this sdi reads 1; update sdi"),
        ({"model": None}, "model is not a text"),
        ({"sha256": 3}, "sha256 is not a text"),
        ({"bytes": "12"}, "bytes or random_weights"),
        ({"random_weights": 1}, "bytes or random_weights"),
        ({"frame_hw": [32]}, "frame_hw is not a height and a width"),
        ({"frame_hw": [32, -1]}, "frame_hw is not"),
        ({"frame_hw": {"h": 1, "w": 2}}, "frame_hw is not"),
        ({"network_hw": None}, "network_hw is not"),
        ({"batch": "one"}, "batch is not a number"),
        ({"golden": []}, "golden is not an object"),
        ({"metrics": 3}, "metrics is not an object"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], text: str, make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    path = manifest_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=text):
        read_manifest(engine)


def test_a_missing_field_is_named(make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    path = manifest_path(engine)
    value = json.loads(path.read_text())
    del value["sha256"]
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"damaged .*sha256.*export the engine again"):
        read_manifest(engine)


def test_a_field_of_a_later_version_is_left_alone(make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    path = manifest_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": True}))
    assert read_manifest(engine) is not None


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"[" * 100_000, b'"text"', bytes(100), b"1" * 10_000]
)
def test_garbage_is_an_input_error(data: bytes, make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    manifest_path(engine).write_bytes(data)
    with pytest.raises(InputError, match=r"manifest .*(cannot be read|is not a manifest of sdi)|is not a manifest"):
        read_manifest(engine)


def test_a_folder_in_its_place_is_an_input_error(make_engine: Callable[..., Path]) -> None:
    engine = make_engine(manifest=False)
    manifest_path(engine).mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(engine)


def test_random_changes_give_a_manifest_or_an_sdi_error(make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    path = manifest_path(engine)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    alphabet = b'{}[]",:0123456789.-eE\\nulltrue\x00\xff '
    for _ in range(300):
        broken = bytearray(data)
        for place in sorted(rng.integers(0, len(broken), int(rng.integers(1, 6))).tolist(), reverse=True):
            kind = int(rng.integers(0, 4))
            if kind == 0:
                broken[place] = alphabet[int(rng.integers(0, len(alphabet)))]
            elif kind == 1:
                del broken[place : place + int(rng.integers(1, 30))]
            elif kind == 2:
                broken[place:place] = broken[place // 2 : place // 2 + 20]
            else:
                del broken[place:]
            if not broken:
                break
        path.write_bytes(broken)
        with suppress(SdiError):
            manifest = read_manifest(engine)
            assert manifest is not None
            verify_file(engine, manifest)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("native_hw", [200], "native_hw is not a height and a width"),
        ("native_hw", [200, 0], "native_hw is not a height and a width"),
        ("tile_hw", "200", "tile_hw is not a height and a width"),
        ("mm_per_pixel", 0, "mm_per_pixel is not a length above 0"),
        ("mm_per_pixel", True, "mm_per_pixel is not a length above 0"),
        ("overlap", 2.5, "overlap is not a number of pixels"),
    ],
)
def test_scale_and_windows_are_checked(field: str, value: object, text: str, make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    path = manifest_path(engine)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, field: value}))
    with pytest.raises(InputError, match=text):
        read_manifest(engine)
    for name in ("native_hw", "mm_per_pixel", "tile_hw", "overlap"):  # an older sdi's
        del content[name]
    path.write_text(json.dumps(content))
    manifest = read_manifest(engine)
    assert manifest is not None
    assert (manifest.native_hw, manifest.mm_per_pixel, manifest.tile_hw, manifest.overlap) == (None,) * 4


def test_verify_file_tells_truncated_from_replaced(make_engine: Callable[..., Path]) -> None:
    engine = make_engine()
    manifest = read_manifest(engine)
    assert manifest is not None
    data = engine.read_bytes()
    engine.write_bytes(data[:-7])
    with pytest.raises(InputError, match=rf"has {len(data) - 7} bytes, its manifest says {len(data)}: truncated"):
        verify_file(engine, manifest)
    engine.write_bytes(data + b"more")
    with pytest.raises(InputError, match="another file"):
        verify_file(engine, manifest)
    engine.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="does not match the SHA-256"):
        verify_file(engine, manifest)
    engine.unlink()
    with pytest.raises(InputError, match="cannot read"):
        verify_file(engine, manifest)
