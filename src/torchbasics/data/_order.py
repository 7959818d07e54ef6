"""The order of samples, as a pure function: nothing is drawn from a global generator, nothing has to be remembered."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torchbasics import _checks


def order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which epoch *epoch* visits *n* samples, shuffled.

    It depends on its arguments alone, so a loop written by hand sees the batches that `torchbasics.training.fit` sees:
    ``order(n, seed, epoch).split(batch_size)``.

    Args:
        n: Number of samples, at least 1.
        seed: At least 0.
        epoch: Counted from 0.

    Returns:
        A permutation of ``0 .. n - 1``, int64, shape (n,).

    Raises:
        ValueError: an argument is out of range.

    >>> bool((order(5, seed=0, epoch=1) == order(5, seed=0, epoch=1)).all())
    True
    """
    _checks.positive_int("n", n)
    _checks.positive_int("epoch", epoch, least=0)
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, epoch)))


def split(n: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split *n* samples at random into two sorted index tensors; the second holds *share* of them.

    Raises:
        ValueError: *share* is not in (0, 1), or a part would be empty.
    """
    held_out = round(n * _checks.fraction("validation", share))
    if not 0 < held_out < n:
        raise ValueError(f"validation={share!r} of {n} samples leaves a part empty; give another share")
    index = torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, 0, 0)))
    return index[held_out:].sort().values, index[:held_out].sort().values


def derive(seed: int, *keys: int) -> int:
    """Return a 32-bit seed of its own for each (seed, keys), by NumPy's seed sequence (O'Neill, 2015)."""
    _checks.positive_int("seed", seed, least=0)
    return int(np.random.SeedSequence(seed, spawn_key=keys).generate_state(1)[0])
