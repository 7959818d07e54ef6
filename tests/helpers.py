"""Small data and loops that several tests use."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset

from torchbasics import data
from torchbasics.training import _store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.optim import Optimizer

    from torchbasics.training import State


def module_at(path: str) -> Any:
    """Return the module *path* of the repository that no import finds, such as a script."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # where its dataclasses look for their own names
    spec.loader.exec_module(found)
    return found


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip a test where not all of the *modules*, which extras bring, are installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def blobs(n: int = 60, features: int = 6, classes: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Points around one centre per class: a task that is learnt in no time."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % classes
    centres = 3 * torch.randn(classes, features, generator=generator)
    return centres[targets] + torch.randn(n, features, generator=generator), targets


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset with random numbers of all three kinds in its samples."""

    def __init__(self, noise: bool = True) -> None:
        self.inputs, self.targets = blobs()
        self.noise = noise

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(()) + random.random() + np.random.rand() if self.noise else 0.0  # noqa: NPY002
        return (self.inputs[i] + noise).float(), self.targets[i]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The same samples as a stream."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*blobs(), strict=True)


def small_images(n: int = 40, size: int = 8, classes: int = 4) -> data.Images:
    """Images whose class is where the bright patch is."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 60, (n, 1, size, size), generator=generator, dtype=torch.uint8)
    targets = torch.arange(n) % classes
    for i, target in enumerate(targets.tolist()):
        images[i, 0, :, 2 * target : 2 * target + 2] += 150
    return data.Images(images, targets, classes=tuple("abcd"[:classes]))


def loop(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    make_optimizer: Callable[[Any], Optimizer],
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    each_step: Callable[[Optimizer], object] | None = None,
    clip_norm: float | None = None,
) -> list[float]:
    """The loop that everyone writes; returns the losses of all steps."""
    torch.manual_seed(seed)
    optimizer = make_optimizer(model.parameters())
    losses = []
    model.train()
    for epoch in range(epochs):
        index = data.order(len(inputs), seed, epoch) if shuffle else torch.arange(len(inputs))
        for part in torch.split(index, batch_size):
            optimizer.zero_grad()
            value = loss(model(inputs[part]), targets[part])
            value.backward()  # type: ignore[no-untyped-call]
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            if each_step is not None:
                each_step(optimizer)
            losses.append(value.item())
    return losses


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same bits: parameters and buffers."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class CrashError(Exception):
    """What interrupts a run."""


class CrashAt:
    """A callback that raises after a number of updates."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state: State) -> None:
        if state.step == self.step:
            raise CrashError


def newest(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint in a folder holds."""
    found, damaged = _store.newest(folder)
    assert found is not None
    assert not damaged
    return found[1]
