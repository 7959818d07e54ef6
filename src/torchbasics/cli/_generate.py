"""``torchbasics generate``: pictures drawn by a saved model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _checks, _files, plot
from torchbasics._recipe import Recipe
from torchbasics.cli._models import read_model

if TYPE_CHECKING:
    import argparse

MOST = 1000  # images in a picture
COLUMNS = 8  # of a picture of up to 64


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw images from noise and write them side by side to one picture."""
    number = _checks.positive_int("-n", args.number)
    if number > MOST:
        raise ValueError(
            f"-n must be at most {MOST:,}, which one picture can show, got {number:,}; more: model.sample(n)"
        )
    generator = torch.Generator().manual_seed(Recipe(seed=args.seed).seed or 0)
    model: Any = read_model(args.file)[0]
    if not hasattr(model, "sample"):
        raise ValueError(f"{args.file!r} holds a {type(model).__name__}, which draws no images; give a saved 'dcgan'")
    columns = max(COLUMNS, math.ceil(math.sqrt(number)))
    figure = plot.images(model.sample(number, generator=generator), columns=columns)
    with _files.atomic_write(args.out) as file:
        figure.savefig(file, format=Path(args.out).suffix[1:] or "png", dpi=150)
    print(f"{number} images by {args.file}, seed {args.seed}: {args.out}")
    return {"file": args.file, "out": args.out, "number": number, "seed": args.seed}
