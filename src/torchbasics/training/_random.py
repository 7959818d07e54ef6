"""The global random generators, as one thing that can be read, set and put back."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def get_state() -> dict[str, Any]:
    """Return the state of the generators of python, numpy, torch and each CUDA device in use, as plain data."""
    version, words, gauss = random.getstate()
    drawn: Any = np.random.get_state()  # noqa: NPY002  # the generator users draw from
    name, keys, position, has_gauss, cached = drawn
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if used else [],
    }


def set_state(state: dict[str, Any]) -> None:
    """Set all generators to what `get_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():  # a run may go on where there is another number of devices
        devices = range(torch.cuda.device_count())  # pragma: no cover  # CUDA
        for device, saved in zip(devices, state["cuda"], strict=False):  # pragma: no cover  # CUDA
            torch.cuda.set_rng_state(saved, device)  # pragma: no cover  # CUDA


def seed_all(seed: int) -> None:
    """Seed all generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def forked(seed: int | None = None) -> Iterator[None]:
    """Leave all generators as they were; inside they start from *seed*, or from where they are."""
    state = get_state()
    try:
        if seed is not None:
            seed_all(seed)
        yield
    finally:
        set_state(state)
        built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]  # torch gives it no types
        if built and seed is not None and not state["cuda"]:  # a GPU's first use takes the seed that was given last
            torch.cuda.manual_seed_all(torch.initial_seed())
