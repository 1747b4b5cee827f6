from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sdi.runtime.common.errors import InputError
from sdi.train.augment import Augmentation
from sdi.train.batches import Batches
from sdi.train.data import Sample
from sdi.train.recipe import Recipe

RECIPE = Recipe(learning_rate=0.1, input_hw=(48, 48), crop_hw=(32, 48), batch_size=4)


def test_shapes_and_values(samples: list[Sample]) -> None:
    batches = Batches(samples[:7], RECIPE)
    assert (batches.size, batches.per_epoch) == (4, 1)
    (share,) = next(batches.epoch(0, 0))
    assert (tuple(share.frames.shape), share.frames.dtype) == ((4, 32, 48, 3), torch.uint8)
    assert (tuple(share.masks.shape), share.masks.dtype) == ((4, 1, 32, 48), torch.float32)
    assert set(share.masks.unique().tolist()) <= {0.0, 1.0}


def test_who_computes_a_share_changes_nothing_in_it(samples: list[Sample]) -> None:
    """Four parts in one process, two in each of two, one in each of four."""
    whole = [share for shares in Batches(samples, replace(RECIPE, accumulate=4)).epoch(3, 0) for share in shares]
    assert len({share.seed for share in whole}) == len(whole) == 8
    for processes in (2, 4):
        recipe = replace(RECIPE, accumulate=4 // processes)
        ranks = [Batches(samples, recipe, rank=rank, processes=processes).epoch(3, 0) for rank in range(processes)]
        split = [share for step in zip(*ranks, strict=True) for shares in step for share in shares]
        for one, other in zip(whole, split, strict=True):
            assert torch.equal(one.frames, other.frames)
            assert torch.equal(one.masks, other.masks)
            assert one.seed == other.seed


def test_an_epoch_can_be_taken_up_in_its_middle(samples: list[Sample]) -> None:
    recipe = replace(RECIPE, batch_size=2)
    whole, rest = list(Batches(samples, recipe).epoch(1, 0)), list(Batches(samples, recipe).epoch(1, 3))
    assert (len(whole), len(rest)) == (4, 1)
    assert torch.equal(whole[3][0].frames, rest[0][0].frames)


def test_epochs_differ_and_each_takes_every_picture_once(samples: list[Sample]) -> None:
    marked = [Sample(s.name, s.image * 0 + n, s.mask) for n, s in enumerate(samples)]
    still = replace(RECIPE.augmentation, gain=0.0, offset=0.0, salt_pepper=0.0)
    batches = Batches(marked, replace(RECIPE, augmentation=still))
    orders = [[int(v) for (share,) in batches.epoch(e, 0) for v in share.frames[:, 0, 0, 0]] for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))
    assert orders[0] != orders[1]


def test_fewer_pictures_than_a_batch_are_one_batch(samples: list[Sample]) -> None:
    batches = Batches(samples[:3], RECIPE)
    assert (batches.size, batches.per_epoch) == (3, 1)


def test_uneven_shares_and_no_pictures_are_refused(samples: list[Sample]) -> None:
    wanted = r"a batch of 4 cannot be cut into 6 equal shares \(2 devices, accumulate 3\); choose a --batch"
    with pytest.raises(InputError, match=wanted):
        Batches(samples, replace(RECIPE, accumulate=3), processes=2)
    with pytest.raises(InputError, match="one picture of 32x32 at once is too little for batch norm"):
        Batches(samples, replace(RECIPE, crop_hw=(32, 32), accumulate=4))
    with pytest.raises(InputError, match="no picture to train on"):
        Batches([], RECIPE)


def test_the_first_steps_are_smaller(samples: list[Sample]) -> None:
    recipe = replace(RECIPE, crop_hw=None, early_hw=(32, 32), early=0.5, epochs=None, steps=4)
    batches = Batches(samples, recipe)  # two steps an epoch
    sizes = [tuple(share.frames.shape[1:3]) for epoch in (0, 1) for (share,) in batches.epoch(epoch, 0)]
    assert sizes == [(32, 32), (32, 32), (48, 48), (48, 48)]


def test_a_share_of_the_pictures_is_clean() -> None:
    marked = [Sample(f"In_{i}", np.full((64, 64, 3), 9, np.uint8), np.full((64, 64), 255, np.uint8)) for i in range(8)]
    whole = replace(RECIPE, input_hw=(32, 32), crop_hw=None, batch_size=8)

    def clean(recipe: Recipe) -> int:
        epochs = (share for epoch in range(25) for (share,) in Batches(marked, recipe).epoch(epoch, 0))
        return sum(int((share.masks.amax(dim=(1, 2, 3)) == 0).sum()) for share in epochs)

    assert clean(whole) == 0
    assert 60 <= clean(replace(whole, clean=0.4)) <= 100  # of 200; five standard deviations are 35


def test_a_share_of_the_pictures_gets_a_window_of_another() -> None:
    """One picture is all 10 without a defect, the other all 200 and all defect: the two say who pasted what."""
    plain = [
        Sample(f"In_{i}", np.full((64, 64, 3), level, np.uint8), np.full((64, 64), level // 200 * 255, np.uint8))
        for i, level in enumerate((10, 200) * 4)
    ]
    still = Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.0)
    whole = replace(RECIPE, input_hw=(32, 32), crop_hw=None, batch_size=8, augmentation=still)

    def mixed(recipe: Recipe) -> list[float]:
        shares = [share for epoch in range(25) for (share,) in Batches(plain, recipe).epoch(epoch, 0)]
        for share in shares:
            assert torch.equal(share.frames[..., 0] == 200, share.masks[:, 0] == 1), "the mask moves with its picture"
        of = torch.cat([share.masks.mean(dim=(1, 2, 3)) for share in shares])
        return [float(min(part, 1 - part)) for part in of if 0 < part < 1]

    assert mixed(whole) == []
    parts = mixed(replace(whole, paste=0.5))
    assert 30 <= len(parts) <= 72  # half of 200 get one, 4 in 7 of those of the other kind or its like
    assert all(1 / 16 <= part <= 1 / 2 for part in parts)
