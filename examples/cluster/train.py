"""What the job files of this folder run, and one host as well: the same script, however many processes there are.

python train.py
torchrun --standalone --nproc-per-node 2 train.py
"""

from __future__ import annotations

import argparse
import os

import torch

from torchbasics import data, io, models, training


def main() -> None:
    """Train, evaluate, save; the first process prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", help="a folder that all hosts see; a job that starts again goes on from there")
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    images, test = data.fashion_mnist_mini()
    torch.manual_seed(0)
    model = models.CNNModel()
    history = training.fit(
        model,
        images,
        epochs=args.epochs,
        batch_size=100,  # of all processes together
        validation=test,
        seed=0,
        device="auto",  # a GPU for each process, where there are any
        checkpoint=args.checkpoint,
    )
    if history.stopped in ("signal", "time"):  # the same command goes on
        return
    result = training.evaluate(model, test)
    if int(os.environ.get("RANK", "0")) == 0:
        print(result)
        if args.checkpoint:
            io.save(model, f"{args.checkpoint}/model.safetensors")


if __name__ == "__main__":
    main()
