"""``torchbasics train``: data, model, fit, evaluation, and everything worth keeping in one folder."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _checks, _env, _world, _zoo, io, plot
from torchbasics._recipe import Recipe
from torchbasics.cli._data import load_data, make_model, read_config
from torchbasics.cli._options import recipe_options
from torchbasics.cli._runs import CHECKPOINT, folder_of
from torchbasics.training import evaluate, fit, predict

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from torch import nn

    from torchbasics._world import World
    from torchbasics.data import Images
    from torchbasics.training import History, State
    from torchbasics.training._checkpoint import Resume

PREDICTIONS, SAMPLES = 32, 64  # images in the picture


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train a model, evaluate it, save it, and see that what was saved predicts the same."""
    world = _world.join()  # under torchrun; process 0 prints and writes
    with world.together():
        report = _run(args, world)
    return report if world.first else None


def _run(args: argparse.Namespace, world: World) -> dict[str, Any]:
    name, source = args.model, args.data or "mini"
    config = read_config(name, args.set)
    train, test = load_data(args, source)
    device = _env.device(args.device)
    seed = Recipe(seed=getattr(args, "seed", 0)).seed
    if seed is not None:
        torch.manual_seed(seed)  # the first weights; fit seeds the rest
    model = make_model(name, config, train).to(device)
    with folder_of(args.out, name, world, resume=args.resume) as (folder, resume):
        notes: list[str] = []
        logs = _has("tensorboard", "tensorboard", notes)
        history = _fit(args, model, train, folder, logs, resume, world)
        result = evaluate(model, test)
        files = {"events": str(folder)} if logs else {}
        metadata = {"classes": test.classes, "shape": test.images.shape[1:], "data": source, "test": result}
        if world.first:
            files |= _keep(model, test, history, metadata, folder, notes)
        world.exchange(None)  # all hear of it where that failed
    if world.first:
        for note in notes:
            print(note)
        print(_summary(result, files))
    return {
        "model": name,
        "config": _zoo.config_of(model),
        "data": source,
        "recipe": history.recipe.as_dict() if history.recipe else None,
        "history": history.rows,
        "test": result,
        "files": files,
        "notes": notes,
    }


def _fit(
    args: argparse.Namespace,
    model: nn.Module,
    train: Images,
    folder: Path,
    logs: bool,
    resume: Resume,
    world: World,
) -> History:
    """Train; a signal ends the process with the line to type to go on."""
    ended = Ended()
    history = fit(
        model,
        train,
        recipe=args.recipe,
        validation=args.validation,
        log_dir=folder if logs else None,
        checkpoint=folder / CHECKPOINT,
        resume=resume,
        callbacks=[ended],
        **recipe_options(args),
    )
    if ended.signal is not None:
        if world.first:
            told = f"torchbasics train: ended by a signal; go on with\n  {_again(args, folder)}"
            print(told, file=sys.stderr)
        raise SystemExit(128 + ended.signal)
    return history


class Ended:
    """A callback that tells by which signal a run ended."""

    signal: int | None = None

    def on_stop(self, state: State) -> None:
        """Keep the signal's number."""
        self.signal = state.signal


def _again(args: argparse.Namespace, folder: Path) -> str:
    """Return the line to type to go on."""
    words = [word for word in args.line if word != "--resume"]
    out = [] if args.out else ["--out", str(folder)]
    return shlex.join(["torchbasics", *words, *out, "--resume"])


def _has(module: str, extra: str, notes: list[str]) -> bool:
    try:
        _checks.require(module, extra)
    except ImportError as e:
        notes.append(f"left out: {e}")
        return False
    return True


def _keep(
    model: nn.Module, test: Images, history: History, metadata: dict[str, Any], folder: Path, notes: list[str]
) -> dict[str, str]:
    """Write model, history and picture; return their paths."""
    path = folder / "model.safetensors"
    io.save(model, path, history=history, metadata=metadata)
    generates: Any = getattr(model, "noise", None)
    inputs = test[:SAMPLES] if generates is None else generates(SAMPLES).cpu()
    trained, loaded = predict(model, inputs, device="cpu"), predict(io.load(path), inputs)
    if not torch.equal(trained, loaded):  # on the CPU the same computation gives the same bits
        raise RuntimeError(f"the model loaded from {str(path)!r} does not predict what the trained one does")
    files = {"model": str(path), "history": str(folder / "history.csv")}
    history.to_csv(files["history"])
    if _has("matplotlib", "plot", notes):
        files["picture"] = str(folder / ("predictions.png" if generates is None else "samples.png"))
        if generates is None:
            figure = plot.predictions(model, test, PREDICTIONS)
        else:
            drawn: Any = model
            figure = plot.images(drawn.sample(SAMPLES).cpu())
        figure.savefig(files["picture"], dpi=150)
    return files


def _summary(result: dict[str, float], files: dict[str, str]) -> str:
    name = "accuracy" if "accuracy" in result else "loss"
    saved = ", ".join(path for key, path in files.items() if key != "events")
    events = f"; TensorBoard: tensorboard --logdir {files['events']}" if "events" in files else ""
    return f"test {name} {result[name]:.4f} on {int(result['samples']):,} images; saved {saved}{events}"
