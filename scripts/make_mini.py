"""Make the images inside the package, src/torchbasics/data/mini, from the official Fashion-MNIST files.

    python scripts/make_mini.py /usr/share/datasets/fashion-mnist

They are the first 500 (train) and 100 (test) images of each class, in the order of the official files. With the same
zlib, the same bytes come out; with any, the same content, whose digests it prints and `torchbasics.data` checks.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchbasics import data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

HERE = Path(__file__).parents[1] / "src" / "torchbasics" / "data" / "mini"


def first_of_each_class(targets: Tensor, count: int) -> Tensor:
    """Return the positions of the first *count* samples of each class, in ascending order."""
    positions = [(targets == label).nonzero().squeeze(1)[:count] for label in range(10)]
    return torch.cat(positions).sort().values


def idx(values: Tensor) -> bytes:
    """Return *values* (uint8) as the content of an IDX file."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.numpy().tobytes()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the four files and print each one's size and the digest of its content."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="the folder of the official files")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)

    train, test = data.fashion_mnist(options.root, download=False)
    for part, images, count in (("train", train, 500), ("t10k", test, 100)):
        chosen = images[first_of_each_class(images.targets, count)]
        for kind, values in (
            ("images-idx3", chosen.images.squeeze(1)),
            ("labels-idx1", chosen.targets.to(torch.uint8)),
        ):
            path = options.out / f"{part}-{kind}-ubyte.gz"
            content = idx(values)
            with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:  # no name, no time inside
                file.write(content)
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            sys.stdout.write(f"{path.name}: {path.stat().st_size:,} bytes, MD5 of its content {digest}\n")


if __name__ == "__main__":
    main()
