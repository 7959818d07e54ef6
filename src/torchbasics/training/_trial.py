"""Trying things out without a trace: on copies, with all random generators left as they were."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from torchbasics.data._batches import Batches, LoaderBatches
from torchbasics.training._random import forked

if TYPE_CHECKING:
    from collections.abc import Iterator


def copies(model: nn.Module, *others: Any) -> Any:
    """Copy *model* and *others* in one go, so that an optimizer's copy holds the parameters of the model's copy.

    Raises:
        TypeError: the model cannot be copied.
    """
    try:
        return copy.deepcopy((model, *others))
    except Exception as e:
        raise TypeError(
            f"{type(model).__name__} cannot be copied, and only a copy may be tried out: {e}; "
            "see that copy.deepcopy(model) works"
        ) from e


@contextmanager
def without_trace(batches: Batches, seed: int) -> Iterator[None]:
    """Start all generators from *seed*, and put them back afterwards; a DataLoader's own generators come back too.

    Raises:
        ValueError: the data is an iterator, which reading would use up.
    """
    if isinstance(batches, LoaderBatches) and batches.once:
        raise ValueError("an iterator can be read once, and would be used up here; give a list or a DataLoader")
    with batches.own_generators_kept(), forked(seed):
        yield
