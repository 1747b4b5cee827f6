"""`sdi-parity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sdi.runtime.common.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.common.errors import DeviceError, GateError, InputError
from sdi.runtime.common.options import MmPerPixelOption, OverlapOption, TileOption
from sdi.runtime.common.progress import ConsoleProgress
from sdi.runtime.common.renamed import renamed_option

if TYPE_CHECKING:
    from sdi.export.parity.result import CandidateResult, GateResult
    from sdi.train.data import Pair

__all__ = ["main"]

_PICTURES = "Pictures"
_BOUNDS = "Bounds"
_RELEASES = "Releases"
_OUT = "Results"
_DEVICE = "On the device"


def parity_command(
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint: the reference, in PyTorch, float32.", show_default=False)
    ] = None,
    engine: Annotated[
        list[Path] | None,
        typer.Option(
            help="Engine to judge, an ONNX file or a plan made by sdi-export, or a name of sdi-run --list; repeat for "
            "several."
        ),
    ] = None,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Judge the deploy form too: batch norm folded, still in PyTorch.")
    ] = False,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect", help="Find the first layer of each ONNX file that differs, by bisection on its worst picture."
        ),
    ] = False,
    where: Annotated[bool, typer.Option("--where", hidden=True, help="Former name of --bisect.")] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real pictures. Default: synthetic strip, a weaker proof.", rich_help_panel=_PICTURES
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Their masks, by stem: scores are compared too.", rich_help_panel=_PICTURES),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Instead: test pictures and masks of a data set, e.g. SD-saliency-900.", rich_help_panel=_PICTURES
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Compare on N pictures, spread over the folder.", rich_help_panel=_PICTURES),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Probability from which a pixel belongs to the mask.", rich_help_panel=_BOUNDS)
    ] = 0.5,
    tolerances: Annotated[
        Path | None,
        typer.Option(help="TOML file of bounds that replace those of --print-tolerances.", rich_help_panel=_BOUNDS),
    ] = None,
    print_tolerances: Annotated[
        bool,
        typer.Option(
            "--print-tolerances", help="Print the bounds and their reasons, and stop.", rich_help_panel=_BOUNDS
        ),
    ] = False,
    clean_steel: Annotated[
        bool,
        typer.Option(
            "--clean-steel",
            help="Judge what is taken for a defect on clean steel too: on windows of the pictures' background, where "
            "their masks are given, and on drawn strip.",
            rich_help_panel=_PICTURES,
        ),
    ] = False,
    clean: Annotated[
        Path | None,
        typer.Option(help="Folder of defect-free pictures, for --clean-steel too.", rich_help_panel=_PICTURES),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep a small record of each engine in, once all have passed.", rich_help_panel=_RELEASES
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Folder of --record: fail where an engine is worse than the last release of its kind.",
            rich_help_panel=_RELEASES,
        ),
    ] = None,
    against: Annotated[Path | None, typer.Option(hidden=True, help="Former name of --baseline.")] = None,
    release: Annotated[
        str | None,
        typer.Option(
            help="What to call the engines' records, e.g. 1.4.0. Default: the first digits of their SHA-256.",
            rich_help_panel=_RELEASES,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="HTML file of the store's metrics over time; without --checkpoint nothing else is done.",
            rich_help_panel=_RELEASES,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder for parity.json, parity.xml (JUnit), parity.md and parity.html.", rich_help_panel=_OUT
        ),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            help="Folder for reference | engine | difference of what fails. Default: parity-evidence, or evidence in "
            "the folder of --report.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Write to folders and files that sdi-parity did not make.", rich_help_panel=_OUT
        ),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print metrics, bounds and each picture as JSON.", rich_help_panel=_OUT)
    ] = False,
    tile: TileOption = "auto",
    overlap: OverlapOption = None,
    mm_per_pixel: MmPerPixelOption = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(
            help="Where ONNX files run; plans run on a GPU. Default: cpu; with --self-test, a GPU where one is.",
            rich_help_panel=_DEVICE,
        ),
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Check each --engine on the golden pictures of its manifest instead: no checkpoint, no PyTorch.",
            rich_help_panel=_DEVICE,
        ),
    ] = False,
) -> None:
    """Prove that engines answer what was trained.

    Compares raw probabilities, before rounding, with the checkpoint in PyTorch. Exit code 0: every engine is within the
    bounds of its precision; 1: one is not, and its worst pictures are kept; 2: the two cannot be compared; 3: an engine
    needs a device that is not here.

    Examples:

      sdi-parity --checkpoint best.pt --engine minet-fp16.onnx --images strip

      sdi-parity --checkpoint best.pt --engine minet-fp16.onnx --engine minet-int8.onnx --data SD-saliency-900
      --report parity

      sdi-parity --checkpoint best.pt --engine minet-int8.onnx --data SD-saliency-900 --clean-steel
      --baseline releases --record releases --release 1.4.0 --plot releases.html

      sdi-parity --self-test --engine minet-fp16.plan
    """
    if print_tolerances:
        _print_tolerances(tolerances)
        return
    bisect = renamed_option("--bisect", bisect or None, "--where", where or None) or False
    baseline = renamed_option("--baseline", baseline, "--against", against)
    if not 0 < threshold <= 1:
        raise InputError(f"--threshold must be above 0 and at most 1, got {threshold}")
    if self_test:
        if checkpoint is not None or deploy or bisect:
            raise InputError("--self-test needs no checkpoint: leave out --checkpoint, --deploy and --bisect")
        from sdi.export.parity.self_test import self_test as run_self_test

        run_self_test(engine or [], device or "auto", json)
        return
    store = record or baseline
    if store is None and (plot is not None or release is not None):
        raise InputError("--plot and --release are about a store of releases; give --baseline STORE or --record STORE")
    if checkpoint is None:
        if plot is not None and store is not None and not (engine or deploy or record):
            _plot(plot, store, overwrite)
            return
        raise InputError("give --checkpoint FILE, the reference; or --self-test, which needs none")
    with log.status("loading PyTorch"):
        from sdi.export.parity.clean import clean_patches
        from sdi.export.parity.gate import GateRequest, run_gate
        from sdi.export.parity.pictures import Pictures
        from sdi.export.parity.regression import REGRESSION_LIMITS, compare_with_baseline, read_regression_limits
        from sdi.export.parity.store import check_release, read_store, record_of, save_records
        from sdi.export.parity.tables import print_result
        from sdi.export.parity.tolerances import TOLERANCES, read_tolerances
    from sdi.runtime.common.output_folder import claim_folder
    from sdi.runtime.engine.tiling import Tiling, parse_tile

    bounds = TOLERANCES if tolerances is None else read_tolerances(tolerances)
    allowed = REGRESSION_LIMITS if tolerances is None else read_regression_limits(tolerances)
    if release is not None:
        check_release(release)
    records = [] if baseline is None else read_store(baseline)
    if plot is not None:
        from sdi.export.parity.plots import check_page

        check_page(plot, overwrite)  # before the work
    pairs = _pairs(images, masks, data)
    pictures = Pictures(images, limit, pairs)
    if pictures.synthetic:
        warn("no --images: comparing on synthetic strip, a weaker proof", "note:")
    patches = clean_patches(pairs, clean) if clean_steel or clean is not None else []
    if patches and pairs is None and clean is None:
        warn("neither masks nor --clean: the clean steel is drawn strip alone, a weaker proof", "note:")
    if report is not None:
        claim_folder(report, "parity", overwrite, "sdi-parity --report")
    evidence = evidence or (Path("parity-evidence") if report is None else report / "evidence")
    request = GateRequest(
        checkpoint,
        engine or (),
        deploy,
        device or "cpu",
        threshold,
        bounds,
        evidence,
        bisect,
        overwrite,
        patches,
        Tiling(parse_tile(tile), overlap, mm_per_pixel),
    )
    result = run_gate(request, pictures, ConsoleProgress())
    if baseline is not None:
        result = compare_with_baseline(result, records, release, allowed)
    if report is not None:
        from sdi.export.parity.report import write_reports

        for path in write_reports(report, result):
            log.print(f"wrote {path}")
    if json:
        print_json(result.to_dict())
    else:
        print_result(result)
    _verdict(result)
    if record is not None:
        for path in save_records(record, [record_of(result, one, release) for one in result.candidates]):
            log.print(f"recorded {path}")
    if plot is not None and store is not None:
        _plot(plot, store, overwrite)


def _verdict(result: GateResult) -> None:
    """Leave with the exit code: a gate that failed goes before a device that is not here."""
    failed = [_complaint(one) for one in result.candidates if one.failures or one.regressions]
    if failed:
        raise GateError("\n".join(failed))
    if absent := [f"{one.name}: {one.unavailable}" for one in result.candidates if one.unavailable]:
        raise DeviceError("cannot be compared here:\n" + "\n".join(absent))


def _complaint(result: CandidateResult) -> str:
    """Everything that a candidate fails by, and where that shows best."""
    from sdi.export.parity.result import regression_in_words
    from sdi.export.parity.tolerances import in_words

    parts = [in_words(row) for row in result.failures]
    if any(not row.metric.startswith("clean") for row in result.failures):
        parts.append(f"worst picture {max(result.pictures, key=lambda picture: picture.max).name}")
    if result.clean is not None and any(row.metric.startswith("clean") for row in result.failures):
        parts.append(f"worst patch {result.clean.worst}")
    if result.regressions:
        parts.append(regression_in_words(result))
    parts += [note for note in result.notes if "another checkpoint" in note]
    return f"{result.name} fails the {result.precision} gate: " + "; ".join(parts)


def _pairs(images: Path | None, masks: Path | None, data: Path | None) -> list[Pair] | None:
    from sdi.train.data import find_pairs, splits_at

    if data is not None:
        if images is not None or masks is not None:
            raise InputError("give either --data, or --images and --masks, not both")
        return find_pairs(data, "test" if "test" in splits_at(data) else None)
    return None if masks is None else find_pairs(images=images, masks=masks)


def _plot(path: Path, store: Path, overwrite: bool) -> None:
    from sdi.export.parity.plots import write_history
    from sdi.export.parity.store import read_store

    log.print(f"wrote {write_history(path, read_store(store), overwrite=overwrite)}")


def _print_tolerances(path: Path | None) -> None:
    from sdi.export.parity.regression import REGRESSION_LIMITS, read_regression_limits, regression_limits_as_toml
    from sdi.export.parity.tolerances import TOLERANCES, read_tolerances, tolerances_as_toml

    out.print(tolerances_as_toml(TOLERANCES if path is None else read_tolerances(path)), end="")
    out.print(regression_limits_as_toml(REGRESSION_LIMITS if path is None else read_regression_limits(path)), end="")


def main() -> None:
    """Entry point of `sdi-parity`."""
    run_app(single_command(parity_command))
