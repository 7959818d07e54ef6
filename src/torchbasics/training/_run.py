"""One run of training: its parts, its position, and the loop over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from torchbasics._model import load_plain_state, load_unsaved_buffers, plain_state, unsaved_buffers
from torchbasics._recipe import Recipe
from torchbasics.data._batch import Batch
from torchbasics.data._batches import Batches
from torchbasics.training import _random
from torchbasics.training._augment import make_augmentation
from torchbasics.training._callbacks import State, blame, callback_states, set_callback_states, tell, tell_all
from torchbasics.training._evaluate import measure
from torchbasics.training._finite import Guard
from torchbasics.training._history import History
from torchbasics.training._loop import Meter, run_epoch
from torchbasics.training._signals import INTERRUPTED, Interrupts
from torchbasics.training._step import Result, Step
from torchbasics.training._steps import Supervised


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
        time_limit: float | None = None,
    ) -> None:
        self.model = model
        self.step = step
        self.train = train
        self.validation = validation
        self.metrics = metrics
        self.device = device
        self.augment = make_augmentation(recipe.augment)
        self.guard = Guard(step, applies_once=type(step).update is Supervised.update)
        self.interrupts = Interrupts(time_limit)
        self.history = History(recipe=recipe)
        self.state = State(model, self.history, recipe, train.steps())
        self.callbacks: Sequence[Any] = ()
        self.position = 0
        self.seconds = 0.0
        self.meter = Meter(metrics)
        self.random: dict[str, Any] | None = None  # the generators of the checkpoint that is gone on from

    def go(self, callbacks: Sequence[Any]) -> History:
        """Train to the end."""
        self.callbacks = callbacks
        with self.interrupts:
            started: list[Any] = []
            try:
                for callback in callbacks:
                    tell([callback], "on_start", self.state)
                    started.append(callback)
                    self.set_generators()
                while len(self.history) < self.state.recipe.epochs and not self._ends():
                    self._epoch()
                if self.state.stopped in INTERRUPTED:
                    tell_all(callbacks, "on_stop", self.state)
            except BaseException:
                self.state.failed = True
                raise
            finally:
                self.history.stopped = self.state.stopped
                tell_all(started, "on_end", self.state)
        return self.history

    def _epoch(self) -> None:
        self.model.train()
        self.state.epoch = len(self.history)
        started = perf_counter() - self.seconds
        self._on_step = [(c, c.on_step) for c in self.callbacks if hasattr(c, "on_step")]
        self.position_at = started
        batches = self.train.epoch(self.state.epoch, self.position)
        run_epoch(batches, self._update, self.meter, self.device, self._after)
        self.guard.settle()
        row = {} if self.state.stopped in INTERRUPTED else self.meter.compute()
        if self.validation is not None and self.state.stopped is None:
            row |= self._validate(self.validation)
        if self.state.stopped in INTERRUPTED:  # the rest of the epoch is done by the run that goes on
            return
        self.history.rows.append({**row, "seconds": perf_counter() - started})
        self.position, self.seconds, self.meter = 0, 0.0, Meter(self.metrics)
        tell(self.callbacks, "on_epoch", self.state)

    def _validate(self, batches: Batches) -> dict[str, float]:
        with ExitStack() as stack:
            for callback in self.callbacks:
                if hasattr(callback, "validating"):
                    try:
                        stack.enter_context(callback.validating(self.state))
                    except Exception as e:
                        blame(e, callback, "validating")
                        raise
            result = measure(self.step, batches, Meter(self.metrics), self.device, lambda *_: self._ends())
        return {f"validation_{name}": value for name, value in result.items()}

    def _ends(self) -> bool:
        """Whether the run ends here; asked at step borders only, so that nothing changes half way."""
        if self.state.stopped is None:
            self.state.stopped = self.interrupts()
            self.state.signal = self.interrupts.signal
        return self.state.stopped is not None

    def _update(self, batch: Batch) -> Result:
        if self.augment is not None:
            batch = batch._replace(inputs=self.augment(batch.inputs))
        if self.state.recipe.memory_format == "channels_last" and isinstance(batch.inputs, Tensor):
            batch = batch._replace(inputs=_channels_last(batch.inputs))
        self.state.learning_rate = self.step.optimizers[0].param_groups[0]["lr"]
        return self.guard.update(batch, self.state)

    def _after(self, batch: Batch, result: Result) -> bool:
        state = self.state
        state.step += 1
        state.loss = result.losses["loss"]
        self.position += batch.size
        self.seconds = perf_counter() - self.position_at
        for callback, hook in self._on_step:
            try:
                hook(state)
            except Exception as e:
                blame(e, callback, "on_step")
                raise
        return self._ends()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on from here."""
        self.guard.settle()
        return {
            "model_state": plain_state(self.model),
            "unsaved_buffers": unsaved_buffers(self.model),
            "train": self.train.state_dict(),
            "step": self.step.state_dict(),
            "steps_done": self.state.step,
            "position": self.position,
            "seconds": self.seconds,
            "meter": self.meter.state_dict(),
            "history": self.history.rows,
            "stopped": None if self.state.stopped in INTERRUPTED else self.state.stopped,
            "callbacks": callback_states(self.callbacks),
        }

    def load_state_dict(self, state: Mapping[str, Any], callbacks: Sequence[Any]) -> None:
        """Go to where `state_dict` was taken; the random generators come last."""
        set_callback_states(callbacks, state["callbacks"])
        load_plain_state(self.model, state["model_state"])
        load_unsaved_buffers(self.model, state["unsaved_buffers"])
        self.train.load_state_dict(state["train"])
        self.step.load_state_dict(state["step"])
        self.state.step = state["steps_done"]
        self.state.stopped = state["stopped"]
        self.position, self.seconds = state["position"], state["seconds"]
        self.meter.load_state_dict(state["meter"])
        self.history.rows[:] = state["history"]
        self.random = state["random"]
        self.set_generators()

    def set_generators(self) -> None:
        """Go on with the checkpoint's random numbers, after each ``on_start`` too: it has drawn its own before."""
        if self.random is not None:
            _random.set_state(self.random)


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
