"""What several processes do in the tests of them: ``torchrun ... -m tests.worlds FOLDER CASE ...`` writes what came out.

The same functions run in the tests' own process give what is to be expected.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests import distributed_data
from tests.helpers import Squares, blobs
from torchbasics import _files, _meeting, models, training
from torchbasics.training import Supervised, _store

RANK = int(os.environ.get("RANK", "0"))
CASES: dict[str, Callable[[], Any]] = {}
WAYS = (  # of training
    "plain",
    "last batch of one",
    "batches of two",
    "ignored targets",
    "weighted",
    "weights of zero",
    "sums",
    "accumulate",
    "clipped",
    "average",
    "early",
    "own step",
    "own step with parts of the model",
    "regression",
    "list",
    "metric",
)


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """Make *function* a case that can be named."""
    CASES[function.__name__] = function
    return function


class Centred(nn.Module):
    """Its gradients depend on a buffer, the running mean of what it has seen."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)
        outputs: Tensor = self.layer(inputs - self.mean)
        return outputs


def centred(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """What the model learns from, as a step of the user's own."""
    return nn.functional.cross_entropy(model(inputs), targets)


class Best:
    """A metric that needs all predictions at once: the share of samples above the median margin that are right."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.outputs.append(outputs)
        self.targets.append(targets)

    def compute(self) -> float:
        outputs, targets = torch.cat(self.outputs), torch.cat(self.targets)
        sure, said = outputs.max(1)
        return float((said == targets)[sure >= sure.median()].double().mean())


def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network that is other in each process until training begins, so that nothing but that makes them equal."""
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    if RANK:
        with torch.no_grad():
            next(made.parameters()).add_(RANK)
    return made


def numbers(history: Any) -> list[dict[str, float]]:
    """Return the rows of a history without the times."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def trained(model: nn.Module, *data: Any, **options: Any) -> dict[str, Any]:
    """Train, and return all that is to be equal."""
    history = training.fit(model, *data, progress=False, **{"epochs": 3, "lr": 0.1, **options})
    return {"rows": numbers(history), "weights": [p.detach().clone() for p in model.parameters()]}


@case
def evaluate() -> dict[str, Any]:
    """Numbers of samples around the number of processes; accuracy and count are integers."""
    from torchmetrics.classification import MulticlassAUROC

    torch.manual_seed(1)
    model = nn.Linear(6, 3)
    found: dict[str, Any] = {}
    for n in (1, 2, 3, 4, 5, 6, 13, 401):
        inputs, targets = blobs(n)
        found[f"float32 {n}"] = training.evaluate(model, inputs, targets)
        found[f"float64 {n}"] = training.evaluate(nn.Linear(6, 3).double(), inputs.double(), targets)
        found[f"small batches {n}"] = training.evaluate(model, inputs, targets, batch_size=2)
    inputs, targets = blobs(60)
    metrics = {"best": Best(), "auroc": MulticlassAUROC(3), "f1": "f1"}
    found["metrics"] = training.evaluate(model, inputs, targets, metrics=metrics)
    found["mae"] = training.evaluate(nn.Linear(6, 6), inputs, inputs, metrics="mae", batch_size=1)
    found["dataset"] = training.evaluate(model, Squares(noise=False))
    found["workers"] = training.evaluate(model, Squares(noise=False), workers=1)
    batches = [(inputs[i : i + 7], targets[i : i + 7]) for i in range(0, 60, 7)]
    found["list"] = training.evaluate(model, batches)
    found["ignored"] = training.evaluate(model, inputs, targets.where(targets != 1, -100))
    return found


@case
def fit() -> dict[str, Any]:
    """One network in float64, each way of training once."""
    inputs, targets = blobs(61)
    inputs = inputs.double()
    some = targets.where(torch.arange(61) % 3 > 0, -100)[:60]
    loader = [(inputs[i : i + 9], targets[i : i + 9]) for i in range(0, 61, 9)]

    def own(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        outputs = model(x)
        return nn.functional.cross_entropy(outputs, y), outputs

    def by_parts(model: Any, x: Tensor, y: Tensor) -> Any:
        outputs = model.net[2](model.net[1](model.net[0](x)))
        return nn.functional.cross_entropy(outputs, y), outputs

    # A layer that is not run has no gradient, and is left as it is: AdamW would let weights with a gradient of 0 decay.
    more = nn.ModuleDict({"net": net(), "unused": nn.Linear(2, 2).double()})
    unseen = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64))
    found = {
        "plain": trained(net(), inputs, targets, batch_size=12, validation=0.2),
        "last batch of one": trained(net(), inputs, targets, batch_size=15),
        "batches of two": trained(net(), inputs[:9], targets[:9], batch_size=2),
        "ignored targets": trained(net(), inputs[:60], some, batch_size=6),
        "weighted": trained(net(), inputs, targets, batch_size=12, loss=weighted),
        "weights of zero": trained(net(), inputs[:60], targets[:60], batch_size=2, shuffle=False, loss=unseen),
        "sums": trained(net(), inputs, targets, batch_size=12, loss=nn.CrossEntropyLoss(reduction="sum"), lr=0.01),
        "accumulate": trained(net(), inputs[:60], some, batch_size=12, accumulate=3),
        "clipped": trained(net(), inputs, targets, batch_size=12, clip_norm=0.1, optimizer="sgd"),
        "average": trained(net(), inputs, targets, batch_size=12, ema=0.9, validation=0.2),
        "early": trained(net(), inputs, targets, batch_size=12, epochs=30, early_stopping=2, validation=0.3, lr=0.3),
        "own step": trained(net(), inputs, targets, batch_size=12, step=own),
        "own step with parts of the model": trained(more, inputs, targets, batch_size=12, step=by_parts),
        "regression": trained(nn.Linear(6, 6).double(), inputs, inputs, batch_size=12),
        "list": trained(net(), loader, seed=3),
        "metric": trained(net(), inputs, targets, batch_size=12, metrics={"best": Best()}),
    }
    assert tuple(found) == WAYS
    return found


@case
def unweighted() -> dict[str, Any]:
    """The mean of the processes' own means, as a loop has it that counts nothing."""

    def plain(step: Supervised, weight: float, batch: Any) -> None:
        step.share = 1.0

    kept, Supervised._weigh = Supervised._weigh, plain  # type: ignore[method-assign,assignment]  # the control
    try:
        inputs, targets = blobs(61)
        return trained(net(), inputs.double(), targets, batch_size=15)
    finally:
        Supervised._weigh = kept  # type: ignore[method-assign]


@case
def single() -> dict[str, Any]:
    """The same in float32, with samples of a dataset that draw random numbers, and a GAN, which only has to run."""
    found: dict[str, Any] = {"dataset": trained(net(torch.float32), Squares(), batch_size=12)}
    gan = models.DCGAN(latent_dim=4, width=4, depth=0)
    gan.generator.register_parameter("unused", nn.Parameter(torch.ones(2)))
    found["gan"] = trained(gan, torch.rand(10, 1, 8, 8), batch_size=3, epochs=2, lr=1e-3, optimizer="adamw")
    found["unused"] = dict(gan.generator.named_parameters())["unused"].detach().clone()
    norm = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    found["batch norm"] = trained(norm, *blobs(60), batch_size=20, validation=0.2)
    found["buffers"] = [b.clone() for b in norm.buffers()]
    found["overflow"] = trained(net(torch.float32), *blobs(24), batch_size=12, step=overflow, precision="float16")
    torch.manual_seed(1)  # in all processes
    masks: list[Tensor] = []
    dropout = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5))
    dropout[1].register_forward_hook(lambda module, inputs, output: masks.append(output.detach() == 0))
    trained(dropout, *blobs(24), batch_size=12, epochs=1, seed=None)
    found["masks"] = [mask for mask in masks if mask.any()]  # the others are of checks, in eval mode
    for name, watched in (("centred", None), ("centred, validated", blobs(20))):
        step, data = Supervised(centred), blobs(24)
        found[name] = trained(Centred(), *data, batch_size=6, step=step, validation=watched)["weights"]
    try:  # a last batch of two samples
        found["two samples"] = trained(norm, *blobs(22), batch_size=10)
    except ValueError as e:
        found["two samples"] = str(e)
    return found


