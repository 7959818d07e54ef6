"""A stream on several processes: shards of a webdataset, each read by one process alone.

Writes a few small shards of the packaged images, then trains on them. Whatever the number of processes, each sample is
read once an epoch; the same file runs alone:

    pip install torchbasics webdataset
    python examples/stream.py
    torchrun --standalone --nproc-per-node 2 examples/stream.py
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from torchbasics import data, models, training

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def write(images: data.Images, folder: Path, shards: int) -> None:
    """Write *images* as PNG files with labels into so many .tar files."""
    for shard, part in enumerate(torch.arange(len(images)).tensor_split(shards)):
        with tarfile.open(folder / f"{shard:04}.tar", "w") as tar:
            for i in part.tolist():
                png = io.BytesIO()
                Image.fromarray(images.images[i, 0].numpy()).save(png, "PNG")
                for suffix, content in (("png", png.getvalue()), ("cls", str(int(images.targets[i])).encode())):
                    entry = tarfile.TarInfo(f"{i:06}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


class Shards(IterableDataset[tuple[Tensor, int]]):
    """The samples of a folder's shards, of which each process, and each worker of a DataLoader, reads its own."""

    sharded = True  # so that `fit` leaves each process what it reads

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.paths = sorted(str(path) for path in folder.glob("*.tar"))
        self.seed = seed
        self.epoch = 0
        if len(self.paths) < int(os.environ.get("WORLD_SIZE", "1")):
            raise ValueError(f"{len(self.paths)} shards in {str(folder)!r} are too few: each process needs one")

    def set_epoch(self, epoch: int) -> None:
        """Go on with another order; `fit` calls it, also where it goes on from a checkpoint."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        seed = 1000 * self.seed + self.epoch
        shards = wds.WebDataset(self.paths, nodesplitter=wds.split_by_node, shardshuffle=len(self.paths), seed=seed)
        samples = shards.to_tuple("png", "cls").map_tuple(pixels, int)
        yield from samples.shuffle(200, seed=seed)


def pixels(png: bytes) -> Tensor:
    """Return the grey image in a PNG file, in [0, 1]."""
    image = torch.from_numpy(np.array(Image.open(io.BytesIO(png))))
    return (image / 255).unsqueeze(0)  # (1, H, W)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write shards, train on them, evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=5000, help="of the packaged images")
    parser.add_argument("--shards", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--data", type=Path, help="a folder of shards that is there already, such as from --write")
    parser.add_argument("--write", type=Path, help="write the shards into this folder, and end")
    args = parser.parse_args(arguments)
    train, test = data.fashion_mnist_mini()
    if args.write:
        args.write.mkdir(parents=True, exist_ok=True)
        write(train[: args.samples], args.write, args.shards)
        return
    with tempfile.TemporaryDirectory() as own:  # each process writes the same; on several hosts give --data
        folder = args.data or Path(own)
        if args.data is None:
            write(train[: args.samples], folder, args.shards)
        torch.manual_seed(0)
        model = models.CNNModel()
        training.fit(model, Shards(folder), epochs=args.epochs, batch_size=100, seed=0)
        result = training.evaluate(model, test)
    if int(os.environ.get("RANK", "0")) == 0:
        print(result)


if __name__ == "__main__":
    main()
