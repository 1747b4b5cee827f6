"""The real pycuda, built from its sources, over a stub of libcuda: takes minutes, so it is asked for by name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from simulated_tensorrt import plan_bytes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_TIMEOUT_S = 1800

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SDI_PYCUDA" not in os.environ, reason="SDI_PYCUDA is not set: builds pycuda; needs no GPU"),
]


def _run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return str(done.stdout)


def _stub(folder: Path, missing: list[str]) -> Path:
    """libcuda.so.1 of the stub, and of functions that it lacks: these only have to be there when pycuda is loaded."""
    source = (HERE / "libcuda_stub.c").read_text()
    source += "".join(f"int {name}(void) {{ return 801; }}\n" for name in missing if f"int {name}(" not in source)
    (folder / "stub.c").write_text(source)
    library = folder / "libcuda.so.1"
    _run("gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, folder / "stub.c")
    (folder / "libcuda.so").unlink(missing_ok=True)
    (folder / "libcuda.so").symlink_to(library.name)
    return library


@pytest.fixture(scope="module")
def pycuda(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of the package, and the stub."""
    nvcc = shutil.which("nvcc") or "nvcc"
    places = (os.environ.get("CUDA_ROOT", ""), Path(nvcc).resolve().parents[1], "/usr/local/cuda")
    toolkit = next((place for place in map(Path, places) if (place / "include" / "cuda.h").is_file()), None)
    assert toolkit is not None, "pycuda is built with the headers of a CUDA toolkit; set CUDA_ROOT to its folder"
    folder = tmp_path_factory.mktemp("pycuda")
    _stub(folder, [])
    version = os.environ["SDI_PYCUDA"]
    wanted = f"pycuda=={version}" if re.fullmatch(r"[\d.]+", version) and version != "1" else "pycuda"
    tools = folder / "tools"
    _run(sys.executable, "-m", "venv", tools)
    _run(tools / "bin/pip", "install", "-q", "setuptools", "wheel", "numpy", "pytools")
    get = (tools / "bin/pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation")
    _run(*get, wanted, "-d", folder)
    (archive,) = folder.glob("pycuda-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    configure = (f"--cuda-root={toolkit}", f"--cudadrv-lib-dir={folder}", "--no-cuda-enable-curand")
    _run(tools / "bin/python", "configure.py", *configure, cwd=source)
    _run(tools / "bin/pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, source)
    (wheel,) = folder.glob("pycuda-*.whl")
    package = folder / "package"
    _run(tools / "bin/pip", "install", "-q", "--target", package, wheel, "pytools", "platformdirs", "mako", "--no-deps")
    (driver,) = (package / "pycuda").glob("_driver*.so")
    missing = [line.split()[-1] for line in _run("nm", "-D", "--undefined-only", driver).splitlines()]
    return package, _stub(folder, [name for name in missing if name.startswith("cu")])


@pytest.mark.parametrize("integrated", [False, True], ids=["copies", "zero-copy"])
def test_every_call_of_the_real_pycuda_may_fail(pycuda: tuple[Path, Path], tmp_path: Path, integrated: bool) -> None:
    package, stub = pycuda
    plan = tmp_path / "tiny.plan"
    plan.write_bytes(plan_bytes(b"ftrt", "10.3.0", (1, 8, 12), (3, 16, 20)))
    # The packages of cuda-python are hidden: where they are installed, they are taken.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfrom importlib import import_module\nimport cuda.bindings.runtime\n"
        "import gpu_simulator\nsys.modules['cuda.bindings'] = sys.modules['cuda.cudart'] = None\n"
    )
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, package, ROOT / "tests", ROOT))),
        "LD_LIBRARY_PATH": str(stub.parent),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        **({"STUB_INTEGRATED": "1"} if integrated else {}),
    }
    said = _run(sys.executable, HERE / "use_pycuda.py", plan, stub, env=env, cwd=tmp_path)
    assert said.strip() == "objects left: {}"
