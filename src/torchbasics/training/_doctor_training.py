"""What `check` sees when a copy of the model is trained on one batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics._recipe import Recipe
from torchbasics.training._doctor_model import listed, loss_name
from torchbasics.training._evaluate import evaluating
from torchbasics.training._finding import Finding
from torchbasics.training._finite import NonFiniteError
from torchbasics.training._losses import is_classes
from torchbasics.training._random import forked
from torchbasics.training._step import Step
from torchbasics.training._steps import Supervised
from torchbasics.training._trial import copies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchbasics.data._batch import Batch

RATES = (3e-3, 3e-2, 3e-4)  # one of them suits every model that can learn at all
EVERY = 10  # updates between two looks in eval mode
SMALL, TINY = 1e-3, 1e-6  # losses, and shares of a class, below which there is nothing to tell
SETTLE = 150  # passes after which nothing is left of the variance 1 that batch norm starts from


class Outcome(NamedTuple):
    """One attempt to learn a batch by heart."""

    train: float  # the loss of the last update; nan where it broke
    evaluated: float  # the same in eval mode, afterwards
    reached: bool
    unused: list[str]  # parameters that never had a gradient
    dead: list[str]  # parameters whose gradient was always zero


def look_at_training(model: nn.Module, step: Step, batch: Batch, recipe: Recipe, steps: int) -> Iterator[Finding]:
    """Train copies on *batch*, at several rates until one learns it by heart, and say what that shows.

    *step* is bound to *model*, and has measured *batch* before.
    """
    start = _measured(step, batch)
    guess = _cost_of_guessing(step, batch)
    goal = _goal(step, batch, start, guess)
    outcomes: list[Outcome] = []
    for rate in RATES:
        copied, own = copies(model, step)
        with forked(seed=0):
            own.bind(copied, recipe.replace(optimizer="adam", lr=rate))
            outcomes.append(_learn(own, batch, steps, goal))
        if outcomes[-1].reached:
            break
    last = outcomes[-1]
    finite = [outcome for outcome in outcomes if math.isfinite(outcome.train)]
    if last.unused and finite:
        yield Finding("parameters-unused", f"{listed(last.unused)} take no part in the loss: they get no gradient")
    if last.dead and finite:
        message = f"{listed(last.dead)} get a gradient of exactly zero, update after update: is an activation dead"
        yield Finding("parameters-dead", f"{message}, or the input of that layer always zero?")
    if not finite:
        yield Finding(
            "loss-not-finite", "in training on one batch the loss becomes nan or infinite, at each rate tried"
        )
    elif not last.reached:
        best = min(value for o in finite for value in (o.train, o.evaluated) if math.isfinite(value))
        compared = f"it was {start:.3g}" if guess is None else f"the best constant answer costs {guess:.3g}"
        message = f"after {steps} updates on the same {batch.size} samples the loss is {best:.3g}, while {compared}"
        yield Finding("cannot-learn-one-batch", f"{message}: does what the model computes depend on its parameters?")
    elif goal < math.inf and not last.evaluated <= (start if guess is None else guess):
        message = f"after learning one batch by heart the loss on it is {last.train:.3g} in train mode, but"
        way_out = "are batch norm's running statistics updated (momentum), does forward look at self.training?"
        yield Finding("eval-differs", f"{message} {last.evaluated:.3g} in eval mode: {way_out}")


def _learn(step: Step, batch: Batch, steps: int, goal: float) -> Outcome:
    model = step.model
    step.start(None)
    model.train()
    waiting = {name: p for name, p in model.named_parameters() if p.requires_grad}  # for a gradient that is not zero
    unused = set(waiting)
    train, reached = math.nan, False
    for i in range(1, steps + 1):
        try:
            train = float(step.update(batch).losses["loss"])
        except NonFiniteError:
            train = math.nan
        if not math.isfinite(train):
            break
        unused -= {name for name in unused if waiting[name].grad is not None}
        waiting = {name: p for name, p in waiting.items() if p.grad is None or not p.grad.any()}
        reached = train <= goal or (i % EVERY == 0 and _measured(step, batch) <= goal)
        if reached and i >= EVERY:
            break
    if any(True for _ in model.buffers()):
        with torch.no_grad():
            for _ in range(SETTLE):
                step.evaluate(batch)  # in train mode
    return Outcome(train, _measured(step, batch), reached, sorted(unused), sorted(set(waiting) - unused))


def _measured(step: Step, batch: Batch) -> float:
    with evaluating(step.model):
        return float(step.evaluate(batch).losses["loss"])


def _goal(step: Step, batch: Batch, start: float, guess: float | None) -> float:
    """Return the loss at which the batch counts as learnt."""
    if not isinstance(step, Supervised) or (abs(start) if guess is None else guess) < SMALL:
        return math.inf  # nothing is known, or there is nothing left to learn
    if guess is None or batch.targets is None:
        return start - abs(start) / 10
    memory = sum(p.numel() for p in step.model.parameters() if p.requires_grad)
    return guess * (0.5 if memory > batch.targets.numel() else 0.95)


def _cost_of_guessing(step: Step, batch: Batch) -> float | None:
    """Return the loss of the best answer that is the same for all samples, None where no formula gives it."""
    loss: Any = getattr(step, "loss", None)
    name, targets = loss_name(loss), batch.targets
    if targets is None or not name:
        return None
    if is_classes(targets):
        ignored = getattr(loss, "ignore_index", -100)
        if getattr(loss, "weight", None) is not None or getattr(loss, "reduction", "mean") != "mean":
            return None
        counts = torch.bincount(targets[targets != ignored])
        constant = (counts / counts.sum()).clamp(min=TINY).log().view(1, -1, *[1] * (targets.ndim - 1))
        everywhere = constant.expand(len(targets), -1, *targets.shape[1:])
        return float(functional.cross_entropy(everywhere, targets, ignore_index=ignored))
    mean = targets.mean(0, keepdim=True).expand_as(targets)
    shapes: dict[str, Tensor] = {"mse": mean, "l1": mean}
    if name == "bce":
        shapes["bce"] = mean.clamp(TINY, 1 - TINY).logit()
    return float(loss(shapes[name], targets)) if name in shapes else None
