"""SIGKILL at every named point and at random times: the run ends on the bits of the one that nobody killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import trainings
from torchbasics.testing import POINTS, Kill, kill_test

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 6  # of an epoch
EPOCH_ENDS = [Kill("update", "after", STEPS * epoch) for epoch in range(1, trainings.EPOCHS)]


@pytest.mark.slow
@pytest.mark.parametrize("train", [trainings.train, trainings.in_this_process], ids=["two workers", "no workers"])
def test_a_run_that_is_killed_ends_on_the_same_bits(train: Callable[..., Any]) -> None:
    """Parameters, buffers, optimizer, schedule, generators, history; each sample once an epoch; no warning."""
    report = kill_test(train, kills=EPOCH_ENDS, times=30)

    kills = [kill.point for outcome in report.outcomes for kill in outcome.kills]
    killed = [outcome for outcome in report.outcomes if outcome.kills]
    print(
        f"\n{train.__name__}: {kills.count('time')} kills at random times, {len(kills) - kills.count('time')} at named "
        f"points; {sum(outcome.equal for outcome in killed)} of {len(killed)} killed runs ended equal"
    )
    assert report.passed
    assert kills.count("time") >= 25
    assert set(kills) == {*POINTS, "time"}


CONTROLS = {
    "generators not restored": (trainings.without_generators, Kill("update", at=9)),
    "restored one fetch early": (trainings.one_fetch_early, Kill("update", at=9)),
    "order from the global generator": (trainings.order_of_the_global_generator, Kill("update", at=9)),
    "straight to the final path": (trainings.straight_to_the_final_path, Kill("save", "after", at=3)),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_mistake_turns_the_kill_test_red(control: str) -> None:
    """Positive controls: one kill is enough to tell."""
    train, kill = CONTROLS[control]

    report = kill_test(train, points=(), kills=[kill], times=0)

    assert report.kills == 1
    assert not report.passed


def test_without_the_mistakes_these_kills_do_no_harm() -> None:
    """The same kills, the same training, nothing broken."""
    report = kill_test(trainings.without_workers, points=(), kills=[kill for _, kill in CONTROLS.values()], times=0)

    assert report.kills == len(CONTROLS)
    assert report.passed
