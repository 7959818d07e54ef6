"""Samples draw the same numbers whoever reads them, and are read once where they draw none."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from torchbasics.data._batches import DatasetBatches
from torchbasics.data._seeded import Seeded


class Some(Dataset[Any]):
    """Draws for the samples from *first* on, by *draw*; remembers what was read."""

    def __init__(self, draw: Any, first: int) -> None:
        self.draw, self.first = draw, first
        self.read: list[int] = []

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> float:
        self.read.append(index)
        return float(self.draw()) if index >= self.first else float(index)


DRAWS = {"python": random.random, "numpy": np.random.random, "torch": lambda: torch.rand(())}


def values(draw: Any, first: int, *, batch_size: int, workers: int = 0, start: int = 0) -> list[float]:
    batches = DatasetBatches(Some(draw, first), workers=workers, batch_size=batch_size, shuffle=True, seed=3)
    read: dict[int, float] = {}
    for batch in batches.epoch(2, start):
        assert isinstance(batch.inputs, torch.Tensor)
        assert batch.indices is not None
        read |= dict(zip(batch.indices.tolist(), batch.inputs.tolist(), strict=True))
    return [read[i] for i in sorted(read)]


@pytest.mark.parametrize("first", [0, 7, 19])
@pytest.mark.parametrize("draw", list(DRAWS))
def test_a_sample_draws_the_same_however_it_is_read(draw: str, first: int) -> None:
    """In other batches, in workers, and with all others seeded from the first."""
    expected = values(DRAWS[draw], first, batch_size=4)
    seeded = Seeded(Some(DRAWS[draw], first), 3, draws=True)
    assert expected == [seeded[2, i] for i in range(20)]
    assert expected == values(DRAWS[draw], first, batch_size=20)
    assert expected == values(DRAWS[draw], first, batch_size=3, workers=2)
    assert len(set(expected)) == 20


def test_samples_that_draw_nothing_are_read_once() -> None:
    dataset = Some(random.random, first=20)
    batches = DatasetBatches(dataset, workers=0, batch_size=6, shuffle=True, seed=3)
    for _ in batches.epoch(0):
        pass
    assert sorted(dataset.read) == list(range(20))


def test_reading_leaves_the_generators_as_they_were() -> None:
    before = random.getstate(), torch.get_rng_state()
    for first in (0, 20):
        values(random.random, first, batch_size=5)
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())
