"""`sdi-eval`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdi.runtime.common.console import log, out, print_json, run_app, single_command
from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.options import FirstLookOption, MmPerPixelOption, OverlapOption, TileOption
from sdi.runtime.common.progress import ConsoleProgress

if TYPE_CHECKING:
    import numpy as np

    from sdi.train.data import Pair
    from sdi.train.evaluation.evaluate import CleanSteel, Evaluation
    from sdi.train.evaluation.maps import MapSource, NetworkOptions
    from sdi.train.evaluation.results import DefectRule

__all__ = ["main"]

_WHAT = "What is scored: one of the first three"
_AGAINST = "Against what"
_OUT = "Where results go"
_HOW = "How"
_ONE_OF = "give one of --checkpoint, --engine and --maps; to see how: sdi-eval --help"


def eval_command(
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint of sdi-train or sdi-import, run in PyTorch.", rich_help_panel=_WHAT)
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(help="Engine of sdi-export, run as sdi-run does; no torch.", rich_help_panel=_WHAT)
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            help="Folder of 8-bit saliency maps named as the pictures, as sdi-run --masks writes.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="Another method's maps to set beside, NAME=FOLDER; give it again for more.", rich_help_panel=_WHAT
        ),
    ] = None,
    complexity: Annotated[
        bool,
        typer.Option(
            "--complexity",
            help="Instead of scoring: parameters and multiply-accumulates of every network beside the papers'.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(envvar="SDI_DATA", help="Data set: SD-saliency-900, ORSSD or EORSSD.", rich_help_panel=_AGAINST),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="How --data is laid out; recognised where only one fits.", rich_help_panel=_AGAINST),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data: test, train or all.", rich_help_panel=_AGAINST)] = "test",
    images: Annotated[
        Path | None, typer.Option(help="Instead of --data: folder of pictures.", rich_help_panel=_AGAINST)
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of masks (0 and 255) with the pictures' stems.", rich_help_panel=_AGAINST),
    ] = None,
    trust_masks: Annotated[
        bool,
        typer.Option(
            "--trust-masks",
            help="Take masks that mark more than half of all pixels, or none, which are refused otherwise.",
            rich_help_panel=_AGAINST,
        ),
    ] = False,
    clean: Annotated[
        Path | None,
        typer.Option(
            help="Folder of defect-free pictures; with --maps their maps are looked for there too.",
            rich_help_panel=_AGAINST,
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(help="Probability from which a pixel is taken for a defect.", rich_help_panel=_AGAINST),
    ] = 0.5,
    min_area: Annotated[
        int, typer.Option(min=1, help="Pixels that a region has at the least, as sdi-run's.", rich_help_panel=_AGAINST)
    ] = 1,
    false_alarms: Annotated[
        float,
        typer.Option(
            min=0,
            help="False regions a megapixel that the line bears: the threshold and least area that hold it are told.",
            rich_help_panel=_AGAINST,
        ),
    ] = 1.0,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT",
            help="Folder that an earlier --report wrote for the same pictures: what changed since, picture by picture.",
            rich_help_panel=_AGAINST,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder for index.html: tables beside the papers', curves, best and worst cases.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="File for the scores of every group and picture.", rich_help_panel=_OUT)
    ] = None,
    save_maps: Annotated[
        Path | None, typer.Option(help="Folder to keep the maps made, NAME.png.", rich_help_panel=_OUT)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over files that sdi-eval did not make.", rich_help_panel=_OUT)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print scores and curves as JSON.", rich_help_panel=_OUT)
    ] = False,
    tile: TileOption = "auto",
    overlap: OverlapOption = None,
    mm_per_pixel: MmPerPixelOption = None,
    first_look: FirstLookOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_HOW)] = "auto",
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures run at once, where the engine leaves it open.", rich_help_panel=_HOW)
    ] = 8,
    flips: Annotated[
        bool,
        typer.Option(
            "--flips",
            help="Score the mean map of each picture's turns and flips: better, at eight times the cost.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads for the network; default one a core.", rich_help_panel=_HOW)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that score; default one a core, or 1 where few pictures need no more.",
            rich_help_panel=_HOW,
        ),
    ] = None,
) -> None:
    """Score a checkpoint, an engine or a folder of maps as the papers do, on 8-bit maps, with PySODMetrics.

    S-measure, F-measure, E-measure and MAE over all pictures, by defect class (the name before its last '_') and by
    failure class (tiny defects, close defects, fine scratches); then the same without the stretch of each map that
    the papers' tables include. Then by defect: how many are found, by class and size, and how many regions are false.
    docs/evaluation.md explains every column.

    Examples:

      sdi-eval --engine minet-fp16.onnx --data SD-saliency-900 --report scores

      sdi-eval --maps maps --images strip/images --masks strip/masks --json

      sdi-eval --checkpoint best.pt --data SD-saliency-900 --clean strip/good --compare theirs=their-maps

      sdi-eval --checkpoint best.pt --images strip/images --masks strip/masks --report after --baseline before
    """
    if complexity:
        _show_complexity(json)
        return
    if sum(given is not None for given in (checkpoint, engine, maps)) != 1:
        raise InputError(_ONE_OF)
    if first_look is not None and engine is None:
        raise InputError("--first-look looks before an engine: give --engine")
    if maps is not None and flips:
        raise InputError("--flips asks a network several times; the maps of --maps are made already")
    if not 0 < threshold <= 1:
        raise InputError(f"--threshold must be above 0 and at most 1, got {threshold}")
    if maps is not None and save_maps is not None:
        raise InputError("--save-maps keeps the maps of a network; those of --maps are in a folder already")

    from sdi.runtime.common.files import write_text
    from sdi.runtime.common.images import list_images
    from sdi.runtime.common.output_folder import claim_folder
    from sdi.runtime.engine.tiling import Tiling, parse_tile
    from sdi.train.data import choose_layout, find_pairs, read_truth, refuse_doubtful_masks
    from sdi.train.evaluation.baseline import keep_evaluation, read_baseline
    from sdi.train.evaluation.maps import NetworkOptions, compared_maps
    from sdi.train.evaluation.paper_tables import dataset_of
    from sdi.train.evaluation.results import DefectRule, Results
    from sdi.train.evaluation.tables import csv_text, print_tables, to_dict

    if images is not None or masks is not None:  # SDI_DATA may be set as well
        data, split = None, "all"
    pairs = find_pairs(data, None if split == "all" else split, images=images, masks=masks, layout=layout)
    if not trust_masks:
        refuse_doubtful_masks(read_truth(pair.mask) for pair in pairs)
    test_split = _test_split(data, layout) if split == "all" and data is not None else frozenset()
    clean_pictures = [] if clean is None else list_images(clean)
    _check_names(pairs, clean_pictures)
    before = None if baseline is None else read_baseline(baseline)
    others = compared_maps(compare or [])
    for other in others:
        other.check([pair.image for pair in pairs])
    rule = DefectRule(threshold, min_area, mm_per_pixel, false_alarms)
    options = NetworkOptions(device, threads, batch, flips, Tiling(parse_tile(tile), overlap, mm_per_pixel), first_look)
    with ExitStack() as stack:
        source = stack.enter_context(_open_source(checkpoint, engine, maps, options))
        source.check([*(pair.image for pair in pairs), *clean_pictures])
        if report is not None:
            from sdi.train.evaluation.report import write_report  # what is not installed shows before the work

            claim_folder(report, "report", overwrite, "sdi-eval --report")
        if csv is not None:
            _check_csv(csv, overwrite)
        if save_maps is not None:
            claim_folder(save_maps, "masks", overwrite, "sdi-eval --save-maps")
        log.print(f"{source.detail}; {len(pairs)} pictures")
        evaluations, clean_steel = _evaluate([source, *others], pairs, clean_pictures, rule, save_maps, workers)
    tested = choose_layout(data, layout) if data is not None and split == "test" else None
    known = dataset_of(test_split or {pair.name for pair in pairs}, tested)
    results = Results(
        [replace(each, test_split=test_split) for each in evaluations],
        clean_steel,
        f"{split} of {data}" if data is not None else f"{images}",
        known,
        before,
        rule,
    )
    if before is not None:
        before.changes(results.first)  # refuses what was made of other pictures before anything is written
    files = [] if save_maps is None else [save_maps]
    if csv is not None:
        write_text(csv, csv_text(results))
        files.append(csv)
    if report is not None:
        files.append(write_report(report, results))
        keep_evaluation(report, results.first)
    if json:
        print_json({**to_dict(results), "files": [str(path) for path in files]})
        return
    print_tables(results)
    for path in files:
        log.print(f"wrote {path}")


def _test_split(data: Path, layout: str | None) -> frozenset[str]:
    """Names of the test pictures, where all pictures are scored and the data tells both splits apart."""
    from sdi.train.data import find_pairs, splits_at

    if set(splits_at(data, layout)) != {"train", "test"}:
        return frozenset()
    return frozenset(pair.name for pair in find_pairs(data, "test", layout=layout))


def _open_source(checkpoint: Path | None, engine: Path | None, maps: Path | None, options: NetworkOptions) -> MapSource:
    from sdi.train.evaluation.maps import CheckpointMaps, EngineMaps, FolderMaps

    if checkpoint is not None:
        with log.status("loading PyTorch"):
            return CheckpointMaps(checkpoint, options)
    if engine is not None:
        return EngineMaps(engine, options)
    if maps is not None:
        return FolderMaps(maps)
    raise InputError(_ONE_OF)


def _check_names(pairs: Sequence[Pair], clean_pictures: Sequence[Path]) -> None:
    """Maps are known by their stem, so that a clean picture may have no other's."""
    both = sorted({pair.name for pair in pairs} & {picture.stem for picture in clean_pictures})
    if both:
        raise InputError(f"{len(both)} pictures of --clean have the name of a picture with a mask: {some_of(both)}")


