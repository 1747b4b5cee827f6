"""Training MINet: channels-last, which the trainer uses, against PyTorch's default layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.rows import Row, Table
from benchmarks.timing import interleaved, quotients, repeated
from benchmarks.workbench import Workbench
from sdi.train.models import build_model, model_spec
from sdi.train.preprocess import Normalise

__all__ = ["run"]

_HW = (256, 256)
_BATCH = 8
_ROUNDS = 9


def run(bench: Workbench) -> Table:
    """Images a second of whole steps: preprocessing, forward, loss, backward, optimiser."""
    torch.set_num_threads(bench.cores)
    bench.progress.log("timing training")
    seconds = interleaved(
        {
            "default": repeated(_step(bench, torch.contiguous_format)),
            "channels_last": repeated(_step(bench, torch.channels_last)),
        },
        bench.rounds(_ROUNDS),
    )
    rates = {name: [_BATCH / s for s in values] for name, values in seconds.items()}
    rows = [
        Row("channels-last, its rate over the default layout's", "x", quotients(*reversed(rates.values()))),
        Row("channels-last", "images/s", rates["channels_last"]),
        Row("default layout", "images/s", rates["default"]),
    ]
    notes = (
        f"Whole steps of MINet on batches of {_BATCH} pictures 256x256, as the trainer takes them, without "
        "reading and augmenting pictures."
    )
    return Table("training", f"Training, {bench.cores} CPU cores", notes, rows)


def _step(bench: Workbench, layout: torch.memory_format) -> Callable[[], None]:
    spec = model_spec("minet")
    torch.manual_seed(0)
    network = build_model("minet").train().to(memory_format=layout)  # type: ignore[call-overload]
    normalise = Normalise(spec.preprocessing)
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.learning_rate)
    pairs = [bench.picture(seed, _HW) for seed in range(_BATCH)]
    frames = torch.from_numpy(np.stack([image for image, _ in pairs]))
    masks = torch.from_numpy(np.stack([mask for _, mask in pairs]))[:, None].float() / 255

    def step() -> None:
        maps = network(normalise(frames).contiguous(memory_format=layout))
        loss = spec.loss(maps, masks)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step
