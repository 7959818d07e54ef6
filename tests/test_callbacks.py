"""The protocol of callbacks: what is called when, what is saved, who is to blame."""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from tests.helpers import CrashAt, CrashError, blobs, needs, newest
from torchbasics.training import Callback, State, fit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

quiet = partial(fit, progress=False, batch_size=20, lr=0.01)


class Diary:
    """A callback of a user's own that writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_start(self, state: State) -> None:
        self.seen.append("start")

    def on_step(self, state: State) -> None:
        self.seen.append(f"step {state.step}")

    @contextmanager
    def validating(self, state: State) -> Iterator[None]:
        self.seen.append("validation")
        yield
        self.seen.append("validated")

    def on_epoch(self, state: State) -> None:
        self.seen.append(f"epoch {len(state.history)}")

    def on_stop(self, state: State) -> None:
        self.seen.append(f"stop {state.stopped}")

    def on_end(self, state: State) -> None:
        self.seen.append(f"end {'badly' if state.failed else 'well'}")


def test_hooks_are_called_in_this_order() -> None:
    """Start, steps, validation, epoch, end."""
    diary = Diary()

    quiet(nn.Linear(6, 3), blobs(), epochs=1, callbacks=[diary, Callback()], validation=blobs())

    assert diary.seen == [
        "start", "step 1", "step 2", "step 3", "validation", "validated", "epoch 1", "end well",
    ]  # fmt: skip


def test_training_needs_no_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A service, or a program without a console, may have none."""
    monkeypatch.setattr(sys, "stderr", None)
    fit(nn.Linear(6, 3), *blobs(), epochs=1)

    assert "epoch 1/1" in capsys.readouterr().out


def test_the_end_is_told_after_an_error_too() -> None:
    """And that it was one."""
    diary = Diary()

    with pytest.raises(CrashError):
        quiet(nn.Linear(6, 3), blobs(), epochs=1, callbacks=[diary, CrashAt(2)])

    assert diary.seen == ["start", "step 1", "step 2", "end badly"]


@pytest.mark.parametrize("event", ["on_start", "on_step", "on_epoch", "on_end"])
def test_an_error_in_a_callback_names_it(event: str) -> None:
    """The error is the callback's own, with a note of the class and the hook."""

    class Broken:
        def __init__(self) -> None:
            setattr(self, event, self.fail)

        def fail(self, state: State) -> None:
            raise KeyError("colour")

    with pytest.raises(KeyError, match="colour") as caught:
        quiet(nn.Linear(6, 3), blobs(), epochs=1, callbacks=[Diary(), Broken()])

    text = "".join(traceback.format_exception(caught.value))
    assert f"raised in {event} of the callback {Broken.__qualname__}" in text


class Counter:
    """A callback with a state."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step(self, state: State) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def crashed(folder: Path, *callbacks: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(CrashError):
        quiet(
            nn.Linear(6, 3), blobs(), epochs=2, checkpoint=folder, checkpoint_every=1,
            callbacks=[*callbacks, CrashAt(5)],
        )  # fmt: skip


def resumed(folder: Path, *callbacks: Any, **options: Any) -> None:
    torch.manual_seed(0)
    quiet(nn.Linear(6, 3), blobs(), epochs=2, checkpoint=folder, callbacks=callbacks, **options)


def test_a_callback_with_a_state_goes_on_from_it(tmp_path: Path) -> None:
    """Two of one class keep theirs apart; those without a state may come and go."""
    one, other = Counter(), Counter()
    one.steps = 100
    crashed(tmp_path, Diary(), one, other)
    one, other = Counter(), Counter()

    resumed(tmp_path, one, other, Diary(), log_dir=None)

    assert (one.steps, other.steps) == (106, 6)


def test_a_new_callback_starts_with_its_own_state(tmp_path: Path) -> None:
    """It sees the rest of the run."""
    counter = Counter()
    crashed(tmp_path)

    resumed(tmp_path, counter)

    assert counter.steps == 2


def test_a_missing_callback_is_named(tmp_path: Path) -> None:
    """Its state would be lost without a word."""
    crashed(tmp_path, Counter())
    before = newest(tmp_path)["callbacks"]

    with pytest.raises(ValueError, match=r"has the state of a callback 'Counter', which is not among callbacks=\.\.\."):
        resumed(tmp_path)

    assert before["Counter"] == {"steps": 4}


class Ends:
    """Tells whether its end was told; fails there if asked to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.told: list[str] = []

    def on_start(self, state: State) -> None:
        self.told.append("start")
        if self.fails == "start":
            raise CrashError("start")

    def on_end(self, state: State) -> None:
        self.told.append("end")
        if self.fails == "end":
            raise CrashError("end")


