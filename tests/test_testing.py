"""The kill test, run on training functions that know nothing of this package."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchbasics.testing import POINTS, Child, Kill, Outcome, Report, _kill, digest, kill_test, run_child
from torchbasics.training import History


def train(folder: Path, *, careful: bool = True) -> Any:
    """A loop with dropout that saves after each of five steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    path, losses = folder / "state.pt", []
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"]
        torch.set_rng_state(state["random"])
    for _ in range(len(losses), 5):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
        written = path.with_suffix(".new") if careful else path
        torch.save({**state, "random": torch.get_rng_state()}, written)
        if careful:
            written.replace(path)
    return [model.eval(), optimizer, losses, model(torch.ones(1, 3)).detach()]


def careless(folder: Path) -> Any:
    """Saves over the only copy."""
    return train(folder, careful=False)


def forgetful(folder: Path) -> Any:
    """Counts its starts, and so ends on something else after a kill."""
    with (folder / "starts").open("a") as file:
        file.write("x")
    return [train(folder), (folder / "starts").read_text()]


def different(folder: Path) -> Any:
    """Is another run each time."""
    return [folder.name, time.time(), os.getpid()]


def failing(folder: Path) -> Any:
    """Does not work."""
    raise KeyError("nothing")


def warning(folder: Path) -> Any:
    """Says that something is wrong."""
    warnings.warn("odd", RuntimeWarning, stacklevel=1)


def endless(folder: Path) -> Any:
    """Never ends."""
    time.sleep(60)


def test_a_kill_that_comes_as_the_run_has_ended_leaves_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last word is in the pipe, and was not there yet when it was to be killed."""

    def late(pid: int, number: int, kill: Callable[[int, int], None] = os.kill) -> None:
        time.sleep(3)  # in which the run ends
        kill(pid, number)

    monkeypatch.setattr(os, "kill", late)
    child = run_child(train, tmp_path, Kill("time", at=0.0))

    assert child.exitcode == 0
    assert child.digest is not None


def test_careful_training_passes() -> None:
    """Killed around each of its points and at random times, it ends on the same bits."""
    report = kill_test(train, points=("save", "rename", "update", "evaluation"), times=2)

    assert report.passed, str(report)
    assert report.kills >= 14
    runs = sum(bool(outcome.kills) for outcome in report.outcomes)
    assert str(report) == f"{report.kills} kills in {runs} runs; {runs} of {runs} ended equal"
    assert report.seconds > 0


@pytest.mark.parametrize(
    ("function", "kill", "message"),
    [
        (careless, Kill("save", "after", at=3), "after save 3: failed: "),
        (forgetful, Kill("update", "before", at=2), "before update 2: not equal"),
    ],
    ids=["careless", "forgetful"],
)
def test_a_mistake_is_found(function: Any, kill: Kill, message: str) -> None:
    """A file half written, and a state that is lost."""
    report = kill_test(function, points=(), kills=[kill], times=0)

    assert not report.passed
    assert message in str(report)


def test_a_run_that_cannot_be_compared_is_an_error() -> None:
    """It fails by itself, or is another each time; a point is unknown."""
    with pytest.raises(RuntimeError, match="the run that nobody kills did not end: KeyError: 'nothing'"):
        kill_test(failing)
    with pytest.raises(RuntimeError, match="the run that nobody kills did not end: RuntimeWarning: odd"):
        kill_test(warning)
    with pytest.raises(RuntimeError, match="two runs that nobody kills end differently; set seeds"):
        kill_test(different)
    with pytest.raises(ValueError, match="unknown point 'fsinc'; did you mean 'fsync'"):
        kill_test(train, points=("fsinc",))


def test_a_child_is_killed_where_it_was_said(tmp_path: Path) -> None:
    """By SIGKILL; a child that hangs is ended, and a kill that never comes does nothing."""
    killed = run_child(train, tmp_path / "a", Kill("update", "after", at=2))
    assert killed == Child(-9, 0.0)
    assert len(torch.load(tmp_path / "a" / "state.pt", weights_only=True)["losses"]) == 1
    assert run_child(train, tmp_path / "b", Kill("update", at=99)).digest == run_child(train, tmp_path / "a").digest
    assert run_child(endless, tmp_path / "c", Kill("time", at=0.01)).exitcode == -9
    hung = run_child(endless, tmp_path / "d", timeout=0.2)
    assert (hung.digest, hung.error) == (None, "still running after 0.2 s")


def test_calls_are_counted(tmp_path: Path) -> None:
    """Where kills are possible."""
    calls = run_child(train, tmp_path).calls

    assert calls["before update"] == calls["before save"] == calls["after rename"] == 5
    assert calls["after evaluation"] == 4  # three layers and the whole
    assert {key.split()[1] for key in calls} <= {*POINTS}


def test_nothing_of_the_watching_stays() -> None:
    """All functions are as before, all hooks gone, and outside of a child nothing dies."""
    before = os.fsync, os.rename, os.mkdir, torch.save
    seen: list[Any] = []

    def note(*point: str) -> bool:
        seen.append(point)
        return False

    with _kill._watched(note):
        nn.Linear(1, 1).eval()(torch.ones(1, 1))
    assert (os.fsync, os.rename, os.mkdir, torch.save) == before
    nn.Linear(1, 1).eval()(torch.ones(1, 1))
    assert seen == [("evaluation", "after")]


def test_digests_tell_data_apart() -> None:
    """By value, type, dtype, shape and order; a history's "seconds" do not count."""
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    values: list[Any] = [
        None, 0, 0.0, False, "0", b"0", [0], [[0]], [0, 0], {"a": 0}, {"b": 0}, {"a": [0]}, 1 + 0j,
        torch.zeros(2), torch.zeros(2, 1), torch.zeros(2).double(), torch.zeros(2).bfloat16(), np.zeros(2), np.zeros(3),
        layer, torch.optim.SGD(layer.parameters(), 0.1), History([{"loss": 1.0}]), np.float32(0),
    ]  # fmt: skip

    assert len({digest(value) for value in values}) == len(values)
    assert digest(History([{"loss": 1.0, "seconds": 2.0}])) == digest(History([{"loss": 1.0, "seconds": 3.0}]))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(TypeError, match="is no data that can be compared; return models"):
        digest(object())


def test_a_report_names_what_went_wrong() -> None:
    """One line a run that did not end equal; one that was too fast to be killed does not count."""
    kills = (Kill("time", at=0.25), Kill("fsync", at=3))
    report = Report(1.0, [Outcome(kills, equal=False), Outcome((), equal=True), Outcome(kills[1:], equal=True)])

    assert str(report) == "3 kills in 2 runs; 1 of 2 ended equal\n  after 0.250 s, before fsync 3: not equal"
    assert not report.passed
    assert not Report(1.0).passed
