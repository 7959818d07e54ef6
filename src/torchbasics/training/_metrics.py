"""Metrics by name, function or torchmetrics object, all with reset-free ``update`` and ``compute``."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics.training._losses import is_classes

GATHERED = "torchbasics.gathered"  # in the state of a `Gathered`, as in no other


class Metric(Protocol):
    """What torchmetrics' metrics offer, as far as it is used here."""

    def update(self, outputs: Tensor, targets: Tensor, /) -> Any:
        """Take a batch in."""

    def compute(self) -> Any:
        """Return the value over all batches."""


class Accuracy:
    """The share of predictions that are right, counted in integers; small batches together, which takes less time."""

    enough: ClassVar[int] = 2**13  # predictions that wait at most

    def __init__(self) -> None:
        self.right: int | Tensor = 0
        self.total = 0
        self.hits: Tensor | None = None  # made once: small tensors kept from step to step would tear the heap
        self.waits = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in outputs (N, classes, ...) and targets (N, ...)."""
        _check_classes("accuracy", outputs, targets)
        predicted, size = outputs.argmax(1), targets.numel()
        if size > self.enough:
            self._count(predicted == targets)
            return
        moved = self.hits is None or self.hits.device != predicted.device
        if moved or self.waits + size > self.enough:
            self.settle()
        if moved:
            self.hits = torch.empty(self.enough, dtype=torch.bool, device=predicted.device)
        hits = cast("Tensor", self.hits)[self.waits : self.waits + size]
        torch.eq(predicted.flatten(), targets.flatten(), out=hits)
        self.waits += size

    def settle(self) -> None:
        """Count what waits."""
        if self.hits is not None and self.waits:
            self._count(self.hits[: self.waits])
            self.waits = 0

    def _count(self, hits: Tensor) -> None:
        right = hits.sum()
        self.right += int(right) if right.is_cpu else right
        self.total += hits.numel()

    def compute(self) -> float:
        """Return right / total."""
        self.settle()
        return int(self.right) / self.total


class Confusion:
    """How often each true class (row) was taken for each class (column), int64."""

    def __init__(self) -> None:
        self.matrix: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count; outputs (N, classes, ...), targets (N, ...)."""
        _check_classes(type(self).__name__.lower(), outputs, targets)
        classes = outputs.shape[1]
        cells = targets.flatten() * classes + outputs.argmax(1).flatten()
        counts = torch.bincount(cells, minlength=classes * classes).view(classes, classes)
        self.matrix = counts if self.matrix is None else self.matrix.to(counts.device) + counts

    def counts(self) -> Tensor:
        """Return the matrix (classes, classes) on the CPU."""
        return torch.empty(0, 0, dtype=torch.int64) if self.matrix is None else self.matrix.cpu()


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


class Gathered:
    """A metric that needs all predictions at once: those of all processes are brought together, then it is computed."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.before: dict[str, Any] | None = None  # what it had counted by itself, in a run that one process has begun
        if hasattr(metric, "sync_on_compute"):  # torchmetrics would add up what is the same in all processes
            metric.sync_on_compute = metric._to_sync = False
            metric.to("cpu")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Keep copies of outputs and targets: a loader may use their memory again, or they may be a part of a whole."""
        self.batches.append((outputs.detach().to("cpu", copy=True), targets.to("cpu", copy=True)))

    def compute(self) -> Any:
        """Return the value over all of them, which the metric is given batch by batch: they may differ in shape."""
        set_metric_state(self.metric, self.before or {})
        for outputs, targets in self.batches:
            self.metric.update(outputs, targets)
        return self.metric.compute()

    def take(self, state: Mapping[str, Any]) -> None:
        """Add what `metric_state` returned of such a metric, or of the one in it."""
        own = GATHERED not in state
        self.before = (dict(state) if own else state["before"]) or self.before
        self.batches += [] if own else map(tuple, state[GATHERED])


def summable(metric: Metric) -> Metric:
    """Return a metric whose states of several processes can be added up."""
    return metric if isinstance(metric, (Accuracy, Confusion, Mean, Gathered)) else Gathered(metric)


def add_up_states(metric: Metric, states: Iterable[Mapping[str, Any]]) -> None:
    """Give a fresh `summable` metric the sum of what `metric_state` returned in several processes."""
    total: dict[str, Any] = {}
    for state in states:
        if isinstance(metric, Gathered):
            metric.take(state)
            continue
        for name, value in state.items():
            there = value.cpu() if isinstance(value, Tensor) else value
            total[name] = there if total.get(name) is None else total[name] if there is None else total[name] + there
    set_metric_state(metric, total)


