"""Whether an engine file would run here: its header, its manifest, the library, the GPU, and the self-test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sdi.runtime.common.errors import InputError, SdiError
from sdi.runtime.doctor.finding import Finding, fault, fault_of, note, ok
from sdi.runtime.engine.cuda import Gpu
from sdi.runtime.engine.manifest import Manifest, manifest_path, read_manifest, verify_file
from sdi.runtime.engine.plan import HEADER_BYTES, PlanHeader, check_gpu, check_version, rebuild_command, verify_plan

__all__ = ["examine_engine"]


def examine_engine(path: Path, gpu: Callable[[], Gpu]) -> list[Finding]:
    """All findings about one file, up to the first fault that makes the rest pointless.

    Args:
        gpu: gives the GPU of this machine; called for plans alone.
    """
    findings = []
    for finding in _steps(path, gpu):
        findings.append(finding)
        if finding.status == "fault":
            break
    return findings


def _steps(path: Path, gpu: Callable[[], Gpu]) -> Iterator[Finding]:
    try:
        with path.open("rb") as file:
            header = PlanHeader.of(file.read(HEADER_BYTES))
        manifest = read_manifest(path)
    except (InputError, OSError) as error:
        yield _fault(path, "", error)
        return
    yield from _of_manifest(path, header, manifest)
    if header is not None:
        yield from _of_plan(path, header, manifest, gpu)
    yield from _self_test(path)


def _of_manifest(path: Path, header: PlanHeader | None, manifest: Manifest | None) -> Iterator[Finding]:
    check = f"{path.name}: manifest"
    try:
        if header is not None:
            verify_plan(path, header, manifest)
        elif manifest is not None:
            verify_file(path, manifest)
    except InputError as error:
        yield fault_of(check, error)
        return
    if manifest is None:
        make = rebuild_command(path, header.made_by) if header else "sdi-export --model NAME writes both"
        yield note(check, f"no {manifest_path(path).name}: whether this is the right file is unknown", make)
        return
    weights = ", random weights: its maps mean nothing" if manifest.random_weights else ""
    size = "frames of {}x{}".format(*manifest.frame_hw[::-1]) if manifest.frame_hw else "frames of any size"
    found = f"{manifest.model} in {manifest.precision} for {manifest.target}, {size}, bytes as listed{weights}"
    yield note(check, found, "sdi-export --checkpoint FILE") if weights else ok(check, found)


def _of_plan(path: Path, header: PlanHeader, manifest: Manifest | None, gpu: Callable[[], Gpu]) -> Iterator[Finding]:
    built = ".".join(map(str, header.version[:3])) if any(header.version) else "an unknown version"
    check = f"{path.name}: library"
    try:
        trt = header.made_by.load()
        check_version(path, header, manifest, trt)
    except SdiError as error:
        yield fault_of(check, error)
        return
    yield ok(check, f"built by {header.made_by.title} {built}, {trt.__version__} is installed")
    check = f"{path.name}: GPU"
    try:
        here = gpu()
        check_gpu(path, header, manifest, here.name, here.compute_capability, trt)
    except SdiError as error:
        finding = fault_of(check, error)
        yield fault(check, finding.found, f"{finding.fix}; or run {path.with_suffix('.onnx').name}")
        return
    yield ok(check, f"{here.name}, compute capability {here.compute_capability}, is among those it was built for")


def _self_test(path: Path) -> Iterator[Finding]:
    check = f"{path.name}: self-test"
    try:
        from sdi.runtime.engine.open import open_engine

        with open_engine(path) as engine:
            if engine.manifest is None:
                yield note(check, f"loads on {engine.device}, without a manifest to test against")
                return
            engine.self_test()
            yield ok(check, f"passed on {engine.device}")
    except (SdiError, ImportError) as error:
        yield _fault(path, "self-test", error)


def _fault(path: Path, what: str, error: Exception) -> Finding:
    check = f"{path.name}: {what}" if what else path.name
    if isinstance(error, SdiError):
        return fault_of(check, error)
    return fault(check, str(error), "see the lines above")
