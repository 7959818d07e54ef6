"""What looks at a run while it goes on: the state it is shown, and the built-in callbacks."""

from __future__ import annotations

import copy
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchbasics._model import load_plain_state, plain_state
from torchbasics._recipe import EarlyStopping, Recipe
from torchbasics._zoo import class_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchbasics.training._history import History


_OWN = __name__.partition(".")[0]


class State:
    """Where a run stands; callbacks read it and change nothing but by `State.stop`.

    Attributes:
        model: What is trained.
        history: The epochs so far.
        recipe: The run's recipe, all choices made.
        epoch: The running epoch, counted from 0.
        step: Updates done so far.
        steps: Updates of an epoch, None where nobody knows.
        loss: The last batch's loss: a number, or a tensor on the device that nobody has waited for.
        learning_rate: Of the last update.
        stopped: Why the run ends, None = it goes on.
        signal: The number of the signal that ends the run, None = none.
        failed: Whether an error ended the run, for ``on_end``.
        result: Returns what the model would end with now: its own state, or the average of weights; in parts where the
            processes have a part of the model each.
        notes: Lines for people, said at the start: such as what the run goes on from.

    >>> from torchbasics.training import History
    >>> from torch import nn
    >>> state = State(nn.Linear(1, 1), History(), Recipe(), steps=10)
    >>> state.stop("good enough")
    >>> state.stopped
    'good enough'
    """

    def __init__(self, model: nn.Module, history: History, recipe: Recipe, steps: int | None) -> None:
        self.model = model
        self.history = history
        self.recipe = recipe
        self.steps = steps
        self.epoch = 0
        self.step = 0
        self.loss: float | Tensor = float("nan")
        self.learning_rate: float = 0.0
        self.stopped: str | None = None
        self.signal: int | None = None
        self.failed = False
        self.result: Callable[[], dict[str, Any]] = lambda: copy.deepcopy(plain_state(model, whole=False))
        self.notes: list[str] = []

    def stop(self, reason: str) -> None:
        """End the run after this step; *reason* becomes ``history.stopped``."""
        self.stopped = reason


class Callback:
    """Base of the built-in callbacks; one of your own needs only the methods it uses, and no base.

    One with ``state_dict`` and ``load_state_dict`` is saved in checkpoints. One with ``validating(state)``, a context
    manager, has the validation run in it. An error in one carries its name.

    >>> class UntilGood(Callback):
    ...     def on_epoch(self, state):
    ...         if state.history[-1]["loss"] < 0.1:
    ...             state.stop("good enough")
    >>> import torch
    >>> from torchbasics import training
    >>> x = torch.linspace(-1, 1, 100).unsqueeze(1)
    >>> options = {"epochs": 50, "lr": 0.1, "progress": False}
    >>> training.fit(torch.nn.Linear(1, 1), x, 2 * x, callbacks=[UntilGood()], **options).stopped
    'good enough'
    """

    def on_start(self, state: State) -> None:
        """Before the first step."""

    def on_step(self, state: State) -> None:
        """After each update."""

    def on_epoch(self, state: State) -> None:
        """After each epoch: its row is in the history."""

    def on_stop(self, state: State) -> None:
        """When a signal or the time limit ends the run, with all as it was after the last update."""

    def on_end(self, state: State) -> None:
        """After the run, also when it failed."""