def overflow(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The first of the samples has a gradient that no float32 holds once it is scaled: the scaler leaves the update out."""
    loss = nn.functional.cross_entropy(model(inputs), targets)
    return loss * 1e36 if bool((inputs == blobs(24)[0][0]).all(1).any()) else loss


class Halt:
    """Ends a run with an error."""

    def __init__(self, step: int = 10) -> None:
        self.step = step

    def on_step(self, state: Any) -> None:
        if state.step == self.step:
            raise KeyError("enough")


class Count:
    """Has a state, and may fail to tell it."""

    def __init__(self, fails_at: int = -1) -> None:
        self.steps, self.fails_at = 0, fails_at

    def on_step(self, state: Any) -> None:
        self.steps += 1
        self.notes = state.notes

    def state_dict(self) -> dict[str, Any]:
        if self.steps == self.fails_at:
            raise LookupError("no state")
        return {"steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.steps = state["steps"]


def halted(run: Callable[[], Any]) -> bool:
    """Whether *run* got as far as to be ended."""
    try:
        run()
    except KeyError:
        return True
    return False


def measured(folder: Path | None, **options: Any) -> dict[str, Any]:
    """A run in float64 with all kinds of metrics, to be gone on with by another number of processes."""
    from torchmetrics.classification import MulticlassAUROC

    inputs, targets = blobs(61)
    held_out, classes = blobs(450)
    metrics = {"best": Best(), "auroc": MulticlassAUROC(3), "right": "accuracy", "f1": "f1"}
    options = {"batch_size": 7, "checkpoint": folder, "checkpoint_every": 4, "metrics": metrics, "lr": 0.02, **options}
    return trained(net(), inputs.double(), targets, validation=(held_out.double(), classes), **options)


def begun(folder: Path) -> bool:
    """Whether a run like `measured` was ended after 7 steps of the 9 of an epoch, with a checkpoint of step 4."""
    return halted(partial(measured, folder, callbacks=[Halt(7)])) and (folder / "step-00000004").exists()


@case
def resume() -> dict[str, Any]:
    """Runs with dropout in two parts, and the same in one; the folder is an argument."""
    folder = Path(sys.argv[1]) / "work"
    inputs, targets = blobs(61)
    seen = Count()

    def run(name: str, **options: Any) -> dict[str, Any]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3))
        options = {"batch_size": 7, "checkpoint": folder / name, "checkpoint_every": 4, "keep": 9, **options}
        return trained(model, inputs, targets, ema=0.9, validation=0.2, **options)

    found: dict[str, Any] = {"whole": run("whole"), "halted": []}
    counts = [Count()] if RANK == 0 else []  # which the first process alone has
    found["halted"] += [halted(partial(run, "parts", callbacks=[*counts, Halt()]))]
    found["halted"] += [halted(partial(run, "seen otherwise", callbacks=[Halt()]))]
    again = [Count()] if RANK == 0 else []
    found["parts"] = run("parts", callbacks=again)
    found["count"] = [one.steps for one in again]
    read, _store.read = _store.read, partial(damaged_elsewhere, _store.read)
    found["seen otherwise"] = run("seen otherwise", callbacks=[seen])
    _store.read = read
    found["notes"] = seen.notes
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found["without a state"] = run("broken", callbacks=[Count(4 if RANK == 1 else -1)])
    found["said"] = [str(one.message) for one in said]
    found["left"] = sorted(path.name for path in (folder / "broken").iterdir())
    if folder.joinpath("one").exists():
        found["begun by one"] = measured(folder / "one")
    found["halted"].append(begun(folder / "two"))
    return found


def damaged_elsewhere(read: Any, path: Path, **options: Any) -> Any:
    """Read a checkpoint, of which the second process sees other bytes if it is that of step 8."""
    if RANK == 1 and path.name.endswith("8"):
        raise _files.refuse(path, "damaged", "is damaged: seen from here")
    return read(path, **options)


@case
def data() -> dict[str, Any]:
    """Data of every kind."""
    return distributed_data.all_kinds(Path(sys.argv[1]) / "work")


def main() -> None:
    """Do the cases one after the other; one that fails leaves its traceback."""
    torch.set_num_threads(1)
    _meeting.TIMEOUT = timedelta(seconds=600)  # where it failed in one process alone
    out = Path(sys.argv[1])
    for name in sys.argv[2:]:
        faulthandler.dump_traceback_later(900, exit=True)  # where a case hangs
        try:
            made: Any = CASES[name]()
        except Exception:
            made = traceback.format_exc()
        torch.save(made, out / f"{name}-{RANK}.pt")
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    from tests.worlds import main as run  # so that its classes have the names that they have in the tests' own process

    run()
