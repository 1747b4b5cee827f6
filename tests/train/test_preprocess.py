from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import normalize, to_tensor

from sdi.runtime.common.errors import InputError
from sdi.train.preprocess import GRAY_STEEL, IMAGENET, Normalise, Preprocessing


def frames(seed: int = 0, brightest: int = 256) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, brightest, (3, 5, 7, 3), dtype=np.uint8))


@pytest.mark.parametrize("preprocessing", [IMAGENET, GRAY_STEEL])
def test_equals_torchvisions(preprocessing: Preprocessing) -> None:
    wanted = [
        normalize(to_tensor(frame.numpy()[..., ::-1].copy()), preprocessing.mean, preprocessing.std)
        for frame in frames()
    ]
    torch.testing.assert_close(Normalise(preprocessing)(frames()), torch.stack(wanted), rtol=0, atol=1e-5)


def test_divides_each_picture_by_its_own_maximum() -> None:
    how = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), divide_by_max=True)
    batch = frames(brightest=100)
    batch[1] //= 2
    rgb = batch.numpy()[..., ::-1].astype(np.float64)
    wanted = (rgb / rgb.max(axis=(1, 2, 3), keepdims=True) - how.mean) / how.std
    answer = Normalise(how)(batch).permute(0, 2, 3, 1)
    np.testing.assert_allclose(answer.numpy(), wanted, rtol=0, atol=1e-5)


def test_a_black_picture_stays_finite() -> None:
    how = Preprocessing((0.5,) * 3, (0.25,) * 3, divide_by_max=True)
    answer = Normalise(how)(torch.zeros(1, 4, 4, 3, dtype=torch.uint8))
    assert torch.equal(answer, torch.full((1, 3, 4, 4), -2.0))


@pytest.mark.parametrize("how", [IMAGENET, Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), divide_by_max=True)])
def test_survives_a_checkpoint(how: Preprocessing) -> None:
    assert Preprocessing.from_dict(how.to_dict()) == how


@pytest.mark.parametrize(
    "change", [{"mean": [0.5]}, {"std": [1, 1, 0]}, {"std": "abc"}, {"mean": None}, {"gamma": 2.2}]
)
def test_refuses_what_it_does_not_understand(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="preprocessing needs mean and std"):
        Preprocessing.from_dict({**IMAGENET.to_dict(), **change})


def test_refuses_a_missing_field() -> None:
    with pytest.raises(InputError, match="preprocessing needs mean and std"):
        Preprocessing.from_dict({"mean": [0, 0, 0]})
