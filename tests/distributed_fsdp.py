"""What the processes of `test_distributed_fsdp` do: torchrun starts this file with a folder and the names of tasks."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import torchbasics
from torchbasics import _files, _parts, io, models, training
from torchbasics._model import plain_state
from torchbasics._recipe import EarlyStopping
from torchbasics.training import _finite, _parallel, _step, _steps

DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 8, generator=DRAWN), torch.randint(0, 3, (40,), generator=DRAWN)
IMAGES = torch.rand(7, 1, 28, 28, generator=DRAWN)

# Each is trained with DDP and with FSDP2; of the last of 40 = 3 * 13 + 1 one process has no sample of its own, and 4
# parts of 7 and 6 samples are 4 and 3.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip_norm": {"clip_norm": 0.1},
    "ema": {"ema": 0.9},
    "accumulate": {"accumulate": 4},
    "bfloat16": {"precision": "bfloat16"},
    "restore_best": {"early_stopping": EarlyStopping(patience=1, monitor="validation_accuracy"), "lr": 1e-4},
}


def network(*, dropout: float = 0.0) -> nn.Sequential:
    """Parts with and without parts of their own; one parameter has a single row, which one process alone keeps."""
    torch.manual_seed(1)
    block = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 5))
    return nn.Sequential(nn.Linear(8, 7), block, nn.Tanh(), nn.Linear(5, 1), nn.Linear(1, 3))


def fit(model: nn.Module, **options: Any) -> training.History:
    wanted = {"epochs": 3, "batch_size": 13, "validation": (X[:11], Y[:11]), "seed": 3, "strategy": "fsdp"}
    return training.fit(model, X, Y, progress=False, **{**wanted, **options})


def long(model: nn.Module, folder: Path, **options: Any) -> training.History:
    """Train for 12 steps with all that has a state; a checkpoint every 4."""
    kept = {"checkpoint": folder, "checkpoint_every": 4, "keep": 9}
    return fit(model, **{"clip_norm": 1.0, "ema": 0.9, "early_stopping": 3, **kept, **options})


class At:
    """Does something after an update."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def on_step(self, state: training.State) -> None:
        if state.step == self.step:
            self.do(state)


class Stateless:
    """Cannot tell its state at step 8 in the second process."""

    def on_step(self, state: training.State) -> None:
        self.step = state.step

    def state_dict(self) -> dict[str, Any]:
        if getattr(self, "step", 0) == 8 and dist.get_rank() == 1:
            raise LookupError("no state")
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


class EnoughError(Exception):
    """Ends a run."""


def stop(state: training.State) -> None:
    state.stop("signal")  # when all processes next agree


def fail(state: training.State) -> None:
    raise EnoughError


def digest(model: nn.Module) -> str:
    return _files.tensors_digest(plain_state(model).items())


def differences(options: dict[str, Any]) -> dict[str, Any]:
    """The largest differences between DDP and FSDP2, in the history and in the weights."""
    (one, two), (a, b) = [network(), network()], [0.0, 0.0]
    there, here = fit(one, strategy="ddp", **options), fit(two, **options)
    names = [name for name in there[0] if name != "seconds"]
    a = max(abs(r[n] - s[n]) for r, s in zip(there, here, strict=True) for n in names)
    b = max(float((v - plain_state(two)[k]).abs().max()) for k, v in plain_state(one).items())
    return {"rows": a, "weights": b, "epochs": len(here), "stopped": here.stopped, "sharded": _parts.is_sharded(two)}


def equal(folder: Path) -> dict[str, Any]:
    """Compare FSDP2 with DDP; the control leaves out that a process's gradient counts by its samples."""
    made = {name: differences(options) for name, options in CASES.items()}
    weigh, _steps.Supervised._weigh = _steps.Supervised._weigh, lambda self, weight, batch: setattr(self, "share", 1.0)  # type: ignore[method-assign]
    whole = network()
    history = fit(whole)
    _steps.Supervised._weigh = weigh  # type: ignore[method-assign]
    same = fit(network(), strategy="ddp")
    made["control"] = {"rows": max(abs(a["loss"] - b["loss"]) for a, b in zip(history, same, strict=True))}
    return made


def alone(folder: Path) -> dict[str, Any]:
    """A GAN, of which only the parts are called; and what is refused."""
    made: dict[str, Any] = {}
    options: dict[str, Any]
    for strategy in _parallel.STRATEGIES:
        torch.manual_seed(0)
        model = models.get_model("dcgan")
        options = {"epochs": 1, "batch_size": 4, "seed": 0, "memory_format": "contiguous"}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*returned a view")  # a remark of torch's
            history = training.fit(model, IMAGES, progress=False, strategy=strategy, **options)
        made[strategy] = {name: value for name, value in history[0].items() if name != "seconds"}
    for strategy in _parallel.STRATEGIES:  # twice each: what is in parts stays so, and takes no memory format
        torch.manual_seed(0)
        cnn = models.get_model("cnn")
        options = {"epochs": 1, "batch_size": 4, "seed": 0, "progress": False}
        first = training.fit(cnn, IMAGES, Y[:7], strategy=strategy, **options)
        second = training.fit(cnn, IMAGES, Y[:7], log_dir=folder / "board" if strategy == "fsdp" else None, **options)
        made[f"{strategy} twice"] = [first[0]["loss"], second[0]["loss"], _parts.is_sharded(cnn)]
    instance = network()
    wrong: list[dict[str, Any]] = [
        {"optimizer": torch.optim.SGD(instance.parameters(), lr=0.1)},
        {"precision": "float16"},
    ]
    made["refused"] = []
    for options in wrong:
        try:
            fit(instance, **options)
        except ValueError as e:
            made["refused"].append(str(e))
    return made


