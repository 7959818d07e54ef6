"""Batches of anything that holds samples: what an epoch iterates over, from any position on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from torchbasics import _checks
from torchbasics._world import ALONE, World
from torchbasics.data._batch import as_inputs, as_tensor, each, leaves
from torchbasics.data._images import Images
from torchbasics.data._loader import LoaderBatches
from torchbasics.data._order import split
from torchbasics.data._sized import Batches, DatasetBatches, ImagesBatches, PairBatches

__all__ = ["Batches", "DatasetBatches", "ImagesBatches", "LoaderBatches", "PairBatches", "make_batches", "split_data"]


def make_batches(
    data: Any,
    targets: Any = None,
    *,
    batch_size: int | None,
    default_batch_size: int = 100,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    set_by_user: tuple[str, ...] = (),
    world: World = ALONE,
) -> Batches:
    """Make batches of what the contract takes as data, and let this process have its part of each.

    Args:
        data: An (inputs, targets) pair, inputs alone, a Dataset, a DataLoader or another iterable of batches.
        targets: The targets, where *data* is inputs alone.
        batch_size: None = *default_batch_size*, or what a loader brings.
        default_batch_size: See *batch_size*; of all processes together.
        shuffle: Whether epochs go through `order`.
        seed: Of the order and of the samples' own randomness.
        workers: Processes that read the samples of a Dataset.
        set_by_user: Which of batch_size, shuffle and workers were asked for: an error with a loader.
        world: The processes that share each batch.

    Raises:
        TypeError: *data* is none of these.
        ValueError: it is empty, its parts differ in length, or an option contradicts it.
    """
    options = {"batch_size": batch_size or default_batch_size, "shuffle": shuffle, "seed": seed}
    made = _make(data, targets, options, workers, set_by_user, world)
    made.world = world
    if world.size > 1:
        first, *others = said = world.exchange((made.shared, made.steps()))
        for rank, (shared, _) in enumerate(others, start=1):
            if shared != first[0]:
                own, other = (0, rank) if first[0] else (rank, 0)
                raise ValueError(
                    f"the data of process {own} gives each process samples of its own (DistributedSampler, sharded), "
                    f"and that of process {other} does not; start all of them alike"
                )
        if isinstance(made, LoaderBatches) and made.shared:
            made.meet([steps for _, steps in said])
    return made


def _make(data: Any, targets: Any, options: Any, workers: int, set_by_user: tuple[str, ...], world: World) -> Batches:
    _refuse_model(data)
    if isinstance(data, tuple) and targets is None:
        if len(data) != 2:
            raise TypeError(f"a tuple of data is (inputs, targets), got one of {len(data)} parts")
        data, targets = data
        if isinstance(data, Dataset) or isinstance(targets, Dataset):
            raise TypeError("data is a pair of datasets, such as (train, test); give one of them")
    if targets is not None or isinstance(data, (Tensor, np.ndarray, dict, tuple)):
        return PairBatches(data, targets, **options)
    if type(data) is TensorDataset and len(data.tensors) == 2:
        return PairBatches(*data.tensors, **options)
    if isinstance(data, Images):
        return ImagesBatches(data, **options)
    if isinstance(data, IterableDataset):
        if workers or "shuffle" in set_by_user:
            option = "workers" if workers else "shuffle"
            raise ValueError(f"{option} does not go with a stream, whose samples come as they come; leave it out")
        size = _part(options["batch_size"], world) if getattr(data, "sharded", False) else options["batch_size"]
        return LoaderBatches(DataLoader(data, batch_size=size, generator=torch.Generator()))
    if isinstance(data, (DataLoader, list)) or not hasattr(data, "__getitem__") or isinstance(data, str):
        if not isinstance(data, Iterable) or isinstance(data, str):
            needed = "(inputs, targets), a Dataset or an iterable of batches"
            raise TypeError(f"data must be {needed}, got {_checks.told(data)}")
        if set_by_user:
            raise ValueError(f"{type(data).__name__} brings its own batches; leave out {', '.join(set_by_user)}")
        return LoaderBatches(data)
    return DatasetBatches(data, workers=_checks.positive_int("workers", workers, least=0), **options)


def _refuse_model(data: Any) -> None:
    if isinstance(data, nn.Module) and not isinstance(data, Dataset):
        raise TypeError(f"data must not be a model, got {type(data).__name__}; give the model first, then its data")


def split_data(data: Any, targets: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Cut *data* at random into a training part and a validation part of *share* of the samples."""
    _refuse_model(data)
    if isinstance(data, tuple) and len(data) == 2 and targets is None:
        data, targets = data
    if targets is not None or isinstance(data, (Tensor, np.ndarray, dict)):
        inputs, labels = as_inputs(data), None if targets is None else as_tensor("targets", targets)
        parts = split(len(leaves(inputs)[0]), share, seed)
        pairs = [(each(inputs, lambda t, i=i: t[i]), None if labels is None else labels[i]) for i in parts]
        return (pairs[0], pairs[1]) if labels is not None else (pairs[0][0], pairs[1][0])
    if isinstance(data, (DataLoader, list, IterableDataset)) or not hasattr(data, "__len__"):
        raise ValueError(f"validation={share!r} needs data with indices, not {type(data).__name__}; give it as data")
    train, held_out = split(len(data), share, seed)
    if isinstance(data, Images):
        return data[train], data[held_out]
    return Subset(data, train.tolist()), Subset(data, held_out.tolist())


def _part(batch_size: int, world: World) -> int:
    """Return how much of a batch of all processes is read by this one, which has samples of its own."""
    if batch_size < world.size:
        raise ValueError(
            f"batch_size={batch_size!r} is too small for {world.size} processes that read their own samples"
        )
    return batch_size // world.size + (world.rank < batch_size % world.size)
