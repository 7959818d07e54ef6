"""The same `fit` inside Ray Train: Ray starts the processes and joins them, `fit` finds that they are several.

On one machine or on a Ray cluster; each worker of Ray is a process of the run:

    pip install torchbasics 'ray[train]'
    python examples/ray_train.py --workers 2
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from torchbasics import data, io, models, training

if TYPE_CHECKING:
    from collections.abc import Sequence


class Report:
    """Tells Ray what was measured: a callback of `fit`, which runs in every worker, as Ray wants it."""

    def on_epoch(self, state: training.State) -> None:
        """Report the epoch, and with the last one give the model to Ray."""
        row = {"epoch": state.epoch + 1, **state.history[-1]}
        first = ray.train.get_context().get_world_rank() == 0
        if not first or len(state.history) < state.recipe.epochs:
            ray.train.report(row)
            return
        with tempfile.TemporaryDirectory() as folder:
            io.save(state.model, Path(folder, "model.safetensors"))
            ray.train.report(row, checkpoint=Checkpoint.from_directory(folder))


def work(config: dict[str, Any]) -> None:
    """Train in a worker; nothing but `Report` knows of Ray."""
    images, test = data.fashion_mnist_mini()
    torch.manual_seed(0)
    model = models.CNNModel().to(get_device())
    training.fit(
        model,
        images[: config["samples"]],
        epochs=config["epochs"],
        batch_size=100,  # of all workers together
        validation=test,
        seed=0,
        checkpoint=config["checkpoint"],  # on a cluster a folder that all hosts share
        progress=False,
        callbacks=[Report()],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=5000, help="of the packaged images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", help="for checkpoints and what Ray writes; None = a temporary one")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as own:
        folder = Path(args.folder or own).absolute()
        trainer = TorchTrainer(
            work,
            train_loop_config={
                "samples": args.samples,
                "epochs": args.epochs,
                "checkpoint": str(folder / "checkpoints"),
            },
            scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=torch.cuda.is_available()),
            run_config=RunConfig(name="torchbasics", storage_path=str(folder)),
        )
        result = trainer.fit()
        if result.checkpoint is None or result.metrics is None:
            raise SystemExit(f"the run ended without a model: {result.error}")
        print({name: result.metrics[name] for name in ("epoch", "loss", "validation_accuracy")})
        with result.checkpoint.as_directory() as kept:
            model = io.load(Path(kept, "model.safetensors"))
    print(training.evaluate(model, data.fashion_mnist_mini()[1]))


if __name__ == "__main__":
    main()
