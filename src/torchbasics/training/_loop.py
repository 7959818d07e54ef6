"""The one epoch function: training, validation and evaluation differ in what is done to a batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from torchbasics._world import ALONE, World
from torchbasics.data._batch import Batch
from torchbasics.training._metrics import (
    Metric,
    add_up_states,
    bring,
    make_metrics,
    metric_state,
    number,
    on_gpu,
    restored,
    summable,
)
from torchbasics.training._step import Result


class Meter:
    """Losses and metrics of an epoch so far, weighted by sample, summed in float64.

    Args:
        metrics: As `evaluate` takes them; made when the first targets are seen.
        world: The processes that each count a part.
    """

    def __init__(self, metrics: Any = None, world: World = ALONE) -> None:
        self.wanted = metrics
        self.world = world
        self.metrics: dict[str, Metric] | None = None
        self.brought = False  # whether they are where the outputs are
        self.on_gpu: dict[str, list[str]] = {}  # what a checkpoint found there, by metric
        self.sums: dict[str, float | Tensor] = {}
        self.weight = 0.0
        self.samples = 0

    def add(self, result: Result, size: int) -> None:
        """Take in what a batch gave."""
        self.samples += size
        if result.weight:
            self.weight += result.weight
            for name, value in result.losses.items():
                exact = value if isinstance(value, float) else _wide(value)
                self.sums[name] = self.sums.get(name, 0.0) + exact * result.weight
        if result.outputs is not None and result.targets is not None:
            if self.metrics is None:
                self.metrics = self._kept(make_metrics(self.wanted, result.outputs, result.targets))
            if not self.brought and isinstance(result.outputs, Tensor):
                for name, metric in self.metrics.items():
                    bring(metric, result.outputs.device, self.on_gpu.get(name, ()))
                self.brought = True
            for metric in self.metrics.values():
                metric.update(result.outputs, result.targets)

    def joined(self) -> Meter:
        """Return what all processes have counted; all have to call it."""
        if self.world.size == 1:
            return self
        made = Meter(self.wanted, self.world)
        made.take(self.world.exchange(self.state_dict()))
        return made

    def take(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Set the sum of what `state_dict` returned in several processes."""
        self.sums, self.weight, self.samples = {}, 0.0, 0
        for state in states:
            self.weight += state["weight"]
            self.samples += state["samples"]
            for name, value in state["sums"].items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        named = next((list(state["metrics"]) for state in states if state["metrics"]), [])
        if named:
            self.metrics = make_metrics(named if self.wanted is None else self.wanted)
            self.metrics = {name: summable(metric) for name, metric in self.metrics.items()}
            for name, metric in self.metrics.items():
                add_up_states(metric, [state["metrics"][name] for state in states if name in state["metrics"]])

    def compute(self) -> dict[str, float]:
        """Return the means and the metrics' values.

        Raises:
            ValueError: no target counted.
            TypeError: a metric's value is not one number.
        """
        if not self.weight:
            raise ValueError("no target counts: the loss ignores all of them")
        means = {name: float(value) / self.weight for name, value in self.sums.items()}
        return means | {name: number(name, metric.compute()) for name, metric in (self.metrics or {}).items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the metrics' states, for a checkpoint in the middle of an epoch."""
        metrics = {
            name: {k: v.cpu() if isinstance(v, Tensor) else v for k, v in metric_state(metric).items()}
            for name, metric in (self.metrics or {}).items()
        }
        sums = {name: float(value) for name, value in self.sums.items()}
        there = {name: on_gpu(metric) for name, metric in (self.metrics or {}).items()}
        return {"sums": sums, "weight": self.weight, "samples": self.samples, "metrics": metrics, "on_gpu": there}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        self.sums, self.weight, self.samples = dict(state["sums"]), state["weight"], state["samples"]
        self.brought, self.on_gpu = False, state["on_gpu"]
        if state["metrics"]:
            named = list(state["metrics"])  # what was chosen by the targets has a name
            self.metrics = self._kept(make_metrics(named if self.wanted is None else self.wanted))
            for name, saved in state["metrics"].items():
                self.metrics[name] = restored(self.metrics[name], saved)

    def _kept(self, metrics: dict[str, Metric]) -> dict[str, Metric]:
        return metrics if self.world.size == 1 else {name: summable(metric) for name, metric in metrics.items()}


def run_epoch(
    batches: Generator[Batch],
    do: Callable[[Batch], Result],
    meter: Meter,
    device: torch.device,
    after: Callable[[Batch, Result], object] | None = None,
) -> bool:
    """Do *do* to each batch on *device*, and return whether *after* ended the epoch.

    Args:
        batches: The batches.
        do: A step's ``update`` or ``evaluate``.
        meter: Takes in what it gives.
        device: Where the model is.
        after: Called after each batch; a true answer ends the epoch there.
    """
    # Freed at once: glibc now keeps what a step frees (mallopt(3), M_MMAP_THRESHOLD).
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")
    with closing(batches):  # and with them their workers, which after an error the traceback would keep alive
        for batch in batches:
            here = batch if device.type == "cpu" and batch.on_cpu else batch.to(device)
            result = do(here)
            if not batch.idle:
                meter.add(result, batch.size)
            if after is not None and after(batch, result):
                return True
    return False


def _wide(value: Tensor) -> Tensor:
    return value.detach() if value.device.type == "mps" else value.detach().double()
