"""An aarch64 machine without one: Debian's packages and pip's wheels for it, run by QEMU's user-mode emulation.

Nothing is installed and no root is changed: the packages are unpacked into a folder that QEMU looks into before the
real root. `bin/python` is a script that calls the emulator, and says that it is Python's own program, so that child
processes are emulated too, without binfmt_misc.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tools.jetson.recipe import VERSIONS, StepError, call, declared, made_once, pinned, write_commands

__all__ = ["QEMU", "emulated_environment"]

QEMU = "qemu-aarch64-static"
_APT = "apt-get install qemu-user-static debootstrap debian-archive-keyring"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def emulated_environment(cache: Path) -> Path:
    """The folder whose bin/python is Python for aarch64, with JetPack 6's set of packages; made where it is not there.

    Raises:
        StepError: an emulator, a package or a wheel cannot be had.
    """
    for program in (QEMU, "debootstrap", "dpkg"):
        if shutil.which(program, path=_path()) is None:
            raise StepError(f"{program} is not installed; {_APT}")
    how = VERSIONS["emulated"]
    root = made_once(cache / "aarch64-root", how, _unpack_root)
    python = f"python{how['python']}"
    packages = [*pinned(), *declared(), "onnx>=1.17", "pytest>=8", "pytest-timeout>=2.3"]

    def make(folder: Path) -> None:
        site = folder / "lib" / python / "site-packages"
        platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64")]
        wheels = ["--only-binary=:all:", "--implementation", "cp", "--python-version", how["python"], *platforms]
        pip: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        call([*pip, "--target", site, *wheels, *packages], "does pip reach its index?")
        (folder / "bin").mkdir()
        (folder / "pyvenv.cfg").write_text(f"home = {root}/usr/bin\ninclude-system-site-packages = false\n")
        script = folder / "bin" / "python"
        script.write_text(f'#!/bin/sh\nexec {QEMU} -0 "$0" -L {root} {root}/usr/bin/{python} "$@"\n')
        script.chmod(0o755)
        write_commands(folder)

    environment = made_once(cache / "aarch64", {**how, "packages": packages, "root": str(root)}, make)
    machine = call([environment / "bin" / "python", "-c", "import platform; print(platform.machine())"], _APT).strip()
    if machine != "aarch64":
        raise StepError(f"the emulated Python says that it runs on {machine}, expected aarch64; remove {cache}")
    return environment


def _unpack_root(folder: Path) -> None:
    how, fetched = VERSIONS["emulated"], folder / "fetched"
    options = ["--download-only", "--arch=arm64", "--variant=minbase", "--include=python3"]
    advice = f"it needs root and Debian's mirror {how['mirror']}; {_APT}"
    call(["debootstrap", *options, how["suite"], fetched, how["mirror"]], advice, env={**os.environ, "PATH": _path()})
    packages = sorted(fetched.glob("var/cache/apt/archives/*.deb"))
    if not packages:
        raise StepError(f"debootstrap fetched no package into {fetched}; {advice}")
    for package in packages:
        call(["dpkg", "-x", package, folder], advice)
    shutil.rmtree(fetched)


def _path() -> str:
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin"  # debootstrap's place, which users have not in theirs
