"""``torchbasics predict``: image files in, names of classes with probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _checks, _env
from torchbasics.data import Images, read_image
from torchbasics.io._model import load_described
from torchbasics.training import predict

if TYPE_CHECKING:
    import argparse

    from torch import nn


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the likeliest classes of each image."""
    _checks.positive_int("--top", args.top)
    model, metadata = load_described(args.file)
    channels, height, width = _shape(args.file, model, metadata)
    pixels = [read_image(p, size=(height, width), channels=channels, invert=args.invert) for p in args.images]
    images = Images(torch.stack(pixels), torch.zeros(len(pixels), dtype=torch.int64))
    logits = predict(model.to(_env.device(args.device)), images)
    if logits.ndim != 2:
        raise ValueError(f"{args.file!r} is no classifier: its outputs have shape {tuple(logits.shape)}")
    names = metadata.get("classes") or [str(i) for i in range(logits.shape[1])]
    if len(names) != logits.shape[1]:
        raise ValueError(f"{args.file!r} names {len(names)} classes, but its model tells {logits.shape[1]} apart")
    found = []
    for path, row in zip(args.images, logits.softmax(1), strict=True):
        values, indices = row.topk(min(args.top, len(names)))
        best = [{"class": names[i], "probability": p} for i, p in zip(indices.tolist(), values.tolist(), strict=True)]
        print(f"{path}: " + ", ".join(f"{b['class']} {b['probability']:.1%}" for b in best))
        found.append({"image": path, "classes": best})
    return {"file": args.file, "images": found}


def _shape(file: str, model: nn.Module, metadata: dict[str, Any]) -> tuple[Any, int, int]:
    shape = metadata.get("shape")
    if shape is None and hasattr(model, "example_inputs"):
        example: Any = model.example_inputs
        shape = example().shape[1:]
    if shape is None or len(shape) != 3:
        raise ValueError(f"{file!r} does not say which images it takes; save it with metadata={{'shape': [C, H, W]}}")
    channels, height, width = shape
    return channels, height, width
