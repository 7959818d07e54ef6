"""``torchbasics train``: data, model, fit, evaluation, and everything worth keeping in one folder."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _checks, _env, _zoo, io, plot
from torchbasics.cli._data import fit_config, load_data, read_config
from torchbasics.cli._options import recipe_options
from torchbasics.training import evaluate, fit, predict

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from torch import nn

    from torchbasics.data import Images
    from torchbasics.training import History, State

PREDICTIONS, SAMPLES = 32, 64  # images in the picture
CHECKPOINT = "checkpoint"  # the folder in a run's own that `--resume` goes on from


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train a model, evaluate it, save it, and see that what was saved predicts the same."""
    name, source = args.model, args.data or "mini"
    config = read_config(name, args.set)
    train, test = load_data(args, source)
    device = _env.device(args.device)
    seed = getattr(args, "seed", 0)
    if seed is not None:
        torch.manual_seed(_checks.positive_int("seed", seed, least=0))  # the first weights; fit seeds the rest
    model = _zoo.build(name, **fit_config(name, config, train)).to(device)
    ended = Ended()
    with _resumed(args.out, name) if args.resume else _claimed(args.out, name) as folder:
        notes: list[str] = []
        logs = _has("tensorboard", "tensorboard", notes)
        history = fit(
            model,
            train,
            recipe=args.recipe,
            validation=args.validation,
            log_dir=folder if logs else None,
            checkpoint=folder / CHECKPOINT,
            resume=bool(args.resume),
            callbacks=[ended],
            **recipe_options(args),
        )
        if ended.signal is not None:
            print(f"torchbasics train: ended by a signal; go on with\n  {_again(args, folder)}", file=sys.stderr)
            raise SystemExit(128 + ended.signal)
        result = evaluate(model, test)
        files = {"events": str(folder)} if logs else {}
        metadata = {
            "classes": test.classes,
            "shape": test.images.shape[1:],
            "data": source,
            "test": result,
        }
        files |= _keep(model, test, history, metadata, folder, notes)
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


@contextlib.contextmanager
def _resumed(out: str | None, name: str) -> Iterator[Path]:
    """Find the folder of a run to go on with: the one that was named, or the newest of the model's."""
    folders = [Path(out)] if out else [Path(f"runs/{name}"), *Path("runs").glob(f"{name}-[0-9]*")]
    found = [folder for folder in folders if (folder / CHECKPOINT).is_dir()]
    if not found:
        place = repr(out) if out else f"'runs/{name}'"
        raise ValueError(f"--resume: no checkpoint in {place}; leave out --resume to start a run")
    yield max(found, key=lambda folder: (folder / CHECKPOINT).stat().st_mtime)


@contextlib.contextmanager
def _claimed(out: str | None, name: str) -> Iterator[Path]:
    """Make the folder of a run, never one that is there; after an error it goes again, unless something is in it."""
    folder = Path(out or f"runs/{name}")
    if out and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--out {out!r} is there and not empty; give another folder")
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while not out:
        try:
            folder.mkdir()
            break
        except FileExistsError:
            number += 1
            folder = Path(f"runs/{name}-{number}")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            for empty in (folder, *made):
                empty.rmdir()
        raise


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
    inputs = test if generates is None else generates(SAMPLES)
    device = next(model.parameters()).device
    if not torch.equal(predict(model, inputs), predict(io.load(path).to(device), inputs)):
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
