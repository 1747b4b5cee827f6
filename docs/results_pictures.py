"""Draws docs/results.png: how the shipped networks learned, and their precision and recall beside published maps.

Takes what stands in docs/results: NAME.csv, the log.csv of a run of sdi-train, and curves.json, what
`sdi-eval --json` says, cut to its curves by `python docs/results_pictures.py keep < scores.json`.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


def keep() -> None:
    """Keep the curves of what sdi-eval printed, to four digits."""
    printed = json.load(sys.stdin)
    curves = {
        each["label"]: {name: [round(value, 4) for value in each["curves"][name]] for name in ("recall", "precision")}
        for each in (printed, *printed["compared"].values())
    }
    (FOLDER / "curves.json").write_text(json.dumps(curves) + "\n")


def draw() -> None:
    """Both plots in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (learning, precision) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        learning.plot([int(row["epoch"]) for row in rows], [float(row["loss"]) for row in rows], label=path.stem)
    learning.set(xlabel="epoch", ylabel="mean loss of the epoch", yscale="log", title="Learning")
    for label, curve in json.loads((FOLDER / "curves.json").read_text()).items():
        precision.plot(curve["recall"], curve["precision"], label=label, linewidth=1)
    precision.set(xlabel="recall", ylabel="precision", ylim=(0.5, 1), title="360 test pictures")
    for axes in (learning, precision):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(FOLDER.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    keep() if sys.argv[1:] == ["keep"] else draw()
