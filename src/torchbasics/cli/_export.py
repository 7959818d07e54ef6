"""``torchbasics export``: a saved model for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import io
from torchbasics.cli._models import read_model

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the model as `torchbasics.io.export` does."""
    model, _ = read_model(args.file)
    io.export(model, args.out)
    print(f"{args.file} -> {args.out}; the batch size is free")
    return {"file": args.file, "out": args.out}