def failing(kind: str, model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    """A step whose loss, or the gradient of an output, is not finite for sample 20."""
    outputs = model(inputs)
    loss = nn.functional.cross_entropy(outputs, targets)
    hit = bool((inputs[:, 0] == X[20, 0]).any())
    if hit and kind == "loss":
        return loss * float("nan"), outputs
    return (loss + (outputs.sum() * 0).abs().sqrt() if hit else loss), outputs


def one_part_is_not_finite(optimizer: Any, norm: Any, world: Any) -> None:
    if world.rank == 1:
        _parts.own(optimizer.param_groups[0]["params"][0].grad)[0, 0] = float("inf")
    check(optimizer, norm, world)


check = _finite.check_parts


def nonfinite(folder: Path) -> dict[str, Any]:
    """The errors of all processes, and whether the weights are those before the step."""
    made: dict[str, Any] = {}
    for kind in ("loss", "gradient", "part"):
        for clip_norm in (None, 1.0) if kind != "part" else (None,):
            model = network()
            step = partial(failing, kind) if kind != "part" else None
            vars(_step)["check_parts"] = one_part_is_not_finite if kind == "part" else check
            try:
                fit(model, step=step, shuffle=False, clip_norm=clip_norm, validation=None)
                error: Any = None
            except training.NonFiniteError as e:
                error = str(e), e.step, e.module
            finite = all(bool(v.isfinite().all()) for v in plain_state(model).values())
            told: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(told, (error, finite))
            made[f"{kind} {clip_norm}"] = told
    vars(_step)["check_parts"] = check
    return made


def save(folder: Path) -> dict[str, Any]:
    """Train undisturbed, and in two parts; leave checkpoints and files in *folder*."""
    made: dict[str, Any] = {}
    model = network(dropout=0.2)
    long(model, folder / "whole")
    made["undisturbed"] = digest(model)
    for name in ("same model", "new model", "control"):
        model = network(dropout=0.2)
        long(model, folder / name, callbacks=[At(6, stop)])
        model = model if name == "same model" else network(dropout=0.2)
        if name == "control":  # what the optimizer has gathered is lost
            load, _step.Step.load_state_dict = _step.Step.load_state_dict, lambda self, state: None  # type: ignore[method-assign]
        long(model, folder / name)
        if name == "control":
            _step.Step.load_state_dict = load  # type: ignore[method-assign]
        made[name] = digest(model)
    model = network()
    made["history"] = [row["loss"] for row in long(model, folder / "still")]
    made["undisturbed without dropout"] = digest(model)
    with suppress(EnoughError):
        long(network(), folder / "open", callbacks=[At(10, fail)])
    made["full"] = full(folder / "full")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = network()
        long(model, folder / "without a state", callbacks=[Stateless()])
    made["without a state"] = [str(w.message) for w in said], digest(model), made["undisturbed without dropout"]
    kept = models.get_model("mlp")
    training.fit(kept, IMAGES, Y[:7], epochs=1, seed=0, strategy="fsdp", progress=False)
    io.save(kept, folder / "mlp.safetensors")
    io.save_state(kept, folder / "state.safetensors")
    made["saved"] = digest(kept)
    try:
        io.save(kept, folder / "none" / "mlp.safetensors")
    except OSError as e:
        told: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(told, f"{type(e).__name__}: {e}")
        made["refused"] = told
    return made


def full(folder: Path) -> dict[str, Any]:
    """Let the second process's disk be full at step 8."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    write = FileSystemWriter.write_data

    def fails(self: Any, *args: Any) -> Any:
        raise OSError(28, "No space left on device")

    def fill(state: training.State) -> None:
        FileSystemWriter.write_data = fails if dist.get_rank() == 1 and state.step == 7 else write  # type: ignore[method-assign, assignment]

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        long(network(), folder, callbacks=[At(7, fill), At(9, fill)])
    return {
        "said": [str(w.message) for w in said],
        "names": sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock")),
    }


def resume(folder: Path, strategy: str = "fsdp") -> dict[str, Any]:
    """Go on with the run that ended at step 10, from step 8."""
    found: list[str] = []
    model = network()
    note = At(9, lambda state: found.extend(state.notes))
    history = long(model, folder / "open", callbacks=[note], strategy=strategy)
    return {"history": [row["loss"] for row in history], "notes": found, "digest": digest(model)}


def main() -> None:
    assert Path(torchbasics.__file__).parents[2] == Path(__file__).parents[1], torchbasics.__file__
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    tasks = {"equal": equal, "alone": alone, "nonfinite": nonfinite, "save": save, "resume": resume}
    for task in sys.argv[2:]:
        made = tasks[task](folder)
        if dist.get_rank() == 0:
            (folder / f"{task}.json").write_text(json.dumps(made))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
