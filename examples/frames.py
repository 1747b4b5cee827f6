"""An engine in a loop of your own: frames from a generator, none of sdi's sources, sinks or threads.

    python examples/frames.py [ENGINE]

ENGINE is a file, or a name that `sdi-run --list` shows; by default the engine that comes with sdi.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from sdi.runtime import DefectRule, Region, default_engine, find_regions, open_engine
from sdi.runtime.common.strip import draw_strip


def grab() -> Iterator[np.ndarray]:
    """Stands for your camera's library: (H, W, 3) uint8 BGR, one after another."""
    for kind in ("clean", "patch", "scratch", "inclusion"):
        image, _ = draw_strip(kind, seed=1)
        yield image


def inspect(frames: Iterator[np.ndarray], engine_file: str, rule: DefectRule) -> Iterator[list[Region]]:
    """The defects of each frame, largest first."""
    with open_engine(engine_file) as engine:
        engine.self_test()  # refuses a device that computes otherwise than PyTorch did
        for frame in frames:
            saliency = engine(frame)  # (H, W) uint8, probability x 255, at the frame's own size
            yield find_regions(saliency, rule.threshold, rule.min_area)


def main() -> None:
    engine_file = sys.argv[1] if len(sys.argv) > 1 else str(default_engine())
    for number, regions in enumerate(inspect(grab(), engine_file, DefectRule(threshold=0.5, min_area=16))):
        found = ", ".join(f"{region.width}x{region.height} at {region.x},{region.y}" for region in regions)
        print(f"frame {number}: {found or 'clean'}")


if __name__ == "__main__":
    main()
