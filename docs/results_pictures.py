"""Draws docs/results.png: how the shipped networks learned, and their precision and recall beside published maps.

Takes what stands in docs/results: NAME.csv, the log.csv of a run of sdi-train, and curves.json, what
`sdi-eval --json` says, cut to its curves by `python docs/results_pictures.py keep < scores.json`.
`python docs/results_pictures.py hours` prints how long each run took.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent / "results"
BATCH = 8  # pictures a step, in all of these runs


def keep() -> None:
    """Keep the curves of what sdi-eval printed, to four digits."""
    printed = json.load(sys.stdin)
    curves = {
        each["label"]: {name: [round(value, 4) for value in each["curves"][name]] for name in ("recall", "precision")}
        for each in (printed, *printed["compared"].values())
    }
    (FOLDER / "curves.json").write_text(json.dumps(curves) + "\n")


def runs() -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Each run's name and its epochs."""
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(newline="") as file:
            yield path.stem, [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def hours() -> None:
    """Print each run's epochs, hours in all, and pictures a second in its first and last tenth."""
    for name, rows in runs():
        steps = (rows[-1]["step"] - rows[0]["step"]) / (len(rows) - 1)
        rates = [row["images_per_second"] for row in rows]
        tenth = -(-len(rows) // 10)
        first, last = median(rates[:tenth]), median(rates[-tenth:])
        seconds = sum(steps * BATCH / rate for rate in rates)
        print(f"{name}: {len(rows)} epochs, {seconds / 3600:.2f} h, {first:.1f}, {last:.1f}")


def draw() -> None:
    """Both plots in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (learning, precision) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, rows in runs():
        learning.plot([row["epoch"] for row in rows], [row["loss"] for row in rows], label=name)
    learning.set(xlabel="epoch", ylabel="mean loss of the epoch", yscale="log", title="Learning")
    for label, curve in json.loads((FOLDER / "curves.json").read_text()).items():
        precision.plot(curve["recall"], curve["precision"], label=label, linewidth=1)
    precision.set(xlabel="recall", ylabel="precision", ylim=(0.5, 1), title="360 test pictures")
    for axes in (learning, precision):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(FOLDER.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    {"keep": keep, "hours": hours, "draw": draw}[(sys.argv[1:] or ["draw"])[0]]()
