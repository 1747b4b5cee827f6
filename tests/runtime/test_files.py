"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import atomic_path, ensure_folder, sha256_of, write_bytes, write_text


@pytest.mark.parametrize("durable", [True, False])
def test_atomic_path_renames_when_the_block_ends_well(durable: bool, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with atomic_path(target, durable=durable) as beside:
        assert beside.suffix == ".onnx"
        assert beside.parent == tmp_path
        beside.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_atomic_path_keeps_the_old_file_when_the_block_raises(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as beside:
        beside.write_bytes(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "Grüße")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1
    assert (tmp_path / "ours").read_bytes() == "Grüße".encode()


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    name = "m" * 251 + ".png"  # 255 bytes, the most that file systems take
    write_bytes(tmp_path / name, b"map")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("place", ["gone/x.bin", "file/x.bin", "x" * 300])
def test_what_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"cannot write .*{place[:20]}"):
        write_bytes(tmp_path / place, b"data")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_an_input_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; it is the process's own, so it needs one."""
    code = (
        "import resource, sys; from pathlib import Path; from sdi.runtime.common.files import write_bytes\n"
        "from sdi.runtime.common.errors import InputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(Path(sys.argv[1]) / 'map.png', bytes(5000))\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "cannot write" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == []


def test_ensure_folder(tmp_path: Path) -> None:
    assert ensure_folder(tmp_path / "a" / "b").is_dir()
    assert ensure_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=r"cannot write to folder .*choose another folder"):
            ensure_folder(place)


def test_sha256_of_spans_blocks(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # more than one block of 1 MiB
    (tmp_path / "x").write_bytes(data)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(data).hexdigest()
