"""Wide strip as a test: frames made of a data set's pictures, and how an engine fares on them.

`python -m benchmarks.wide build FOLDER` and `python -m benchmarks.wide score FOLDER`, from the repository root.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from sdi.runtime.common.classes import defect_class
from sdi.runtime.common.console import log, out, print_json, run_app
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import ensure_folder, write_text
from sdi.runtime.common.images import write_image
from sdi.runtime.common.options import MmPerPixelOption, OverlapOption, TileOption
from sdi.runtime.common.progress import ConsoleProgress
from sdi.runtime.engine.tiling import Tiling, parse_tile
from sdi.train.data import Pair, find_pairs, load_samples, read_truth
from sdi.train.evaluation.defects import DefectScores, OperatingPoints, PictureDefects, defect_regions, match_defects
from sdi.train.evaluation.maps import CheckpointMaps, EngineMaps, MapSource, NetworkOptions
from sdi.train.wide.strip import Strip, StripMaker, StripPlan

_RECORD = "wide.json"
_GROUPS = (6, 16)  # of defects in a frame

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@dataclass(frozen=True)
class Defect:
    """One connected region of a frame's mask: where its pixels come from, and its box."""

    source: str  # picture
    defect_class: str
    area: int
    x: int
    y: int
    width: int
    height: int


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="New folder: images, masks and wide.json.")],
    data: Annotated[Path, typer.Option(envvar="SDI_DATA", help="Data set, e.g. SD-saliency-900.")],
    split: Annotated[str, typer.Option(help="Split whose pictures it is made of.")] = "test",
    frames: Annotated[int, typer.Option(min=1, help="Frames with defects.")] = 24,
    clean: Annotated[int, typer.Option(min=0, help="Frames without.")] = 6,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH.")] = "800x2048",
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal frames.")] = 0,
) -> None:
    """Make frames of wide strip: one kind of surface each, the data set's own defects at their own size."""
    if folder.exists():
        raise InputError(f"{folder} exists; choose a folder that does not")
    size_hw = _size(size)
    samples = load_samples(find_pairs(data, None if split == "all" else split))
    maker = StripMaker(samples)
    rng = np.random.default_rng(seed)
    grounds = _grounds(maker, rng)
    record: dict[str, Any] = {
        "command": "python -m benchmarks.wide " + " ".join(sys.argv[1:]),
        "seed": seed,
        "split": split,
        "size_hw": list(size_hw),
        "frames": {},
    }
    for part in ("images", "masks"):
        ensure_folder(folder / part)
    for n in ConsoleProgress().track(range(frames + clean), "building", frames + clean):
        groups = int(rng.integers(_GROUPS[0], _GROUPS[1] + 1)) if n < frames else 0
        plan = StripPlan(size_hw, groups, seed=int(rng.integers(2**31)), surface=grounds[n % len(grounds)])
        strip = maker.draw(plan)
        kind = defect_class(strip.surface) or "strip"
        name = f"{kind}_{n:03d}" if groups else f"clean_{n:03d}"
        write_image(folder / "images" / f"{name}.png", strip.image)
        write_image(folder / "masks" / f"{name}.png", strip.mask)
        record["frames"][name] = {
            "surface": strip.surface,
            "seed": plan.seed,
            "defects": [asdict(defect) for defect in _defects(strip)],
        }
    write_text(folder / _RECORD, json.dumps(record, indent=1) + "\n")
    defects = sum(len(frame["defects"]) for frame in record["frames"].values())
    log.print(f"{frames + clean} frames with {defects} defects in {folder}")


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="What build made.")],
    engine: Annotated[list[str] | None, typer.Option(help="Engine, or the name of one that comes with sdi.")] = None,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="Checkpoint of sdi-train, run in PyTorch.")] = None,
    threshold: Annotated[float, typer.Option(help="As sdi-run's.")] = 0.5,
    min_area: Annotated[int, typer.Option(min=1, help="As sdi-run's.")] = 1,
    false_alarms: Annotated[float, typer.Option(min=0, help="Wished false regions a megapixel.")] = 1.0,
    tile: TileOption = "auto",
    overlap: OverlapOption = None,
    mm_per_pixel: MmPerPixelOption = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Defects found, false regions and IoU, of each engine and checkpoint."""
    record = _read(folder)
    pairs = find_pairs(images=folder / "images", masks=folder / "masks")
    if {pair.name for pair in pairs} != set(record["frames"]):
        raise InputError(f"{folder} does not hold the frames that its {_RECORD} names; build it again")
    options = NetworkOptions("cpu", threads, 8, False, Tiling(parse_tile(tile), overlap, mm_per_pixel))
    points = OperatingPoints.around(threshold, min_area)
    results = {}
    for path in [*(Path(name) for name in engine or ()), *(checkpoint or ())]:
        with CheckpointMaps(path, options) if path in (checkpoint or ()) else EngineMaps(path, options) as source:
            matched = _matched(source, pairs, record, points)
        results[str(path)] = DefectScores(points, matched, threshold, min_area, mm_per_pixel)
    if not results:
        raise InputError("name what to score: --engine or --checkpoint, both as often as wanted")
    if as_json:
        print_json({name: scores.to_dict(false_alarms) for name, scores in results.items()})
        return
    out.print(_table(results))


def _matched(
    source: MapSource, pairs: list[Pair], record: dict[str, Any], points: OperatingPoints
) -> list[PictureDefects]:
    maps = ConsoleProgress().track(source.maps([pair.image for pair in pairs]), source.label, len(pairs))
    matched = []
    for pair, saliency in zip(pairs, maps, strict=True):
        classes = [defect["defect_class"] for defect in record["frames"][pair.name]["defects"]]
        matched.append(match_defects(pair.name, saliency, read_truth(pair.mask), points, classes))
    return matched


def _table(results: dict[str, DefectScores]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("", "defects", "found 10 %", "found 50 %", "false a megapixel", "on clean frames", "IoU"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, scores in results.items():
        false = scores.false_regions()
        for group, counts in scores.found().items():
            whole = group == "all"
            shares = [f"{counts[key] / max(1, counts['defects']):.3f}" for key in ("found_10", "found_50")]
            rates = [f"{false[kind]['a_megapixel']:.2f}" if kind in false else "" for kind in ("all", "clean")]
            rest = [*rates, f"{scores.iou():.3f}"] if whole else ["", "", ""]
            table.add_row(name if whole else f"  {group}", str(counts["defects"]), *shares, *rest)
    return table


def _grounds(maker: StripMaker, rng: np.random.Generator) -> list[int]:
    """Surfaces in an order in which the classes of their pictures take turns."""
    by_class: dict[str, list[int]] = {}
    for n in rng.permutation(maker.grounds):
        by_class.setdefault(defect_class(maker.surfaces[n].name), []).append(int(n))
    turns = [by_class[name] for name in sorted(by_class)]
    return [members[n] for n in range(min(len(members) for members in turns)) for members in turns]


def _defects(strip: Strip) -> list[Defect]:
    """In the order of `defect_regions`."""
    count, labels = defect_regions(strip.mask)
    found = []
    for label in range(1, count + 1):
        ys, xs = np.nonzero(labels == label)
        x, y = int(xs.min()), int(ys.min())
        group = next(g for g in strip.placed if g.x <= xs[0] < g.x + g.width and g.y <= ys[0] < g.y + g.height)
        box = (x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1)
        found.append(Defect(group.source, defect_class(group.source), len(xs), *box))
    return found


def _read(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no {_RECORD} of python -m benchmarks.wide build: {error}") from error
    return record


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()) or min(int(height), int(width)) < 200:
        raise InputError(f"--size takes HEIGHTxWIDTH, 200 at the least each; got '{text}'")
    return int(height), int(width)


if __name__ == "__main__":
    run_app(app)
