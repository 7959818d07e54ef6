"""How things are timed: in turns, round by round, and compared within each round."""

from __future__ import annotations

import gc
import math
import statistics
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    quick: bool = False
    rounds: int | None = None
    peers: bool = True
    recipe: str | None = None
    share: float = 1.0
    busy: bool = False

    def number(self, full: int, quick: int = 2) -> int:
        """Return the number of rounds."""
        return quick if self.quick else min(full, self.rounds or full)

    def size(self, full: int, quick: int) -> int:
        """Return how large the work is."""
        return quick if self.quick else full

    def images(self) -> tuple[int, int]:
        """Return how many images there are to train and to test with."""
        return (500, 200) if self.quick else (round(60_000 * self.share), 10_000)

    def threads(self) -> int:
        """Return the threads of what is measured on the wall."""
        return 1 if self.quick or self.busy else 2

    def clock(self) -> Callable[[], float]:
        """Return the clock of what is measured on the wall."""
        return process_time if self.busy else perf_counter


@dataclass
class Row:
    """One line of a table: a figure with its spread, and what it is to be at most."""

    name: str
    values: list[float]
    unit: str
    target: float | None = None
    comparison: bool = False

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """What a quarter of the values lie below, and what a quarter lie above."""
        if len(self.values) < 2 or not all(map(math.isfinite, self.values)):
            return min(self.values), max(self.values)
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def met(self) -> bool | None:
        """Whether the target is met, None without one."""
        return None if self.target is None else self.median <= self.target


@dataclass
class Part:
    """A table, and what has to be known to read it."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    judged: bool = True  # whether the figures are good for more than seeing that they are there
    taken: str = ""  # when, and under which load


class Times(dict[str, list[float]]):
    """Seconds of each contestant, round by round."""

    def row(self, name: str, unit: str, scale: float, target: float | None = None) -> Row:
        """Return the line of a contestant; *scale* makes the unit from seconds."""
        return Row(name, [seconds * scale for seconds in self[name]], unit, target)

    def rows(self, unit: str, scale: float) -> list[Row]:
        """Return the lines of all contestants."""
        return [self.row(name, unit, scale) for name in self]

    def ratio(self, one: str, other: str, target: float | None = None) -> Row:
        """Compare two contestants round by round."""
        pairs = zip(self[one], self[other], strict=True)
        return Row(f"{one} / {other}", [a / b for a, b in pairs], "", target, comparison=True)

    def over(self, one: str, other: str, unit: str, scale: float, target: float | None = None) -> Row:
        """Return what *one* takes more than *other*, round by round."""
        pairs = zip(self[one], self[other], strict=True)
        return Row(f"{one} over {other}", [(a - b) * scale for a, b in pairs], unit, target, comparison=True)


def measure(
    contestants: dict[str, Any],
    rounds: int,
    *,
    clock: Callable[[], float] = process_time,
    check: Callable[[str, Any], None] | None = None,
    warm_up: bool = True,
) -> Times:
    """Run each contestant in turn, *rounds* times.

    Args:
        contestants: Name -> a function that prepares and returns what is to be timed.
        rounds: How many turns count; the order is turned round each time.
        clock: `process_time` is the time of all threads of this process, `perf_counter` that on the wall.
        check: Given the name and the result after each turn; raises where the work was not the same.
        warm_up: Whether a turn that is not counted comes first.
    """
    times = Times({name: [] for name in contestants})
    for turn in range(0 if warm_up else 1, rounds + 1):
        names = list(contestants) if turn % 2 else list(reversed(contestants))
        for name in names:
            run = contestants[name]()
            gc.collect()
            started = clock()
            result = run()
            seconds = clock() - started
            if check is not None:
                check(name, result)
            del run, result
            if turn:
                times[name].append(seconds)
    return times


def same(what: str, value: float, expected: float, tolerance: float) -> None:
    """See that two contestants did the same work.

    Raises:
        SystemExit: they did not.
    """
    if not math.isclose(value, expected, rel_tol=tolerance):
        raise SystemExit(f"{what} ended on {value!r}, expected {expected!r}: not the same work, so no comparison")


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch use *n* threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