def test_every_callback_that_was_started_is_ended() -> None:
    """Also when a later one cannot start, or another's end fails; the first failure is told."""
    first, second, third = Ends(), Ends("start"), Ends()
    with pytest.raises(CrashError, match="start"):
        fit(nn.Linear(6, 3), blobs(), epochs=1, progress=False, callbacks=[first, second, third])
    assert (first.told, second.told, third.told) == (["start", "end"], ["start"], [])

    first, second, third = Ends("end"), Ends(), Ends("end")
    with pytest.raises(CrashError, match="end"):
        fit(nn.Linear(6, 3), blobs(), epochs=1, progress=False, callbacks=[first, second, third])
    assert second.told == third.told == ["start", "end"]


def test_a_failure_of_one_callback_loses_no_checkpoint(tmp_path: Path) -> None:
    """Where a run is ended from outside, the last one is written all the same; the failure is told."""

    class Broken(Diary):
        def on_step(self, state: State) -> None:
            if state.step == 2:
                state.stop("signal")

        def on_stop(self, state: State) -> None:
            super().on_stop(state)
            raise CrashError

    first, second = Broken(), Diary()
    with pytest.raises(CrashError) as caught:
        quiet(nn.Linear(6, 3), blobs(), epochs=2, checkpoint=tmp_path, callbacks=[first, second])

    assert newest(tmp_path)["steps_done"] == 2
    assert second.seen[-2:] == ["stop signal", "end badly"]
    assert caught.value.__notes__ == [f"raised in on_stop of the callback {Broken.__qualname__}"]


@needs("tensorboard")
def test_only_a_log_of_the_library_may_be_left_out(tmp_path: Path) -> None:
    """A user's callback is missed, whatever its name begins with."""

    class TensorBoard(Counter):
        """Has the name of the library's own."""

    TensorBoard.__qualname__ = "TensorBoard"
    crashed(tmp_path / "a", TensorBoard())
    with pytest.raises(ValueError, match="has the state of a callback 'TensorBoard', which is not among"):
        resumed(tmp_path / "a")

    torch.manual_seed(0)
    with pytest.raises(CrashError):
        quiet(
            nn.Linear(6, 3), blobs(), epochs=2, checkpoint=tmp_path / "b", checkpoint_every=1,
            callbacks=[CrashAt(5)], log_dir=tmp_path / "log",
        )  # fmt: skip
    assert "torchbasics.TensorBoard" in newest(tmp_path / "b")["callbacks"]
    resumed(tmp_path / "b")


def test_an_error_around_validation_names_the_callback() -> None:
    """As in any other hook."""

    class Broken:
        def validating(self, state: State) -> Any:
            raise KeyError("colour")

    with pytest.raises(KeyError, match="colour") as caught:
        quiet(nn.Linear(6, 3), blobs(), epochs=1, validation=blobs(), callbacks=[Broken()])

    assert caught.value.__notes__ == [f"raised in validating of the callback {Broken.__qualname__}"]


@pytest.mark.parametrize("better", [True, False], ids=["then better", "never better"])
def test_nan_is_worse_than_any_number(better: bool) -> None:
    """A first epoch whose validation is nan is not the best for ever."""
    model = nn.Linear(6, 3)
    inputs, targets = blobs()

    class Spoil:
        @contextmanager
        def validating(self, state: State) -> Iterator[None]:
            kept = model.bias.detach().clone()
            model.bias.data.fill_(float("nan") if state.epoch == 0 or not better else 0)
            yield
            model.bias.data.copy_(kept)

    history = quiet(
        model, (inputs, targets), epochs=5, validation=(inputs, targets), early_stopping=2, callbacks=[Spoil()]
    )  # fmt: skip

    assert history.stopped == (None if better else "early")
    assert len(history) == (5 if better else 3)
