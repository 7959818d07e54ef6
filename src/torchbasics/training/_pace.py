"""When several processes agree whether to go on: seldom enough to cost nothing, often enough to end in time."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchbasics._world import World

SECONDS = 0.5  # between two agreements
MOST = 1000  # steps between them


class Pace:
    """Counts steps up to the next agreement; the number is agreed on, too, so that all ask each other at one step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps = self.left = 1
        self.asked = monotonic()

    def due(self, *, now: bool) -> bool:
        """Whether this is a step to agree at."""
        self.left -= not now
        return now or self.left <= 0

    def agreed(self, reason: str | None, signal: int | None) -> tuple[str | None, int | None]:
        """Return the reason and the signal of the first process that wants to end the run."""
        done, self.asked, before = self.steps - self.left, monotonic(), self.asked
        fitting = int(SECONDS * done / max(self.asked - before, 1e-9))
        wanted = max(1, min(fitting, 2 * self.steps, MOST)) if done > 0 else self.steps
        ends, self.steps = self.world.largest([reason is not None, wanted])
        self.left = self.steps
        if not ends:
            return None, None
        wishes: list[tuple[str | None, int | None]] = self.world.exchange((reason, signal))
        return next(wish for wish in wishes if wish[0] is not None)
