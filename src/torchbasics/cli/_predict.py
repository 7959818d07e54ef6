"""``torchbasics predict``: image files in, names of classes with probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _checks, _env
from torchbasics.cli._models import is_named, read_model
from torchbasics.data import Images, read_image
from torchbasics.training import predict

if TYPE_CHECKING:
    import argparse

    from torch import nn

DEFAULT = "cnn"  # what sees images where no model is named
SUFFIXES = (".png", ".jpg", ".jpeg")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the likeliest classes of each image."""
    _checks.positive_int("--top", args.top)
    file, paths = _split(args.images)
    model, metadata = read_model(file)
    channels, height, width = _shape(file, model, metadata)
    pixels = [read_image(p, size=(height, width), channels=channels, invert=args.invert) for p in paths]
    images = Images(torch.stack(pixels), torch.zeros(len(pixels), dtype=torch.int64))
    logits = predict(model.to(_env.device(args.device)), images)
    if logits.ndim != 2:
        raise ValueError(f"{file!r} is no classifier: its outputs have shape {tuple(logits.shape)}")
    names = metadata.get("classes") or [str(i) for i in range(logits.shape[1])]
    if len(names) != logits.shape[1]:
        raise ValueError(f"{file!r} names {len(names)} classes, but its model tells {logits.shape[1]} apart")
    found = []
    for path, row in zip(paths, logits.softmax(1), strict=True):
        values, indices = row.topk(min(args.top, len(names)))
        best = [{"class": names[i], "probability": p} for i, p in zip(indices.tolist(), values.tolist(), strict=True)]
        print(f"{path}: " + ", ".join(f"{b['class']} {b['probability']:.1%}" for b in best))
        found.append({"image": path, "classes": best})
    return {"file": file, "images": found}


def _split(given: list[str]) -> tuple[str, list[str]]:
    """Return the model and the images; without a model it is the pretrained convolutional network.

    Raises:
        ValueError: there are no images.
    """
    first = given[0]
    has_model = is_named(first) or Path(first).suffix.lower() not in SUFFIXES
    file, paths = (first, given[1:]) if has_model else (DEFAULT, given)
    if not paths:
        if not is_named(first) and Path(first).is_dir():
            raise ValueError(f"{first!r} is a folder; give its files, such as {Path(first, '*.png')}")
        raise ValueError(f"no images to look at, got {first!r} alone; give PNG or JPEG files")
    return file, paths


def _shape(file: str, model: nn.Module, metadata: dict[str, Any]) -> tuple[Any, int, int]:
    shape = metadata.get("shape")
    if hasattr(model, "sample"):
        raise ValueError(f"{file!r} draws images and sees none; torchbasics generate {file} -o grid.png")
    if shape is None and hasattr(model, "example_inputs"):
        example: Any = model.example_inputs
        shape = example().shape[1:]
    if shape is None or len(shape) != 3:
        raise ValueError(f"{file!r} does not say which images it takes; save it with metadata={{'shape': [C, H, W]}}")
    channels, height, width = shape
    return channels, height, width
