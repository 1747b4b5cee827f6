"""The wheel and the source archive hold what the checkout holds, with its licence; and `sdi` leads to every command."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path

import pytest

from sdi import __version__
from sdi.__main__ import COMMANDS
from sdi.runtime.common.files import sha256_of
from support import command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("calibration", "export", "runtime", "train")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Of https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


@dataclass(frozen=True)
class Built:
    """What was built of a copy of the checkout: file name -> SHA-256, without the folder that names the version."""

    wheel: dict[str, str]
    again: dict[str, str]  # the wheel that is built from the source archive
    source: dict[str, str]
    metadata: bytes


def _build(folder: Path, kind: str, target: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", target, folder],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.iterdir()
    return made


def _in_wheel(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        assert not [name for name, count in Counter(names).items() if count > 1]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tree)
    for name in ("sdi", *FOLDERS):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    archive = _build(tree, "sdist", folder / "archive")
    wheel = _build(tree, "wheel", folder / "wheel")
    with tarfile.open(archive) as packed:
        if sys.version_info >= (3, 12):
            packed.extractall(folder, filter="data")
        else:
            packed.extractall(folder)
    unpacked = folder / f"sdi-{__version__}"
    source = {path.relative_to(unpacked).as_posix(): sha256_of(path) for path in unpacked.rglob("*") if path.is_file()}
    again = _build(unpacked, "wheel", folder / "again")
    with zipfile.ZipFile(wheel) as opened:
        metadata = opened.read(f"sdi-{__version__}.dist-info/METADATA")
    return Built(_in_wheel(wheel), _in_wheel(again), source, metadata)


def _checkout() -> dict[str, str]:
    """All files of the package: name in the wheel -> SHA-256."""
    files = {f"sdi/{path.name}": path for path in (ROOT / "sdi").iterdir() if path.is_file()}
    for folder in FOLDERS:
        inside = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        files |= {f"sdi/{path.relative_to(ROOT).as_posix()}": path for path in inside}
    return {name: sha256_of(path) for name, path in files.items()}


def test_the_wheel_holds_every_file_of_the_checkout_once_and_nothing_else(built: Built) -> None:
    """Each file once is `_in_wheel`'s to check: a link followed twice would put it there twice."""
    package = {name: digest for name, digest in built.wheel.items() if ".dist-info/" not in name}
    assert package == _checkout()
    assert {"sdi/py.typed", "sdi/runtime/shipped/shipped.json", "sdi/train/weights/minet.pt"} <= set(package)


def test_the_source_archive_holds_the_same_and_what_builds_it(built: Built) -> None:
    package = {name: digest for name, digest in built.source.items() if name.startswith("sdi/")}
    assert package == _checkout()
    beside = {name for name in built.source if not name.startswith(("sdi/", "sdi.egg-info/"))}
    made = {"PKG-INFO", "setup.cfg"}
    assert beside == made | {"pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE"}


def test_a_wheel_of_the_source_archive_is_the_wheel_of_the_checkout(built: Built) -> None:
    assert built.again == built.wheel


def test_the_licence_is_apache_2_and_travels_with_the_wheel(built: Built) -> None:
    licences = f"sdi-{__version__}.dist-info/licenses"
    assert built.wheel[f"{licences}/LICENSE"] == sha256_of(ROOT / "LICENSE") == APACHE_2
    assert built.wheel[f"{licences}/NOTICE"] == sha256_of(ROOT / "NOTICE")
    metadata = BytesHeaderParser().parsebytes(built.metadata)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert metadata["Version"] == __version__


def _sdi(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command("python", "-m", "sdi", *arguments)


def test_the_list_of_commands_is_whole() -> None:
    assert PROJECT["scripts"]["sdi"] == "sdi.__main__:main"
    assert {f"sdi-{name}" for name in COMMANDS} == PROJECT["scripts"].keys() - {"sdi"}
    listed = _sdi()
    assert listed.returncode == 0
    assert [name for name in COMMANDS if f"sdi {name} " not in listed.stdout] == []
    assert _sdi("--help").stdout == listed.stdout


@pytest.mark.parametrize("name", ["run", "sdi-run"])
def test_sdi_becomes_the_command_that_is_named(name: str) -> None:
    assert _sdi(name, "--help").stdout == command("sdi-run", "--help").stdout
    wrong = _sdi(name, "--threads", "0")
    assert wrong.returncode == 2
    assert "sdi-run" in wrong.stderr


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    done = _sdi("rum")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no command 'rum'; did you mean 'sdi run'?" in done.stderr
    assert "known: train, import, " in _sdi("qqqq").stderr
    assert _sdi("--version").stdout == f"sdi {__version__}\n"
