"""Metrics by name, function or torchmetrics object, all with reset-free ``update`` and ``compute``."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from torchbasics import _checks
from torchbasics.training._losses import is_classes


class Metric(Protocol):
    """What torchmetrics' metrics offer, as far as it is used here."""

    def update(self, outputs: Tensor, targets: Tensor, /) -> Any:
        """Take a batch in."""

    def compute(self) -> Any:
        """Return the value over all batches."""


class Accuracy:
    """The share of predictions that are right, counted in integers."""

    def __init__(self) -> None:
        self.right: int | Tensor = 0
        self.total = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count; outputs (N, classes, ...), targets (N, ...)."""
        right = (outputs.argmax(1) == targets).sum()
        self.right += int(right) if right.is_cpu else right
        self.total += targets.numel()

    def compute(self) -> float:
        """Return right / total."""
        return int(self.right) / self.total


class Confusion:
    """How often each true class (row) was taken for each class (column), int64."""

    def __init__(self) -> None:
        self.matrix: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count; outputs (N, classes, ...), targets (N, ...)."""
        classes = outputs.shape[1]
        cells = targets.flatten() * classes + outputs.argmax(1).flatten()
        counts = torch.bincount(cells, minlength=classes * classes).view(classes, classes)
        self.matrix = counts if self.matrix is None else self.matrix + counts

    def counts(self) -> Tensor:
        """Return the matrix (classes, classes) on the CPU."""
        assert self.matrix is not None
        return self.matrix.cpu()


class F1(Confusion):
    """The F1 score, averaged over the classes that occur in targets or predictions (macro average)."""

    def compute(self) -> float:
        """Return the mean over classes of 2 right / (targets + predictions)."""
        matrix = self.counts().double()
        found = matrix.sum(0) + matrix.sum(1)
        return float((2 * matrix.diagonal()[found > 0] / found[found > 0]).mean())


class Mean:
    """The mean over samples of a function of a batch's outputs and targets."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        self.function = function
        self.sum = 0.0
        self.samples = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Weigh the batch's value by its length."""
        self.sum += float(self.function(outputs, targets)) * len(targets)
        self.samples += len(targets)

    def compute(self) -> float:
        """Return the mean."""
        return self.sum / self.samples


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error."""
    return (outputs - targets).abs().mean()


METRICS: dict[str, Callable[[], Any]] = {"accuracy": Accuracy, "f1": F1, "mae": lambda: Mean(mae)}


def make_metrics(metrics: Any, targets: Tensor | None) -> dict[str, Metric]:
    """Return fresh metrics by name; None = "accuracy" for integer *targets*, and none for others.

    Raises:
        ValueError: no metric has this name.
        TypeError: one is neither a name, a function nor an object with ``update`` and ``compute``.
    """
    if metrics is None:
        metrics = ["accuracy"] if targets is not None and is_classes(targets) else []
    if isinstance(metrics, str) or not isinstance(metrics, (list, tuple, Mapping)):
        metrics = [metrics]
    named = metrics if isinstance(metrics, Mapping) else {_name(m): m for m in metrics}
    return {name: _make(metric) for name, metric in named.items()}


def metric_state(metric: Metric) -> dict[str, Any]:
    """Return what a metric has counted so far, as plain data."""
    if hasattr(metric, "metric_state"):  # torchmetrics
        return {**metric.metric_state, "_update_count": metric._update_count}  # type: ignore[attr-defined]  # no public name
    return {name: value for name, value in vars(metric).items() if name != "function"}


def set_metric_state(metric: Metric, state: Mapping[str, Any]) -> None:
    """Set what `metric_state` returned."""
    for name, value in state.items():
        setattr(metric, name, value)


def _name(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    name: str = getattr(metric, "__name__", type(metric).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _make(metric: Any) -> Metric:
    if isinstance(metric, str):
        made: Metric = METRICS[_checks.choice("metric", metric, METRICS)]()
        return made
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        own: Metric = copy.deepcopy(metric)
        if hasattr(own, "reset"):
            own.reset()
        return own
    if callable(metric):
        return Mean(metric)
    raise TypeError(f"a metric is a name, a function (outputs, targets) or has update and compute, got {metric!r}")
