"""Samples whose randomness is a function of their number, read here or in worker processes."""

from __future__ import annotations

import os
import random
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from torchbasics.data._order import derive

if TYPE_CHECKING:
    from collections.abc import Iterator


class Seeded(Dataset[Any]):
    """A dataset whose samples are read with all global generators seeded by (seed, epoch, index).

    Seeding takes longer than reading from memory. So it begins with the first samples that are seen to draw from a
    generator, which are then read once more.
    """

    def __init__(self, dataset: Any, seed: int, ended: Any = None, *, draws: bool = False) -> None:
        self.dataset = dataset
        self.seed = seed
        self.ended = ended  # a number in shared memory, by which the parent tells workers that it goes away
        self.draws = draws  # whether samples have been seen to draw

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        if not self.draws:
            before = states()
            samples = [self._read(index) for _, index in keys]
            self.draws = not _equal(before, states())
            if not self.draws:
                return samples
        return [self._read(index, derive(self.seed, epoch, index)) for epoch, index in keys]

    def _read(self, index: int, seed: int | None = None) -> Any:
        if self.ended is not None and self.ended.value:
            os._exit(0)  # as torch's own workers do when their parent ends them
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  # the generator that users' transforms draw from
            torch.default_generator.manual_seed(seed)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the global generators of the CPU as they were, whatever a user's code draws from them."""
    before = states()
    try:
        yield
    finally:
        set_states(before)


def states() -> tuple[Any, Any, torch.Tensor]:
    """Return where the global generators of the CPU stand."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # the one that users draw from


def set_states(found: tuple[Any, Any, torch.Tensor]) -> None:
    """Set them to what `states` returned."""
    random.setstate(found[0])
    np.random.set_state(found[1])  # noqa: NPY002  # the one that users draw from
    torch.set_rng_state(found[2])


def _equal(one: tuple[Any, Any, torch.Tensor], other: tuple[Any, Any, torch.Tensor]) -> bool:
    arrays = np.array_equal(one[1][1], other[1][1]) and one[1][2:] == other[1][2:]
    return bool(arrays) and one[0] == other[0] and torch.equal(one[2], other[2])


def ignore_signals(worker: int) -> None:
    """Leave signals to the parent: sent to all processes of a job, they would end the workers first."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
