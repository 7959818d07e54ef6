"""Training functions for the kill tests: a right one, and some that are wrong in one way each."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchbasics.data import _sized
from torchbasics.training import _store, fit
from torchbasics.training._run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SAMPLES, EPOCHS, BATCH = 26, 3, 5  # six updates an epoch, the last of one sample


class Noisy(Dataset[Any]):
    """Points with random noise from all three global generators; the first column is the sample's number."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        noise = torch.randn(4) + random.random() + float(np.random.rand())  # noqa: NPY002  # as transforms do
        return torch.cat([torch.tensor([float(i)]), noise + i % 3]), i % 3


class Witness(nn.Module):
    """A small classifier with dropout and batch norm, which writes down which samples it was trained on in each epoch."""

    seen: Tensor
    trained: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.register_buffer("seen", torch.zeros(EPOCHS, SAMPLES, dtype=torch.int64))
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            for i in inputs[:, 0].long().tolist():
                self.seen[int(self.trained) // SAMPLES, i] += 1
                self.trained += 1
        if len(inputs) == 1 and self.training:  # batch norm needs two
            inputs = inputs.repeat(2, 1)
            return self.layers(inputs[:, 1:])[:1]  # type: ignore[no-any-return]  # a tensor
        return self.layers(inputs[:, 1:])  # type: ignore[no-any-return]  # a tensor


def jitter(inputs: Tensor) -> Tensor:
    """Change the points of a batch at random, and leave their numbers."""
    return torch.cat([inputs[:, :1], inputs[:, 1:] + 0.1 * torch.randn_like(inputs[:, 1:])], dim=1)


def train(folder: Path, *, workers: int = 2, **options: Any) -> Any:
    """Return all that must be equal: the model, the history, and all of the last checkpoint."""
    torch.manual_seed(0)
    model = Witness()
    chosen = {"checkpoint": folder, "checkpoint_every": 4, "workers": workers, "progress": False, **options}
    held_out = torch.randn(7, 5), torch.arange(7) % 3
    history = fit(
        model, Noisy(), epochs=EPOCHS, batch_size=BATCH, validation=held_out, augment=jitter, accumulate=2, **chosen
    )
    (_, state), _ = _store.newest(folder)  # type: ignore[misc]  # there is one
    seen = state["model_state"]["seen"]
    if not bool((seen == 1).all()):
        raise AssertionError(f"not each sample once an epoch: {seen.tolist()}")
    del state["callbacks"]  # names of folders
    return [model, list(history), state]


def in_this_process(folder: Path) -> Any:
    """Without workers, a checkpoint an epoch, early stopping, averaged weights."""
    return train(folder, workers=0, checkpoint_every=None, early_stopping=9, ema=0.9)


def without_workers(folder: Path) -> Any:
    """As `train`, in one process: what the mistakes below start from."""
    return train(folder, workers=0)


def without_generators(folder: Path) -> Any:
    """Wrong: the generators are left as they are."""
    Run.set_generators = lambda self: None  # type: ignore[method-assign]
    return train(folder, workers=0)


def one_fetch_early(folder: Path) -> Any:
    """Wrong: the generators are restored, then the iterator of a loader draws from them."""

    def set_generators(self: Run) -> None:
        original(self)
        if self.random is not None:
            next(iter(DataLoader(range(4))))  # type: ignore[arg-type]  # a sequence

    original, Run.set_generators = Run.set_generators, set_generators  # type: ignore[method-assign]
    return train(folder, workers=0)


def order_of_the_global_generator(folder: Path) -> Any:
    """Wrong: the order is drawn, not computed."""
    vars(_sized)["order"] = lambda n, seed, epoch: torch.randperm(n)
    return train(folder, workers=0)


def straight_to_the_final_path(folder: Path) -> Any:
    """Wrong: a checkpoint has its name before it is whole."""

    def write(path: Path, state: Mapping[str, Any], step: int) -> None:
        path.mkdir(parents=True)
        files = {_store.STATE: _store._write(path / _store.STATE, lambda file: torch.save(dict(state), file))}
        manifest = {"format": _store.FORMAT, "step": step, "files": files}
        signed = json.dumps({**manifest, "digest": _store._digest(manifest)})
        _store._write(path / _store.MANIFEST, lambda file: file.write(signed.encode()))

    _store.write = write
    return train(folder, workers=0)
