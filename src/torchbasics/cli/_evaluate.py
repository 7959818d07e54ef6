"""``torchbasics evaluate``: a saved model on the test part of data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import _env, _world
from torchbasics.cli import _frechet
from torchbasics.cli._data import NAMES, load_data
from torchbasics.cli._models import read_model
from torchbasics.training import evaluate

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Print what `torchbasics.training.evaluate` measures, and how far images are that the model draws."""
    world = _world.join()
    with world.together():
        report, text = _measure(args)
    if not world.first:
        return None
    print(text)
    return report


def _measure(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    device = _env.device(args.device)
    model, metadata = read_model(args.file)
    source = args.data or metadata.get("data", "mini")
    train, test = load_data(_as_trained(args, source, metadata), source)
    classes = tuple(metadata.get("classes") or test.classes)
    if classes != test.classes:
        raise ValueError(f"{args.file!r} was trained for the classes {classes!r}, {source!r} has {test.classes!r}")
    result = evaluate(model.to(device), test, batch_size=args.batch_size)
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in result.items() if name != "samples")
    text = f"{numbers} on {int(result['samples']):,} images of {source}"
    report = {"file": args.file, "data": source, **result}
    if "generator_loss" in result and hasattr(model, "sample") and source in _frechet.SOURCES:
        found = _frechet.measured(model, train, test)
        text += f"\n{_frechet.told(found)}"
        report |= found
    return report, text


def _as_trained(args: argparse.Namespace, source: str, metadata: dict[str, Any]) -> argparse.Namespace:
    """Read the images of a folder in the size and colours that the model was trained on, unless told otherwise."""
    if source not in NAMES and "shape" in metadata:
        channels, height, width = metadata["shape"]
        args.size = args.size or (height, width)
        args.grey = args.grey or channels == 1
    return args
