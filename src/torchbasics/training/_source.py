"""What functions, classes and instances do, as text that is the same in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import types
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchbasics import _files
from torchbasics.training._step import Step

KNOWN = ("torch", "torchbasics", "builtins")  # these have versions

# What a step holds once it is bound and started: of the run, not of its own.
BOUND = {
    *("model", "recipe", "optimizers", "schedules", "device", "scaler", "dtype", "late", "_unseen"),
    *("world", "share", "averaged", "sharded", "failure", "trained", "learn"),
    *("forward", "loss", "looks", "counts", "optimizer"),
    *("generator", "discriminator", "preprocess", "noise", "of_generator", "judged", "of_discriminator"),
}


class Teller:
    """Tells what values do: those that do the same give the same text, those that are changed another.

    Functions and classes are told by their source, or by their compiled code where they have none, with defaults and
    closures; what they call by a global name is not looked into. An instance that is called, such as a transform, is
    told by its class and attributes, any other by the name of its class: loggers and files hold what no two processes
    have in common.

    Args:
        names: Of tensors and modules by ``id``, for those that are told by name alone: they change with the run.
    """

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        self.names = names or {}
        self.told: dict[int, tuple[Any, str]] = {}  # with the value, so that no other gets its id

    def __call__(self, value: Any) -> str:
        """Return the text of any value."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
            return repr(value)
        if id(value) in self.names:
            return self.names[id(value)]
        if id(value) not in self.told:
            self.told[id(value)] = value, "itself"  # as far as it is told by its own parts
            self.told[id(value)] = value, self._tell(value)
        return self.told[id(value)][1]

    def attributes(self, value: Any) -> str:
        """Return the text of an instance whose attributes are what it was made with, whether it is called or not."""
        kept = BOUND if isinstance(value, Step) else ()
        return f"{self(type(value))} {self({k: v for k, v in vars(value).items() if k not in kept})}"

    def _tell(self, value: Any) -> str:
        if isinstance(value, dict):
            return f"{{{', '.join(f'{self(k)}: {self(v)}' for k, v in value.items())}}}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(self, value))}]"
        if isinstance(value, (set, frozenset)):
            return f"{{{', '.join(sorted(map(self, value)))}}}"
        if isinstance(value, Tensor):
            return _files.tensors_digest([("tensor", value)])
        if isinstance(value, (np.ndarray, np.generic)):
            content = value.tolist() if value.dtype.hasobject else hashlib.sha256(value.tobytes()).hexdigest()
            return f"{value.dtype} {value.shape} {self(content)}"
        if isinstance(value, type):
            return " ".join(map(self._class, value.__mro__))
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, types.CodeType):
            return f"{value.co_code.hex()} {value.co_names} {' '.join(map(self, value.co_consts))}"
        if isinstance(value, types.FunctionType):
            return self._function(value)
        for kind, names in _PARTS.items():
            if isinstance(value, kind):
                return f"{kind.__name__} {' '.join(self(getattr(value, name)) for name in names)}"
        if hasattr(value, "__wrapped__"):  # as of functools.lru_cache
            return f"{type(value).__qualname__} {self(value.__wrapped__)}"
        if hasattr(value, "__qualname__"):  # of compiled code
            return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
        if isinstance(value, LRScheduler):
            return f"{self(type(value))} {self(getattr(value, 'lr_lambdas', None))}"
        if isinstance(value, Optimizer):
            return self(type(value))
        attributes = (callable(value) or dataclasses.is_dataclass(value)) and hasattr(value, "__dict__")
        return self.attributes(value) if attributes else f"a {type(value).__module__}.{type(value).__qualname__}"

    def _function(self, function: types.FunctionType) -> str:
        wrapped = getattr(function, "__wrapped__", None)
        if _is_known(function.__globals__.get("__name__", "")):
            return f"{function.__globals__['__name__']}.{function.__code__.co_qualname} {self(wrapped)}"
        # The lines of a lambda hold more than itself.
        body = None if function.__name__ == "<lambda>" else _text(function)
        cells = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not filled yet
                cells[name] = None
        parts = (body or function.__code__, function.__defaults__, function.__kwdefaults__, cells, wrapped)
        return " ".join(map(self, parts))

    def _class(self, cls: type) -> str:
        if _is_known(cls.__module__):
            return f"{cls.__module__}.{cls.__qualname__}"
        own = {
            name: value
            for name, value in sorted(vars(cls).items())
            if not name.startswith("__") or (callable(value) and not name.startswith("__annot"))
        }
        return f"{_text(cls)} {self(own)}"

    def _module(self, module: nn.Module) -> str:
        """Tell the state and attributes of a module that is not the one that is trained."""
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        parts = {path: f"{self(type(part))} {self(settings(part))}" for path, part in module.named_modules()}
        return f"{self(parts)} {self(dict(tensors))}"


def settings(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes that are neither parameters, buffers nor parts."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}


def digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


_PARTS: dict[type, tuple[str, ...]] = {
    partial: ("func", "args", "keywords"),
    types.MethodType: ("__func__", "__self__"),
    classmethod: ("__func__",),
    staticmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    cached_property: ("func",),
}


def _is_known(module: str) -> bool:
    return module.partition(".")[0] in (*KNOWN, "contextlib", "functools")


def _text(value: Any) -> str | None:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or run from a string
        return None
