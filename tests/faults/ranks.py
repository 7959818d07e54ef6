"""What each process of a run does in the tests of several: train, be killed on the way, tell what came out."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tests.faults.trainings import Noisy, jitter
from torchbasics import _world, models
from torchbasics.testing import digest
from torchbasics.testing._kill import _watched
from torchbasics.training import _store, fit
from torchbasics.training._run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

RANK = int(os.environ.get("RANK", "0"))
ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
EPOCHS = 3


class Inner(Noisy):
    """Five batches of points, without their numbers."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        point, target = super().__getitem__(i)
        return point[1:], target


def make() -> nn.Module:
    """Return the model that is trained."""
    torch.manual_seed(0)
    return models.MLP(4, (8,), 3, dropout=0.3, batch_norm=True)


def train(folder: str, **options: Any) -> Any:
    """Return all that must be equal: the model, the history, and all of the last checkpoint, by rank."""
    held_out = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
    chosen = {"checkpoint": folder, "checkpoint_every": 2, "progress": False, **options}
    model = make()
    history = fit(
        model,
        Inner(),
        epochs=EPOCHS,
        batch_size=8,
        validation=held_out,
        augment=jitter,
        accumulate=2,
        lr=0.01,
        **chosen,
    )
    (_, state), _ = _store.newest(Path(folder))  # type: ignore[misc]  # there is one
    del state["callbacks"]  # names of folders
    parts = [state["random"], *(other["random"] for other in state["others"])]
    return history.stopped, [model, list(history), state], [digest(part) for part in parts]


@contextmanager
def killed(kills: list[dict[str, Any]]) -> Iterator[None]:
    """Kill this process where the plan of this attempt says so."""
    plan = kills[ATTEMPT] if len(kills) > ATTEMPT else {"rank": -1}
    calls: Counter[tuple[str, str]] = Counter()
    mine = os.getpid()

    def passed(point: str, when: str = "before") -> bool:
        if os.getpid() != mine:
            return False
        calls[point, when] += 1
        return plan["rank"] == RANK and (point, when, calls[point, when]) == (plan["point"], plan["when"], plan["at"])

    with _watched(passed):
        yield


class Tell:
    """Prints each step, and takes its time; process 1 waits at step *hold* until there is the file *go*."""

    def __init__(self, seconds: float, hold: int, go: Path) -> None:
        self.seconds, self.hold, self.go = seconds, hold, go

    def on_step(self, state: Any) -> None:
        os.write(1, f"step {state.step} of process {RANK}\n".encode())  # at once: the others print, too
        time.sleep(self.seconds)
        while RANK == 1 and state.step == self.hold and not self.go.exists():
            time.sleep(0.02)


def main() -> None:
    """Train as the arguments say, and write what came out."""
    folder, out, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    warnings.simplefilter("error")
    _world.PATIENCE = options.pop("patience", _world.PATIENCE)
    broken, kills = options.pop("broken", None), options.pop("kills", [])
    slow, hold = options.pop("slow", 0.0), options.pop("hold", -1)
    if broken == "generators of process 0 for all":
        part = Run._part
        Run._part = lambda self, state: (part(self, state)[0], state["random"])  # type: ignore[method-assign]
    with killed(kills):
        stopped, everything, generators = train(folder, callbacks=[Tell(slow, hold, out / f"go-{hold}")], **options)
    told = {"stopped": stopped, "digest": digest(everything), "generators": generators, "attempt": ATTEMPT}
    (out / f"{RANK}.json").write_text(json.dumps(told))
    if stopped == "signal":
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
