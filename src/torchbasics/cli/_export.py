"""``torchbasics export``: a saved model for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import io

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the model as `torchbasics.io.export` does."""
    io.export(io.load(args.file), args.out)
    print(f"{args.file} -> {args.out}; the batch size is free")
    return {"file": args.file, "out": args.out}
