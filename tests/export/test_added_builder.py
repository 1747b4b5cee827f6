"""A builder of one's own, as docs/architecture.md tells to add one; its files run on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdi.export.engines import BuildJob, BuildOptions, BuiltPlan, EngineBuilder
from sdi.export.plan import engine_from_onnx
from sdi.runtime.common.errors import GateError
from sdi.runtime.common.progress import Progress
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import find_engine


class Copier(EngineBuilder):
    """Gives the file that it was made for as the engine."""

    name = "copy"
    suffix = ".copy"

    def __init__(self, made: Path) -> None:
        self._made = made

    def unavailable(self) -> str | None:
        return None

    def check(self, options: BuildOptions, precision: str, planar: bool, dynamic: bool) -> None:
        """It can do everything."""

    def build(self, job: BuildJob, options: BuildOptions) -> BuiltPlan:
        return BuiltPlan(memoryview(self._made.read_bytes()), "1.0", (), None, layers=0)


class Lines(Progress):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def test_what_it_builds_runs_the_golden_pictures_without_a_gpu(tmp_path: Path) -> None:
    minet, progress = find_engine("minet"), Lines()
    built = engine_from_onnx(minet, Copier(minet), BuildOptions(), tmp_path, progress=progress)
    assert "the golden pictures pass on ONNX Runtime" in progress.lines[-1]
    assert (built.path.name, built.manifest.target) == ("minet-fp32.copy", "copy")
    with open_engine(built.path) as engine:
        assert engine.manifest == built.manifest


def test_what_answers_otherwise_is_not_kept(tmp_path: Path) -> None:
    another = find_engine("tsernet-lite")
    with pytest.raises(GateError, match="answers a golden picture otherwise than PyTorch on ONNX Runtime"):
        engine_from_onnx(find_engine("minet"), Copier(another), BuildOptions(), tmp_path)
    assert list(tmp_path.iterdir()) == []
