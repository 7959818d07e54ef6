"""Runs of several processes that fail, one after the other in the same processes; each tells what it got."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from tests.helpers import blobs
from torchbasics import _meeting, models
from torchbasics.training import _store, evaluate, fit

if TYPE_CHECKING:
    from collections.abc import Callable

RANK, LAST = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")) - 1


class LostError(RuntimeError):
    """What a database of the user's may raise."""


class At:
    """Raises after the third update, in the last process only."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_step(self, state: Any) -> None:
        if state.step == 3 and RANK == LAST:
            raise self.error


class Torn(Dataset[Any]):
    """One sample that only the last process reads cannot be read."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> Any:
        if RANK == LAST and i > 30:
            raise KeyError(f"sample {i}")
        return blobs()[0][i], blobs()[1][i]


def make(hidden: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return models.MLP(6, (hidden,), 3)


def train(model: nn.Module | None = None, data: Any = None, **options: Any) -> Any:
    chosen = {"epochs": 2, "batch_size": 12, "lr": 0.01, "progress": False, **options}
    return fit(model or make(), data or blobs(), **chosen)


def differs(first: Any, last: Any) -> Any:
    return last if RANK == LAST else first


def nonfinite() -> None:
    """The model is unchanged in all, and all name the same samples."""
    inputs, targets = blobs()
    inputs[57, 0] = 99
    model = make()

    def step(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(inputs), targets)
        return loss * float("nan") if bool((inputs == 99).any()) else loss

    seen: list[Any] = []

    class Keep:
        def on_step(self, state: Any) -> None:
            seen.append({name: p.clone() for name, p in model.named_parameters()})

    try:
        train(model, (inputs, targets), callbacks=[Keep()], step=step)
    finally:
        before = seen[-1] if seen else dict(make().named_parameters())
        if not all(torch.equal(p, before[name]) for name, p in model.named_parameters()):
            raise AssertionError("the model has changed")


def overflow() -> None:
    """Under float16, where a scaler leaves out updates: a loss that is not finite is no overflow."""
    inputs, targets = blobs()
    inputs[57, 0] = 99

    def step(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(inputs), targets)
        return loss * float("nan") if bool((inputs == 99).any()) else loss

    train(None, (inputs, targets), step=step, precision="float16")


def split() -> Any:
    """Return a loader that has samples of its own in the first process, and whose others read alike."""
    data = TensorDataset(*blobs())
    own: DistributedSampler[Any] = DistributedSampler(data, LAST + 1, RANK, shuffle=False)
    return DataLoader(data, batch_size=6, sampler=differs(own, None))


class Odd(list[Any]):
    """A list of batches whose state has no pickle in the last process."""

    def state_dict(self) -> dict[str, Any]:
        return {"at": differs(0, lambda: 0)}

    def load_state_dict(self, state: Any) -> None:
        raise AssertionError


def without_a_word() -> None:
    class Gone:
        def on_step(self, state: Any) -> None:
            if state.step == 3 and RANK == LAST:
                os._exit(0)

    train(callbacks=[Gone()])


SCENARIOS: dict[str, Callable[[Path], Any]] = {
    "callback": lambda folder: train(callbacks=[At(LostError("no connection to the store"))]),
    "dataset": lambda folder: train(data=Torn()),
    "workers": lambda folder: train(data=Torn(), workers=1),
    "nan": lambda folder: nonfinite(),
    "nan in float16": lambda folder: overflow(),
    "interrupt": lambda folder: train(callbacks=[At(KeyboardInterrupt())]),
    "exit": lambda folder: train(callbacks=[At(SystemExit(3))]),
    "argument": lambda folder: train(epochs=differs(2, -1)),
    "epochs": lambda folder: train(epochs=differs(2, 3)),
    "seed": lambda folder: train(seed=differs(0, 1)),
    "model": lambda folder: train(make(differs(8, 9))),
    "data": lambda folder: train(data=blobs(seed=differs(1, 2))),
    "length": lambda folder: train(data=blobs(differs(60, 48))),
    "folder": lambda folder: train(checkpoint=folder / differs("here", "there")),
    "resume": lambda folder: train(checkpoint=folder / "here", resume=differs("auto", True)),
    "a folder for one": lambda folder: train(checkpoint=differs(folder / "here", None)),
    "validation": lambda folder: train(validation=differs(0.2, None)),
    "evaluation": lambda folder: evaluate(make(), blobs(differs(60, 48))),
    "samples of its own": lambda folder: train(data=split(), batch_size=None),
    "samples of its own to evaluate on": lambda folder: evaluate(make(), split()),
    "a state without a pickle": lambda folder: (
        train(data=Odd([blobs()]), batch_size=None, checkpoint=folder / "odd").stopped
    ),
    "nothing": lambda folder: train(checkpoint=folder / "shared").stopped,
    "without a word": lambda folder: without_a_word(),
}


def main() -> None:
    """Try all that the arguments name, and write what came of it."""
    out, names = Path(sys.argv[1]), sys.argv[2:] or list(SCENARIOS)
    _store.LATE = 1.0
    _meeting.TIMEOUT = timedelta(seconds=float(os.environ.get("SECONDS", "240")))
    if os.environ.get("OWN"):
        torch.distributed.init_process_group("gloo", timeout=_meeting.TIMEOUT)
    told: dict[str, list[Any]] = {}
    for name in names:
        started = time.monotonic()
        try:
            told[name] = ["", str(SCENARIOS[name](out))]
        except BaseException as e:
            cause = "" if e.__cause__ is None else type(e.__cause__).__name__
            told[name] = [type(e).__name__, str(e), cause]
        told[name].append(time.monotonic() - started)
        (out / f"{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
