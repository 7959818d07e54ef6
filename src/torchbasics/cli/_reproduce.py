"""``torchbasics reproduce``: train the weights of the package again, from their card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from torchbasics import _weights, _zoo, data, io
from torchbasics._recipe import Recipe
from torchbasics._transforms import Transforms
from torchbasics.models import get_model
from torchbasics.training import evaluate, fit, predict

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from torchbasics.data import Images

SPARE = 0.003  # of accuracy, where another processor or torch rounds differently


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train as the card says, and compare what comes out with it.

    Raises:
        ValueError: there are no such weights, or the accuracy is not the card's.
        FileNotFoundError: the data is not there.
    """
    card = _weights.find_named(args.name)
    seed = card.training["recipe"]["seed"] if args.seed is None else args.seed
    folder = Path(args.out or f"runs/reproduce-{card.model}-{card.name}")
    train, test = data.fashion_mnist(args.root)
    model = retrain(card.model, card.config, card.training, train, seed=seed, checkpoint=folder / "checkpoint")
    path = folder / "model.safetensors"
    save(model, path, train)
    report = {"weights": str(card), "seed": seed, "file": str(path), "sha256": _weights.sha256_of(path)}
    report["same_bits"] = report["sha256"] == card.sha256
    print(f"saved {path}: {'the same bits as' if report['same_bits'] else 'other bits than'} {card}")
    if "accuracy" in card.metrics:
        result = evaluate(model, test)
        expected = card.metrics["accuracy"]
        print(f"test accuracy {result['accuracy']:.4f}, the card says {expected:.4f}")
        if seed == card.training["recipe"]["seed"] and abs(result["accuracy"] - expected) > SPARE:
            raise ValueError(
                f"{card}: accuracy {result['accuracy']:.4f} is not within {SPARE} of the card's {expected}"
            )
        report |= {"accuracy": result["accuracy"], "loss": result["loss"]}
    return report


def retrain(
    name: str,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    train: Images,
    *,
    seed: int,
    checkpoint: Path | None = None,
) -> nn.Module:
    """Train a model as the "training" of a card says: in its number of threads, by its recipe, from its teacher.

    A teacher is a larger model of the package. Each image, at all shifts of a pixel and mirrored, is learned with the
    mean of the probabilities that the teacher gives for these views of it (Hinton, Vinyals, Dean, Distilling the
    Knowledge in a Neural Network, 2015, arXiv:1503.02531).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(training["threads"])
    try:
        recipe = Recipe(**training["recipe"]).replace(seed=seed)
        torch.manual_seed(seed)
        model = _zoo.build(name, **config)
        options: dict[str, Any] = {"recipe": recipe, "checkpoint": checkpoint}
        if training["teacher"] is None:
            fit(model, train, **options)
        else:
            fit(nn.Sequential(Transforms(_shape(train)), model), _taught(training["teacher"], train), **options)
    finally:
        torch.set_num_threads(threads)
    return model


def save(model: nn.Module, path: Path, train: Images) -> None:
    """Write *model* with what the command line wants to know of its images, and nothing that differs between runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"classes": train.classes, "shape": _shape(train), "data": "fashion_mnist"}
    io.save(model, path, metadata=metadata if not hasattr(model, "sample") else None)


def _shape(images: Images) -> tuple[int, int, int]:
    channels, height, width = images.images.shape[1:]
    return channels, height, width


def _taught(teacher: Mapping[str, Any], train: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all views, uint8 (N, C, H, W), and the teacher's mean probabilities (N, classes) over an image's."""
    card = _weights.find_named(teacher["weights"])
    seen = data.views(train, shift=teacher["shift"])
    print(f"{card} looks at {len(seen):,} views of {len(train):,} images")
    logits = predict(get_model(card.model, weights=card.name), seen, precision=teacher["precision"])
    mean = logits.softmax(1).view(-1, len(train), logits.shape[1]).mean(0)  # (images, classes)
    return seen.images, mean.repeat(len(seen) // len(train), 1)
