"""What makes a run the run it is, and what it is computed with: recorded, and compared when it goes on."""

from __future__ import annotations

import hashlib
import inspect
import logging
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchbasics import _files
from torchbasics._model import Model, plain_state, unwrapped
from torchbasics._recipe import Recipe
from torchbasics.data._batches import Batches

SHOWN = 3  # differences between two models in a message

# What has a digest alone: a run goes on after a change of these when it is told to.
DIGESTS = {
    "data": "the data",
    "validation": "the validation data",
    "weights": "the starting weights",
    "source": "the source of the model's class",
}


def identify(model: nn.Module, recipe: Recipe, batches: Batches, validation: Batches | None) -> dict[str, Any]:
    """Return what a run is, as plain data: recipe, model, data, starting weights and source."""
    return {
        "recipe": recipe.as_dict(),
        "model": _describe(unwrapped(model)),
        "samples": batches.samples,
        "batches": batches.steps(),
        "data": batches.digest(),
        "validation": None if validation is None else [validation.samples, validation.steps(), validation.digest()],
        "weights": weights_digest(plain_state(model)),
        "source": source_digest(model),
    }


def weights_digest(state: Mapping[str, Any]) -> str:
    """Return one digest of a model's state, wherever it lies and in whatever memory format."""
    return _files.tensors_digest(state.items())


def changes(then: Mapping[str, Any], now: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Name what would silently alter the run of the checkpoint *then*; more epochs alter nothing without a schedule."""
    before, after = then["recipe"], now["recipe"]
    free = {"epochs"} if after["schedule"] in (None, "constant") else set()  # other schedules depend on the total
    found = [
        f"{k} was {before.get(k)!r} and is {v!r}" for k, v in after.items() if k not in free and before.get(k) != v
    ]
    if then["model"] != now["model"]:
        found.append(f"the model was {then['model']} and is {now['model']}")
    else:
        found += _differences(_layout(then["model_state"]), _layout(plain_state(model)))
    if after["epochs"] < len(then["history"]):
        found.append(f"{len(then['history'])} epochs are done, and epochs={after['epochs']!r}")
    if after["early_stopping"] is not None and then["validation"] != now["validation"]:
        found.append("early stopping would compare other validation data")
    if then["position"] and then["metrics"] != now["metrics"]:
        found.append(f"metrics were {then['metrics']} and are {now['metrics']}, in the middle of an epoch")
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


def _layout(state: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        for name, value in state.items()
    }


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    told = [f"{name!r} was {before.get(name, 'absent')} and is {after.get(name, 'absent')}" for name in names[:SHOWN]]
    return told + ([f"and {len(names) - SHOWN} more differences of the models"] if len(names) > SHOWN else [])


def source_digest(model: nn.Module) -> str:
    """Digest the source of the model's classes, torch's and this package's left out: those have versions.

    A class without a file, as a notebook makes it, is known by the compiled code of its methods.
    """
    classes = {cls for module in unwrapped(model).modules() for cls in type(module).__mro__}
    texts = []
    for cls in sorted(classes, key=lambda cls: (cls.__module__, cls.__qualname__)):
        if cls.__module__.partition(".")[0] not in ("torch", "torchbasics", "builtins"):
            try:
                texts.append(inspect.getsource(cls))
            except (OSError, TypeError):
                texts += [f"{name} {_code(value)}" for name, value in vars(cls).items()]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _code(value: Any) -> str:
    """Return what a class's attribute does: a function's instructions, names and constants, those within it too."""
    if isinstance(value, property):
        return " ".join(_code(part) for part in (value.fget, value.fset, value.fdel))
    value = getattr(value, "__func__", value)  # of a classmethod or staticmethod
    code = getattr(value, "__code__", value)
    if isinstance(code, types.CodeType):
        return f"{code.co_code.hex()} {code.co_names} {' '.join(map(_code, code.co_consts))}"
    return repr(code) if code is None or isinstance(code, (bool, int, float, str, tuple)) else type(code).__name__
