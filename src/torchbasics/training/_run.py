"""One run of training: its parts, its position, and the loop over epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from torchbasics._model import load_plain_state, plain_state
from torchbasics._recipe import Recipe
from torchbasics.data._batches import Batch, Batches
from torchbasics.training import _random
from torchbasics.training._augment import make_augmentation
from torchbasics.training._callbacks import State
from torchbasics.training._evaluate import measure
from torchbasics.training._history import History
from torchbasics.training._loop import Meter, run_epoch
from torchbasics.training._steps import NonFiniteError, Result, Step


class Run:
    """A run and its position: the epoch, and how many of its samples are done."""

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        recipe: Recipe,
        train: Batches,
        validation: Batches | None,
        metrics: Any,
        device: torch.device,
    ) -> None:
        self.model = model
        self.step = step
        self.train = train
        self.validation = validation
        self.metrics = metrics
        self.device = device
        self.augment = make_augmentation(recipe.augment)
        self.history = History(recipe=recipe)
        self.state = State(model, self.history, recipe, train.steps())
        self.callbacks: Sequence[Any] = ()
        self.position = 0
        self.seconds = 0.0
        self.meter = Meter(metrics)

    def go(self, callbacks: Sequence[Any]) -> History:
        """Train to the end."""
        self.callbacks = callbacks
        self._tell("on_start")
        try:
            while len(self.history) < self.state.recipe.epochs and self.state.stopped is None:
                self._epoch()
        finally:
            self.history.stopped = self.state.stopped
            self._tell("on_end")
        return self.history

    def _epoch(self) -> None:
        self.model.train()
        self.state.epoch = len(self.history)
        started = perf_counter() - self.seconds
        self._on_step = [c.on_step for c in self.callbacks if hasattr(c, "on_step")]
        self.position_at = started
        batches = self.train.epoch(self.state.epoch, self.position)
        row = run_epoch(batches, self._update, self.meter, self.device, self._after)
        if self.validation is not None and self.state.stopped is None:
            result = measure(self.step, self.validation, Meter(self.metrics), self.device)
            row |= {f"validation_{name}": value for name, value in result.items()}
        self.history.rows.append({**row, "seconds": perf_counter() - started})
        self.position, self.seconds, self.meter = 0, 0.0, Meter(self.metrics)
        self._tell("on_epoch")

    def _update(self, batch: Batch) -> Result:
        if self.augment is not None:
            batch = batch._replace(inputs=self.augment(batch.inputs))
        if self.state.recipe.memory_format == "channels_last" and isinstance(batch.inputs, Tensor):
            batch = batch._replace(inputs=_channels_last(batch.inputs))
        rate: float = self.step.optimizers[0].param_groups[0]["lr"]
        self.state.learning_rate = rate
        try:
            return self.step.update(batch)
        except NonFiniteError as e:
            where = f"at step {self.state.step + 1}, epoch {self.state.epoch + 1}"
            which = "" if batch.indices is None else f", on samples {batch.indices[:8].tolist()}"
            raise NonFiniteError(
                f"{e} {where}{which}, learning rate {rate:g}; the update was not applied: "
                "lower lr, set clip_norm, or look at these samples"
            ) from None

    def _after(self, batch: Batch, result: Result) -> bool:
        state = self.state
        state.step += 1
        state.loss = result.losses["loss"]
        self.position += batch.size
        self.seconds = perf_counter() - self.position_at
        for hook in self._on_step:
            hook(state)
        return state.stopped is not None

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            hook: Callable[[State], None] | None = getattr(callback, event, None)
            if hook is not None:
                hook(self.state)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on from here."""
        return {
            "model_state": plain_state(self.model),
            "train": self.train.state_dict(),
            "step": self.step.state_dict(),
            "steps_done": self.state.step,
            "position": self.position,
            "seconds": self.seconds,
            "meter": self.meter.state_dict(),
            "history": self.history.rows,
            "stopped": self.state.stopped,
            "callbacks": {name: c.state_dict() for name, c in _stateful(self.callbacks).items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], callbacks: Sequence[Any]) -> None:
        """Go to where `state_dict` was taken; the random generators come last."""
        load_plain_state(self.model, state["model_state"])
        self.train.load_state_dict(state["train"])
        self.step.load_state_dict(state["step"])
        self.state.step = state["steps_done"]
        self.state.stopped = state["stopped"]
        self.position, self.seconds = state["position"], state["seconds"]
        self.meter.load_state_dict(state["meter"])
        self.history.rows[:] = state["history"]
        for name, callback in _stateful(callbacks).items():
            if name in state["callbacks"]:  # one that is new begins anew
                callback.load_state_dict(state["callbacks"][name])
        _random.set_state(state["random"])


def _stateful(callbacks: Sequence[Any]) -> dict[str, Any]:
    """Return the callbacks that have a state, by class, and by number where there are more of one."""
    named: dict[str, Any] = {}
    for callback in callbacks:
        if hasattr(callback, "state_dict"):
            name = f"{type(callback).__module__}.{type(callback).__qualname__}"
            named[f"{name} {sum(key.rpartition(' ')[0] == name for key in named) + 1}"] = callback
    return named


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
