"""What is known of data without reading it sample by sample: to see whether it is still the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Subset, TensorDataset

from torchbasics._files import tensors_digest
from torchbasics.data._images import Images

DIGESTED = 2**28  # bytes that are read for a digest: a fraction of a second


def loader_facts(loader: Any) -> dict[str, Any]:
    """Return how a DataLoader cuts its dataset into batches, as plain data; nothing for another iterable."""
    if not isinstance(loader, DataLoader):
        return {}
    sampler, cut = _samplers(loader)
    facts: dict[str, Any] = {
        "length": _length(loader.dataset),
        "batch_size": getattr(cut, "batch_size", None),
        "drop_last": getattr(cut, "drop_last", None),
        "sampler": type(sampler).__name__,
        "samples of an epoch": _length(sampler),
    }
    return facts if cut is None or type(cut) is BatchSampler else {**facts, "batch_sampler": type(cut).__name__}


def digest(data: Any) -> str | None:
    """Digest a list of batches, a dataset of tensors or the one in a DataLoader; None for any other."""
    tensors = _tensors(data, "data")
    known = None if tensors is None else list(tensors)
    if known is None:
        return None
    return tensors_digest(known, limit=max(1, DIGESTED // max(1, len(known))))


def _tensors(data: Any, name: str) -> Iterator[tuple[str, Any]] | None:
    """Return all tensors in *data*, None where it holds what is not known."""
    if isinstance(data, DataLoader):
        sampler, _ = _samplers(data)
        chosen = [getattr(sampler, key, None) for key in ("indices", "weights")]  # of torch's own samplers
        return _joined([data.dataset, *chosen], name)
    if isinstance(data, Subset):
        return _joined([data.dataset, data.indices], name)
    if isinstance(data, (TensorDataset, ConcatDataset)):
        return _joined(data.tensors if isinstance(data, TensorDataset) else data.datasets, name)
    if isinstance(data, Images):
        return _joined([data.images, data.targets], name)
    if isinstance(data, Mapping):
        return _joined([part for pair in data.items() for part in pair], name)
    if isinstance(data, (list, tuple, range)) and all(isinstance(part, int) for part in data):  # indices, quickly
        return iter([(name, torch.tensor(data, dtype=torch.int64))])
    if isinstance(data, (list, tuple)):
        return _joined(data, name)
    if isinstance(data, np.ndarray):
        return iter([(name, torch.from_numpy(np.array(data)))]) if data.dtype.kind in "biufc" else None
    if isinstance(data, np.generic):
        data = data.item()
    return iter([(name, data)]) if data is None or isinstance(data, (Tensor, bool, int, float, str)) else None


def _joined(parts: Any, name: str) -> Iterator[tuple[str, Any]] | None:
    found = [_tensors(part, f"{name}.{i}") for i, part in enumerate(parts)]
    return None if None in found else (pair for pairs in found if pairs is not None for pair in pairs)


def _samplers(loader: DataLoader[Any]) -> tuple[Any, Any]:
    """Return what orders a loader's samples, and what cuts them into batches, None = each is one."""
    cut = loader.batch_sampler
    return (loader.sampler if cut is None else getattr(cut, "sampler", cut)), cut


def _length(value: Any) -> int | None:
    try:
        return len(value) if isinstance(value, Sized) else None
    except TypeError:  # a sampler of a stream
        return None