def _check_csv(path: Path, overwrite: bool) -> None:
    """An earlier table of ours may be replaced, nothing else."""
    from sdi.train.evaluation.tables import CSV_HEADER

    try:
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: {path.parent} is not a folder; make it first")
        ours = not path.exists() or _first_line(path) == ",".join(CSV_HEADER)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another name") from error
    if not ours and not overwrite:
        raise InputError(f"{path} exists and is no table of sdi-eval; choose another name or pass --overwrite")


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(1000).decode(errors="replace").rstrip()


def _evaluate(
    sources: Sequence[MapSource],
    pairs: Sequence[Pair],
    clean_pictures: Sequence[Path],
    rule: DefectRule,
    save_maps: Path | None,
    workers: int | None,
) -> tuple[list[Evaluation], CleanSteel | None]:
    """Score every source, the first of them on clean steel too; its maps are what `save_maps` keeps."""
    from sdi.runtime.common.images import write_image
    from sdi.train.data import read_truth
    from sdi.train.evaluation.evaluate import evaluate, evaluate_clean
    from sdi.train.scores import Scorer, workers_worth_starting

    def keep(name: str, saliency: np.ndarray) -> None:
        if save_maps is not None:
            write_image(save_maps / f"{name}.png", saliency)

    pixels = read_truth(pairs[0].mask).size * len(pairs) * len(sources)
    progress = ConsoleProgress()
    with Scorer(workers or workers_worth_starting(pixels)) as scorer:
        first = evaluate(pairs, sources[0], scorer, points=rule.points, keep=keep, progress=progress)
        others = [evaluate(pairs, source, scorer, points=rule.points, progress=progress) for source in sources[1:]]
    clean_steel = None
    if clean_pictures:
        clean_steel = evaluate_clean(clean_pictures, sources[0], rule.threshold, keep=keep, progress=progress)
    return [first, *others], clean_steel


def _show_complexity(json: bool) -> None:
    with log.status("loading PyTorch"):
        from sdi.train.complexity import complexity_rows, complexity_table
    rows = complexity_rows(ConsoleProgress())
    if json:
        print_json(rows)
    else:
        out.print(complexity_table(rows))


def main() -> None:
    """Entry point of `sdi-eval`."""
    run_app(single_command(eval_command))