def restored(metric: Metric, state: Mapping[str, Any]) -> Metric:
    """Return a fresh metric with what `metric_state` returned; what several processes have gathered goes on so."""
    made = Gathered(metric) if GATHERED in state and not isinstance(metric, Gathered) else metric
    if isinstance(made, Gathered):
        made.take(state)
    else:
        set_metric_state(made, state)
    return made


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error."""
    if outputs.shape != targets.shape:
        raise ValueError(f"mae needs equal shapes, got {tuple(outputs.shape)} and {tuple(targets.shape)}")
    return (outputs - targets).abs().mean()


METRICS: dict[str, Callable[[], Any]] = {"accuracy": Accuracy, "f1": F1, "mae": lambda: Mean(mae)}


RESERVED = ("loss", "seconds", "samples", "epoch")  # columns of the history that are no metrics


def make_metrics(metrics: Any, outputs: Tensor | None = None, targets: Tensor | None = None) -> dict[str, Metric]:
    """Return fresh metrics by name; None = "accuracy" where *outputs* are logits of the classes that *targets* number.

    Raises:
        ValueError: no metric has this name, two have one name, or one is called as a column of the history.
        TypeError: one is neither a name, a function nor an object with ``update`` and ``compute``.
    """
    if metrics is None:
        metrics = ["accuracy"] if _are_classes(outputs, targets) else []
    if isinstance(metrics, str) or not isinstance(metrics, (list, tuple, Mapping)):
        metrics = [metrics]
    made: dict[str, Metric] = {}
    for name, metric in _pairs(metrics):
        if name in made or name in RESERVED:
            raise ValueError(f"the name {name!r} of a metric is taken; give metrics as a dict with names of your own")
        made[name] = _make(metric)
    return made


def number(name: str, value: Any) -> float:
    """Return a metric's *value* as a float.

    Raises:
        TypeError: it is not one number.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as e:
        raise TypeError(f"the metric {name!r} gives {value!r}, which is not one number; let it give an average") from e


def _pairs(metrics: Any) -> Iterator[tuple[str, Any]]:
    for name, metric in metrics.items() if isinstance(metrics, Mapping) else ((None, m) for m in metrics):
        if hasattr(metric, "items") and hasattr(metric, "update"):  # torchmetrics' MetricCollection
            yield from ((f"{name}_{key}" if name else key, each) for key, each in metric.items())
        else:
            yield name or _name(metric), metric


def _are_classes(outputs: Tensor | None, targets: Tensor | None) -> bool:
    if outputs is None or targets is None or not is_classes(targets) or outputs.ndim != targets.ndim + 1:
        return False
    return outputs.shape[1] > 1 and (outputs.shape[0], *outputs.shape[2:]) == targets.shape


def _check_classes(name: str, outputs: Tensor, targets: Tensor) -> None:
    if not is_classes(targets) or (outputs.shape[:1] + outputs.shape[2:]) != targets.shape:
        raise ValueError(
            f"{name} needs outputs (N, classes) and class numbers (N,), "
            f"got {tuple(outputs.shape)} and {tuple(targets.shape)} of {targets.dtype}"
        )


def metric_state(metric: Metric) -> dict[str, Any]:
    """Return what a metric has counted so far, as plain data."""
    if hasattr(metric, "metric_state"):  # torchmetrics
        return {**metric.metric_state, "_update_count": metric._update_count}  # type: ignore[attr-defined]  # no public name
    if isinstance(metric, Gathered):
        return {GATHERED: [list(batch) for batch in metric.batches], "before": metric.before}
    if isinstance(metric, Accuracy):
        metric.settle()
        metric.right = int(metric.right)
    return {name: value for name, value in vars(metric).items() if name not in ("function", "hits")}


def set_metric_state(metric: Metric, state: Mapping[str, Any]) -> None:
    """Set what `metric_state` returned."""
    for name, value in state.items():
        setattr(metric, name, value)


def bring(metric: Metric, device: torch.device, names: Iterable[str]) -> None:
    """Move torchmetrics' object to where the outputs are; of others the tensors *names*, which were on a GPU."""
    if isinstance(metric, nn.Module):
        metric.to(device)
    for name in names:
        setattr(metric, name, getattr(metric, name).to(device))


def on_gpu(metric: Metric) -> list[str]:
    """Return the names of the tensors in `metric_state` that are on a GPU."""
    return [k for k, v in metric_state(metric).items() if isinstance(v, Tensor) and not v.is_cpu]


def _name(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    name: str = getattr(metric, "__name__", type(metric).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _make(metric: Any) -> Metric:
    if isinstance(metric, str):
        made: Metric = METRICS[_checks.choice("metric", metric, METRICS)]()
        return made
    if isinstance(metric, type):
        raise TypeError(f"a metric must be an instance, got the class {metric.__name__}; write {metric.__name__}(...)")
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        own: Metric = copy.deepcopy(metric)
        if hasattr(own, "reset"):
            own.reset()
        return own
    if callable(metric):
        return Mean(metric)
    raise TypeError(f"a metric is a name, a function (outputs, targets) or has update and compute, got {metric!r}")
