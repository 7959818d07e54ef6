"""The learning-rate range test: which rate to train with, found by trying them all in one short run."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from torchbasics import _checks
from torchbasics._model import check_module
from torchbasics._recipe import Recipe
from torchbasics.data._batch import Batch
from torchbasics.data._batches import Batches, make_batches
from torchbasics.training._evaluate import check as check_data
from torchbasics.training._finite import NonFiniteError
from torchbasics.training._step import Step
from torchbasics.training._steps import make_step
from torchbasics.training._trial import copies, without_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

SMOOTHING = 0.9  # share of the past in the running mean of losses
FIRST = 10  # losses, whose running mean is noise still; of fewer steps a fifth
DIVERGED = 4.0  # times the rise from the best: the test ends where the loss is this far above it
CLEAR = 5.5  # deviations of the running mean: it fell by up to 5 with drawn labels, by 5.8 and more with true ones


@dataclass(frozen=True)
class RateSearch:
    """What the range test saw.

    Attributes:
        rates: The learning rate of each update, each larger than the one before.
        losses: The loss of each update's batch, before the update.
        smoothed: The running mean of *losses*, free of bias towards its start.
        suggestion: The rate at which the smoothed loss fell fastest below all it had been. The first ten count
            for nothing, of few steps the first fifth.

    >>> print(RateSearch([0.001, 0.01, 0.1], [2.0, 1.0, 3.0], [2.0, 1.5, 2.2], suggestion=0.01))
    lr 0.01 of 3 tried from 0.001 to 0.1, lowest loss 1.5
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float

    def __str__(self) -> str:
        return (
            f"lr {self.suggestion:.2g} of {len(self.rates)} tried from {self.rates[0]:.2g} to {self.rates[-1]:.2g}, "
            f"lowest loss {min(self.smoothed):.4g}"
        )


def find_lr(
    model: nn.Module,
    data: Any,
    targets: Any = None,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    batch_size: int | None = None,
    optimizer: Any = None,
    loss: Any = None,
    step: Any = None,
    seed: int = 0,
) -> RateSearch:
    """Train a copy of *model* while the learning rate grows by a constant factor, and see where the loss falls fastest.

    A warning tells where it hardly falls at all: then no rate is better than another.

    Model, optimizer, modes, gradients and all random generators are left as they are, to the bit.

    Args:
        model: Any module.
        data: As for `fit`; it is gone through again where it has fewer than *steps* batches.
        targets: The targets, where *data* is inputs alone.
        lowest: The first rate.
        highest: The last one; the test ends before it where the loss rises far above its best.
        steps: Updates in all, 10 or more.
        batch_size: Samples of one update: None = 100, or what a DataLoader brings.
        optimizer: As for `fit`; of an instance a copy is used, all of whose groups get the same rate.
        loss: As for `fit`.
        step: As for `fit`.
        seed: Of the order, dropout and all else that is drawn.

    Raises:
        ValueError, TypeError: an argument cannot be used, or data and model do not fit.
        NonFiniteError: the loss is nan or infinite at the lowest rates already.

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv:1506.01186.

    >>> import torch
    >>> x = torch.linspace(-1, 1, 100).unsqueeze(1)
    >>> found = find_lr(torch.nn.Linear(1, 1), x, 2 * x, optimizer="sgd", highest=10)
    >>> 1e-3 < found.suggestion < 10
    True
    """
    check_module(model)
    _checks.positive_int("steps", steps, least=10)
    if _checks.positive("lowest", lowest) >= _checks.positive("highest", highest):
        raise ValueError(f"lowest must be less than highest, got {lowest!r} and {highest!r}")
    if batch_size is not None:
        _checks.positive_int("batch_size", batch_size)
    given = () if batch_size is None else ("batch_size",)
    batches = make_batches(data, targets, batch_size=batch_size, shuffle=True, seed=seed, set_by_user=given)
    bound = make_step(step, model)
    wanted = bound.defaults["optimizer"] if optimizer is None else optimizer
    with without_trace(batches, seed):
        trained, bound, wanted = copies(model, bound, wanted)
        bound.bind(trained, Recipe(optimizer=wanted, loss=loss, step=step))
        device = next((p.device for p in trained.parameters()), None)
        if device is not None:
            check_data(bound, batches, device)
        bound.start(None)
        trained.train()
        rates = [lowest * (highest / lowest) ** (i / (steps - 1)) for i in range(steps)]
        return _search(bound, _endless(batches, device), rates)


def _search(step: Step, batches: Iterator[Batch], rates: list[float]) -> RateSearch:
    losses: list[float] = []
    smoothed: list[float] = []
    mean, first = 0.0, min(FIRST, len(rates) // 5)
    for rate, batch in zip(rates, batches, strict=False):
        for group in (group for optimizer in step.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        try:
            value = float(step.update(batch).losses["loss"])
        except NonFiniteError:
            value = math.nan
        if not math.isfinite(value):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        losses.append(value)
        smoothed.append(mean / (1 - SMOOTHING ** len(losses)))
        if len(losses) > first + 1:
            best = min(smoothed[first:])
            if smoothed[-1] - best > DIVERGED * max(max(smoothed[:first]) - best, abs(best) / 10):
                break
    if len(losses) < first + 2:
        raise NonFiniteError(
            f"the loss is not finite at the learning rate {rates[len(losses)]:g}; give a smaller lowest, "
            "or let training.check look at model and data"
        )
    _warn_of_noise(losses, smoothed, first)
    used = rates[: len(losses)]
    # The fall from a peak that a rate was too high for, back to what was reached before, is no progress.
    falls = [before - after for before, after in pairwise(accumulate(smoothed[first:], min))]
    return RateSearch(used, losses, smoothed, used[first + falls.index(max(falls))])


def _warn_of_noise(losses: list[float], smoothed: list[float], first: int) -> None:
    """Warn where the running mean falls by what it may fall by chance, as batches differ."""
    early = losses[: 2 * first]
    spread = math.dist(early[1:], early[:-1]) / math.sqrt(2 * (len(early) - 1))  # of neighbours: without their trend
    deviation = spread * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING))  # once the mean is of many
    fall = smoothed[first] - min(smoothed[first:])
    if fall <= CLEAR * deviation:
        warnings.warn(
            f"the smoothed loss falls by {fall:.2g}, no more than {CLEAR:g} times its noise of {deviation:.2g}: the "
            "suggestion says nothing. A model that has learned already needs a smaller rate than it learned with; "
            "otherwise give larger batches, or rates in another range",
            UserWarning,
            stacklevel=4,
        )


def _endless(batches: Batches, device: Any) -> Iterator[Batch]:
    epoch = 0
    while True:
        for batch in batches.epoch(epoch):
            yield batch if device is None else batch.to(device)
        epoch += 1