class Stopper(Callback):
    """Ends a run that no longer gets better, and brings back its best weights."""

    def __init__(self, options: EarlyStopping) -> None:
        self.options = options
        self.best: float | None = None
        self.waited = 0
        self.weights: dict[str, Any] | None = None

    def on_epoch(self, state: State) -> None:
        """Compare the epoch with the best so far."""
        row = state.history[-1]
        name = self.options.monitor or ("validation_loss" if "validation_loss" in row else "loss")
        if name not in row and state.stopped is not None:
            return  # the epoch was cut short, and not validated
        if name not in row:
            raise ValueError(f"early stopping watches {name!r}, which is not in the history: {', '.join(row)}")
        value = score(row, name)
        if self.best is None or value > self.best:
            self.best, self.waited = value, 0
            self.weights = state.result() if self.options.restore_best else None
        else:
            self.waited += 1
            if self.waited >= self.options.patience:
                state.stop("early")

    def on_end(self, state: State) -> None:
        """Bring back the best weights."""
        if self.weights is not None and not state.failed:
            load_plain_state(state.model, self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been best, and since when."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]


def score(row: Mapping[str, float], name: str) -> float:
    """Return a value of an epoch such that more is better, and nan is worst."""
    value = -row[name] if name.endswith(("loss", "error", "mae")) else row[name]
    return -math.inf if math.isnan(value) else value


class Lines(Callback):
    """Prints a line at the start and one an epoch."""

    def on_start(self, state: State) -> None:
        """Say what was chosen."""
        self.say(f"{class_of(state.model).__name__}: {state.recipe.describe()}")
        for note in state.notes:
            self.say(note)

    def on_epoch(self, state: State) -> None:
        """Say what was measured."""
        row = dict(state.history[-1])
        seconds = row.pop("seconds")
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
        total = state.recipe.epochs
        self.say(f"epoch {len(state.history):{len(str(total))}}/{total}  {numbers}  {seconds:.1f} s")

    def on_end(self, state: State) -> None:
        """Say why it ended, when it ended before time."""
        if state.stopped is not None:
            self.say(f"stopped ({state.stopped}) after epoch {len(state.history)} of {state.recipe.epochs}")

    def say(self, line: str) -> None:
        """Print."""
        print(line, flush=True)


class Bar(Lines):
    """Shows a bar for the running epoch, above it a line for each that is done."""

    def on_start(self, state: State) -> None:
        """Open the bar."""
        from tqdm.auto import tqdm

        self.bar = tqdm(total=state.steps, leave=False, unit="step", dynamic_ncols=True)
        super().on_start(state)

    def on_step(self, state: State) -> None:
        """Move the bar."""
        if self.bar.update() and isinstance(state.loss, float):  # redrawn ten times a second at most
            self.bar.set_postfix(loss=f"{state.loss:.3f}", refresh=False)

    def on_epoch(self, state: State) -> None:
        """Start the bar anew."""
        self.bar.reset(total=state.steps)
        super().on_epoch(state)

    def on_end(self, state: State) -> None:
        """Close the bar."""
        self.bar.close()
        super().on_end(state)

    def say(self, line: str) -> None:
        """Print above the bar."""
        self.bar.write(line)


def make_progress(progress: bool | None) -> list[Callback]:
    """Return what shows progress: None = a bar on a terminal or in a notebook, else lines; False = nothing."""
    if progress is False:
        return []
    if progress is True or (sys.stderr and sys.stderr.isatty()) or "ipykernel" in sys.modules:
        return [Bar()]
    return [Lines()]


def tell(callbacks: Sequence[Any], event: str, state: State) -> None:
    """Call the hook *event* of each callback that has it; an error carries the name of the callback."""
    for callback in callbacks:
        hook = getattr(callback, event, None)
        if hook is not None:
            try:
                hook(state)
            except Exception as e:
                blame(e, callback, event)
                raise


def tell_all(callbacks: Sequence[Any], event: str, state: State) -> None:
    """Do as `tell`, also after one has failed; the first failure is raised, unless the run has failed already."""
    failure: Exception | None = None
    for callback in callbacks:
        try:
            tell([callback], event, state)
        except Exception as e:
            failure = failure or e
    if failure is not None and not state.failed:
        raise failure


def blame(error: Exception, callback: Any, event: str) -> None:
    """Note in which callback an error came up."""
    error.add_note(f"raised in {event} of the callback {type(callback).__qualname__}")


def callback_states(callbacks: Sequence[Any]) -> dict[str, Any]:
    """Return the states of those callbacks that have one, by class; a second of a class is "Class 2".

    Those of this library begin with its name, as no class of a user's does.
    """
    return {name: c.state_dict() for name, c in _named(callbacks).items()}


def set_callback_states(callbacks: Sequence[Any], states: Mapping[str, Any], *, all_needed: bool = True) -> None:
    """Set what `callback_states` returned; those that had none then keep theirs.

    Without ``log_dir`` the run goes on all the same.

    Args:
        callbacks: The callbacks.
        states: The states, which are those of process 0.
        all_needed: Whether there has to be a callback for each; processes after the first may have fewer.

    Raises:
        ValueError: the callback of a state is missing.
    """
    named = _named(callbacks)
    missing = [name for name in states if name not in named and not name.startswith(f"{_OWN}.TensorBoard")]
    if missing and all_needed:
        raise ValueError(
            f"the checkpoint has the state of a callback {missing[0]!r}, which is not among callbacks=...; "
            "give it, or begin anew in another folder"
        )
    for name in states.keys() & named.keys():
        named[name].load_state_dict(states[name])


def _named(callbacks: Sequence[Any]) -> dict[str, Any]:
    seen: Counter[str] = Counter()
    named = {}
    for callback in callbacks:
        if hasattr(callback, "state_dict"):
            own = type(callback).__module__.partition(".")[0] == _OWN
            name = f"{_OWN}." * own + type(callback).__qualname__
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name} {seen[name]}"] = callback
    return named
