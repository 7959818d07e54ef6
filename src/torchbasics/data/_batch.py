"""A batch, and what it is made of: tensors by themselves, in a tuple or in a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


class Batch(NamedTuple):
    """Some samples: ``model(inputs)`` is to give *targets*.

    With several processes it is one's part of the batch of all; one that gets no sample has another's, to do the same
    steps as the others, and is *idle*: its batch counts for nothing.
    """

    inputs: Inputs
    targets: Tensor | None
    size: int
    indices: Tensor | None = None  # which samples of the dataset these are, where it has indices
    whole: int = 0  # samples of the batch of all processes, 0 = this is all of it
    idle: bool = False
    leader: int = 0  # the first process whose samples count

    @property
    def counted(self) -> int:
        """How many samples of it count."""
        return 0 if self.idle else self.size

    @property
    def of_all(self) -> int:
        """How many samples of the batch of all processes count."""
        return self.whole or self.counted

    @property
    def on_cpu(self) -> bool:
        """Whether it is plain tensors there, so that nothing needs to be moved."""
        inputs, targets = self.inputs, self.targets
        return isinstance(inputs, Tensor) and inputs.is_cpu and (targets is None or targets.is_cpu)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on *device*."""
        late = device.type != "cpu"  # there nothing would wait for the copy
        targets = None if self.targets is None else self.targets.to(device, non_blocking=late)
        return self._replace(inputs=each(self.inputs, lambda t: t.to(device, non_blocking=late)), targets=targets)

    def channels_last(self) -> Batch:
        """Return the batch with images in channels_last, in which convolutions are faster on most devices."""
        return self._replace(inputs=each(self.inputs, _channels_last))


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        return tensor
    tensor = tensor.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = tensor.shape
    # With one channel both layouts are the same memory; only the strides tell torch which one is meant.
    return tensor.as_strided(tensor.shape, (channels * height * width, 1, channels * width, channels))


def as_batch(item: Any) -> Batch:
    """Read one item of a loader: (inputs, targets), or inputs alone."""
    targets = None
    if isinstance(item, (tuple, list)) and len(item) == 1:  # what a TensorDataset of inputs alone gives
        item = item[0]
    if isinstance(item, (tuple, list)):
        if len(item) != 2:
            raise TypeError(
                f"a batch must be (inputs, targets), got {len(item)} parts; "
                "give several inputs as ((a, b, ...), targets) or ({name: a, ...}, targets)"
            )
        inputs, targets = as_inputs(item[0]), as_tensor("targets", item[1])
    else:
        inputs = as_inputs(item)
    lengths = {len(t) for t in [*leaves(inputs), *([] if targets is None else [targets])]}
    if len(lengths) > 1:
        raise ValueError(f"the tensors of a batch must have equal lengths, got {sorted(lengths)}")
    return Batch(inputs, targets, lengths.pop())


def part(batch: Batch, rank: int, size: int) -> Batch:
    """Return the part of process *rank* of *size*: samples that follow each other, at most one more than another's."""
    parts = torch.arange(batch.size).tensor_split(size)
    index = parts[rank] if len(parts[rank]) else torch.zeros(1, dtype=torch.long)
    rows = slice(int(index[0]), int(index[-1]) + 1)
    return Batch(
        each(batch.inputs, lambda t: t[rows]),
        None if batch.targets is None else batch.targets[rows],
        len(index),
        None if batch.indices is None else batch.indices[rows],
        batch.size,
        len(parts[rank]) == 0,
    )


def as_inputs(value: Any) -> Inputs:
    """Read a model's inputs: a tensor, several in a tuple, or several by name."""
    if isinstance(value, Mapping):
        return {str(k): as_tensor(f"inputs[{k!r}]", v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(as_tensor(f"inputs[{i}]", v) for i, v in enumerate(value))
    return as_tensor("inputs", value)


def as_tensor(name: str, value: Any) -> Tensor:
    """Read a tensor or an array with a dimension of samples."""
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(np.require(value, requirements=["C", "W"]))  # torch shares what it may write to
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    if value.ndim == 0:
        raise ValueError(f"{name} must have a dimension of samples, got a single number")
    if name == "targets" and value.dtype in (torch.int8, torch.int16, torch.int32):
        return value.long()  # the labels that torch's losses take
    return value


def leaves(inputs: Inputs) -> list[Tensor]:
    """Return the tensors."""
    if isinstance(inputs, Tensor):
        return [inputs]
    leaves = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
    if not leaves:
        raise ValueError("inputs hold no tensor")
    return leaves


def each(inputs: Inputs, change: Any) -> Inputs:
    """Return inputs of the same form, each tensor changed by *change*."""
    if isinstance(inputs, Tensor):
        return change(inputs)  # type: ignore[no-any-return]
    if isinstance(inputs, dict):
        return {k: change(v) for k, v in inputs.items()}
    return tuple(change(v) for v in inputs)
