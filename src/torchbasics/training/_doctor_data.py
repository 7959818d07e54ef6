"""What `check` sees in the data alone: values, scales, labels and their order."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchbasics.data._batch import Batch
from torchbasics.data._batches import Batches, LoaderBatches, PairBatches
from torchbasics.training._finding import Finding
from torchbasics.training._losses import is_classes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchbasics.data._batch import Inputs

LARGE, SMALL = 10.0, 0.02  # mean or deviation of values in need of scaling; largest of values scaled twice
LOOKED_AT = 8  # batches of a loader
PER_CLASS = 20  # samples per class from which on a class that never comes is worth a word
SORTED = 32  # labels in a row that are hardly sorted by chance


def look_at_inputs(batches: Batches, batch: Batch) -> Iterator[Finding]:
    """Look for values that are not finite, constant or badly scaled; of a pair at all values, else at a batch."""
    whole = isinstance(batches, PairBatches)
    for name, values in batches.named() if isinstance(batches, PairBatches) else _named(batch):
        if values.is_floating_point() and not values.isfinite().all():
            sample = int((~values.isfinite()).nonzero()[0, 0])
            sample = sample if whole or batch.indices is None else int(batch.indices[sample])
            yield Finding(
                f"{name}-not-finite", f"{name} hold nan or infinity, first in sample {sample}: drop or mend it"
            )
    several = [values for values in tensors(batch.inputs) if len(values) > 1]
    if several and all(bool((values == values[:1]).all()) for values in several):
        yield Finding(
            "inputs-constant", f"all {batch.size} samples looked at have equal inputs: nothing to tell them by"
        )
        return
    for values in tensors(batch.inputs):
        yield from _scale("inputs", values)


def look_at_labels(batches: Batches) -> tuple[Tensor | None, list[Finding]]:
    """Return the class labels as far as they can be read quickly, and whether a loader gives them sorted."""
    if not isinstance(batches, LoaderBatches):
        known = batches.targets
        return (known if known is not None and is_classes(known) else None), []
    read = [b.targets for b in islice(batches.epoch(0), LOOKED_AT) if b.targets is not None]
    if not read or not is_classes(read[0]) or read[0].ndim != 1:
        return None, []
    labels = torch.cat(read)
    if len(labels) >= SORTED and bool((labels[1:] >= labels[:-1]).all()):
        ends = f"from class {int(labels[0])} to {int(labels[-1])}"
        message = f"the first {len(labels)} labels come sorted, {ends}: give the DataLoader shuffle=True"
        return labels, [Finding("labels-sorted", message)]
    return labels, []


def look_at_targets(targets: Tensor) -> Iterator[Finding]:
    """Look for numbers to predict that are far from the size of a fresh model's outputs."""
    if targets.is_floating_point():
        yield from _scale("targets", targets)


def one_hot(targets: Tensor) -> bool:
    """Whether each row (N, C) is 1 in one place and 0 elsewhere."""
    if targets.ndim != 2 or targets.shape[1] < 2:
        return False
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all())


def missing_classes(labels: Tensor | None, classes: int) -> Iterator[Finding]:
    """Look for classes of the model that no label names."""
    if labels is None or labels.numel() < PER_CLASS * classes:
        return
    counts = torch.bincount(labels[(labels >= 0) & (labels < classes)].flatten(), minlength=classes)
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        shown = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
        hint = "; do the labels start at 1 instead of 0?" if absent == [0] else ""
        message = f"the model has {classes} classes, but none of {labels.numel()} labels is {shown}{hint}"
        yield Finding("classes-missing", message)


def tensors(inputs: Inputs) -> list[Tensor]:
    """Return the tensors that *inputs* consist of."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values()) if isinstance(inputs, dict) else list(inputs)


def _named(batch: Batch) -> list[tuple[str, Tensor]]:
    targets = [] if batch.targets is None else [("targets", batch.targets)]
    return [("inputs", values) for values in tensors(batch.inputs)] + targets


def _scale(name: str, values: Tensor) -> Iterator[Finding]:
    if not values.is_floating_point() or values.numel() < 2 or not values.isfinite().all():
        return
    wide = values.double()
    mean, deviation, largest = wide.mean().item(), wide.std().item(), wide.abs().max().item()
    if abs(mean) > LARGE or deviation > LARGE:
        message = f"{name} have mean {mean:.3g} and standard deviation {deviation:.3g}: scale them to about 0 and 1"
        yield Finding(f"{name}-unscaled", message)
    elif 0 < largest < SMALL:
        yield Finding(f"{name}-unscaled", f"no value of {name} is larger than {largest:.2g}: scaled twice?")
