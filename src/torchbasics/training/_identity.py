"""What makes a run the run it is, and what it is computed with: recorded, and compared when it goes on."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from torchbasics import _files
from torchbasics._model import Model, plain_state, unwrapped
from torchbasics._recipe import Recipe
from torchbasics.data._batches import Batches

# What has a digest alone: a run goes on after a change of these when it is told to.
DIGESTS = {
    "data": "the data",
    "weights": "the starting weights",
    "source": "the source of the model's class",
}


def identify(model: nn.Module, recipe: Recipe, batches: Batches) -> dict[str, Any]:
    """Return what a run is, as plain data: recipe, model, data, starting weights and source."""
    return {
        "recipe": recipe.as_dict(),
        "model": _describe(unwrapped(model)),
        "samples": batches.samples,
        "batches": batches.steps(),
        "data": batches.digest(),
        "weights": weights_digest(plain_state(model)),
        "source": _source(model),
    }


def weights_digest(state: Mapping[str, Any]) -> str:
    """Return one digest of a model's state, wherever it lies and in whatever memory format."""
    return _files.tensors_digest(state.items())


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what would silently alter the run, with both values; more epochs alter nothing without a schedule."""
    before, after = then["recipe"], now["recipe"]
    free = {"epochs"} if after["schedule"] in (None, "constant") else set()  # other schedules depend on the total
    found = [
        f"{k} was {before.get(k)!r} and is {v!r}" for k, v in after.items() if k not in free and before.get(k) != v
    ]
    if then["model"] != now["model"]:
        found.append(f"the model was {then['model']} and is {now['model']}")
    found += [
        f"the data had {then[unit]!r} {unit} and has {now[unit]!r}"
        for unit in ("samples", "batches")
        if then[unit] != now[unit] and not (unit == "batches" and now["samples"])
    ]
    return found


def numerics(device: torch.device, recipe: Recipe) -> dict[str, Any]:
    """Return what the last bits depend on."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "layout": recipe.memory_format,
    }


def tell_numerics(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log where a resumed run is not computed as before; the order of the data is the same all the same."""
    other = [f"{k} was {then.get(k)!r} and is {v!r}" for k, v in now.items() if then.get(k) != v]
    if other:
        logging.getLogger("torchbasics").warning(
            "the run goes on with the same data order, but not to the same last bits: %s", "; ".join(other)
        )


def _describe(model: nn.Module) -> str:
    """Return the model's class, and its arguments where it tells them."""
    name = type(model).__qualname__
    return f"{name}({model.extra_repr()})" if isinstance(model, Model) else name


def _source(model: nn.Module) -> str | None:
    """Digest the source of the model's classes, torch's and this package's left out: those have versions."""
    classes = {type(module) for module in unwrapped(model).modules()}
    texts = []
    for cls in sorted(classes, key=lambda cls: cls.__qualname__):
        if cls.__module__.partition(".")[0] not in ("torch", "torchbasics"):
            try:
                texts.append(inspect.getsource(cls))
            except (OSError, TypeError):  # typed at a prompt
                return None
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
