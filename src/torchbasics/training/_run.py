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
from torchbasics._world import ALONE, World
from torchbasics.data._batch import Batch
from torchbasics.data._batches import Batches
from torchbasics.training import _random
from torchbasics.training._augment import make_augmentation
from torchbasics.training._callbacks import State, blame, callback_states, set_callback_states, tell, tell_all
from torchbasics.training._evaluate import measure
from torchbasics.training._finite import Guard
from torchbasics.training._history import History
from torchbasics.training._loop import Meter, run_epoch
from torchbasics.training._pace import Pace
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
        world: World = ALONE,
    ) -> None:
        self.world = world
        self.model = model
        self.step = step
        self.train = train
        self.validation = validation
        self.metrics = metrics
        self.device = device
        self.augment = make_augmentation(recipe.augment)
        self.guard = Guard(step, applies_once=type(step).update is Supervised.update)
        self.interrupts = Interrupts(time_limit)
        self.pace = Pace(world)
        self.history = History(recipe=recipe)
        self.state = State(model, self.history, recipe, train.steps())
        self.callbacks: Sequence[Any] = ()
        self.position = 0
        self.seconds = 0.0
        self.meter = Meter(metrics, world)
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
                while len(self.history) < self.state.recipe.epochs and not self._ends(now=True):
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
        self.agree()
        row = {} if self.state.stopped in INTERRUPTED else self.meter.joined().compute()
        if self.validation is not None and self.state.stopped is None:
            row |= self._validate(self.validation)
            self.agree()
        if self.state.stopped in INTERRUPTED:  # the rest of the epoch is done by the run that goes on
            return
        self.history.rows.append({**row, "seconds": perf_counter() - started})
        self.position, self.seconds, self.meter = 0, 0.0, Meter(self.metrics, self.world)
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
            self.world.spread(self.model.buffers())  # batch norm has seen other samples in each process
            meter = Meter(self.metrics, self.world)
            self.pace = Pace(self.world)  # a step of validation takes another time
            result = measure(self.step, batches, meter, self.device, lambda *_: self._ends())
            self.pace = Pace(self.world)
        return {f"validation_{name}": value for name, value in result.items()}

    def agree(self) -> None:
        """Let all processes know what ends the run; all have to call it."""
        if self.world.size > 1:
            self._ends(now=True)

    def _ends(self, *, now: bool = False) -> bool:
        """Whether the run ends here; asked at step borders only, so that nothing changes half way.

        Several processes agree on it, a few times a second and where *now* is true.
        """
        if self.world.size > 1 and not self.pace.due(now=now):
            return False
        if self.state.stopped is None:
            self.state.stopped = self.interrupts()
            self.state.signal = self.interrupts.signal
        if self.world.size > 1:
            self.state.stopped, self.state.signal = self.pace.agreed(self.state.stopped, self.state.signal)
        return self.state.stopped is not None

    def _update(self, batch: Batch) -> Result:
        if self.augment is not None:
            batch = batch._replace(inputs=self.augment(batch.inputs))
        if self.state.recipe.memory_format == "channels_last" and isinstance(batch.inputs, Tensor):
            batch = batch._replace(inputs=_channels_last(batch.inputs))
        if self.world.size > 1:
            self.step.share = batch.counted / batch.of_all * (self.world.size if self.step.averaged else 1)
            # All processes' buffers are those of process 0, by DistributedDataParallel where that runs the model.
            if batch.leader or self.step.sharded or not self.step.averaged:
                self.world.spread(self.model.buffers())
        self.state.learning_rate = self.step.optimizers[0].param_groups[0]["lr"]
        result = self.guard.update(batch, self.state)
        if batch.leader:  # process 0 is idle
            self.world.spread(self.model.buffers(), batch.leader)
        return result

    def _after(self, batch: Batch, result: Result) -> bool:
        state = self.state
        state.step += 1
        state.loss = result.losses["loss"]
        self.position += batch.of_all
        self.seconds = perf_counter() - self.position_at
        for callback, hook in self._on_step:
            try:
                hook(state)
            except Exception as e:
                blame(e, callback, "on_step")
                raise
        return self._ends()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on from here; all processes have to call it."""
        self.guard.settle()
        self.world.spread(self.model.buffers())
        state: dict[str, Any] = {
            "steps_done": self.state.step,
            "position": self.position,
            "seconds": self.seconds,
            "history": self.history.rows,
            "stopped": None if self.state.stopped in INTERRUPTED else self.state.stopped,
        }

        def own() -> dict[str, Any]:  # with code of the user's, which may fail in one process
            state["model_state"] = plain_state(self.model, whole=False)
            state["unsaved_buffers"] = unsaved_buffers(self.model)
            state["step"] = self.step.state_dict()
            state["callbacks"] = callback_states(self.callbacks)
            return {"random": _random.get_state(), "train": self.train.state_dict(), "meter": self.meter.state_dict()}

        first, *others = self.world.by_all(own)
        return {**first, "others": others, **state}  # others: what each process after the first has of its own

    def load_state_dict(self, state: Mapping[str, Any], callbacks: Sequence[Any]) -> None:
        """Go to where `state_dict` was taken; the random generators come last."""
        set_callback_states(callbacks, state["callbacks"], all_needed=self.world.first)
        load_plain_state(self.model, state["model_state"])
        load_unsaved_buffers(self.model, state["unsaved_buffers"])
        self.step.load_state_dict(state["step"])
        self.state.step = state["steps_done"]
        self.state.stopped = state["stopped"]
        self.position, self.seconds = state["position"], state["seconds"]
        self.history.rows[:] = state["history"]
        mine, self.random = self._part(state)
        self.train.load_state_dict(mine["train"])
        if "meter" in mine:
            self.meter.load_state_dict(mine["meter"])
        self.set_generators()

    def _part(self, state: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any] | None]:
        """Return what this process had of its own, and its generators; of another number of processes, what is left.

        The sums of the epoch so far then go to the first process, whose generators each new process makes its own of.
        """
        parts = [state, *state.get("others", ())]
        if len(parts) == self.world.size:
            return parts[self.world.rank], parts[self.world.rank]["random"]
        self.state.notes.append(
            f"{len(parts)} processes have begun and {self.world.size} go on: from the same sample, to other bits"
        )
        if self.world.first:
            meter = Meter(self.metrics)
            meter.take([part["meter"] for part in parts])
            return {**state, "meter": meter.state_dict()}, state["random"]
        return {"train": state["train"]}, None

    def set_generators(self) -> None:
        """Go on with the checkpoint's random numbers, after each ``on_start`` too: it has drawn its own before."""
        if self.random is not None:
            _random.set_state(self.random)


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
