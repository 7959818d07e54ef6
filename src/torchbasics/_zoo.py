"""The one table of models: names, classes, default arguments. Free of torch, so that listing names costs nothing."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torchbasics import _checks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

# Name -> module:Class and what it is, in one line. Written by scripts/generate.py from the model files.
BUILT_IN = {
    # <generated>
    "cnn": (
        "torchbasics.models._cnn:CNNModel",
        "A small convolutional network for images; the default is the tutorial's.",
    ),
    "dcgan": (
        "torchbasics.models._dcgan:DCGAN",
        "A deep convolutional GAN: it learns to draw images like those it is shown.",
    ),
    "mlp": (
        "torchbasics.models._mlp:MLP",
        "A multilayer perceptron: linear layers with an activation after each but the last.",
    ),
    "rnn_classifier": (
        "torchbasics.models._rnn_classifier:RNNClassifier",
        "A recurrent classifier of sequences, or of images read row by row.",
    ),
    "stacked_rnn": (
        "torchbasics.models._rnn:StackedRNN",
        "Recurrent layers on top of each other: RNN, LSTM and GRU under one name.",
    ),
    # </generated>
}

M = TypeVar("M", bound="type[nn.Module]")


@dataclass(frozen=True)
class Entry:
    """A registered model: its class, and the arguments that ``get_model(name)`` gives it where the user gives none."""

    name: str
    cls: type[nn.Module]
    defaults: Mapping[str, object] = field(default_factory=dict)


_entries: dict[str, Entry] = {}


def register(name: str, *, defaults: Mapping[str, object] | None = None) -> Callable[[M], M]:
    """Make a class of one's own a model of the zoo: for ``get_model``, ``save``/``load`` and the command line.

    Every constructor argument must be stored on the model, unchanged, under its own name.

    Args:
        name: What ``get_model`` calls it: an identifier, not taken by another class.
        defaults: Arguments for ``get_model(name)`` where the user gives none; they make it callable without any.

    Raises:
        ValueError: *name* is no identifier, another class has it, or the constructor has an argument that `get_model`
            could not pass on: "name" or "weights".

    >>> from torch import nn
    >>> @register("scale", defaults={"size": 3})
    ... class Scale(nn.Linear):
    ...     def __init__(self, size: int) -> None:
    ...         super().__init__(size, size, bias=False)
    ...         self.size = size
    >>> build("scale")
    Scale(in_features=3, out_features=3, bias=False)
    >>> forget("scale")
    """
    if not name.isidentifier():
        raise ValueError(f"a model's name must be an identifier, got {name!r}")

    def add(cls: M) -> M:
        path = f"{cls.__module__}:{cls.__qualname__}"
        taken = BUILT_IN.get(name, ("", ""))[0]
        if name in _entries:
            taken = f"{_entries[name].cls.__module__}:{_entries[name].cls.__qualname__}"
        if taken not in ("", path):  # the same class may come again: a notebook cell run twice
            raise ValueError(f"the name {name!r} is taken by {taken}; register {path} under another one")
        own = [p for p in parameters(cls) if p in ("name", "weights")]
        if own:
            raise ValueError(f"{cls.__qualname__} has an argument {own[0]!r}, which get_model has too; rename it")
        _entries[name] = Entry(name, cls, dict(defaults or {}))
        return cls

    return add


def forget(name: str) -> None:
    """Take a registered name out of the table; unknown names are ignored."""
    _entries.pop(name, None)


def list_models() -> list[str]:
    """Return the names of all models, sorted.

    >>> list_models()
    ['cnn', 'dcgan', 'mlp', 'rnn_classifier', 'stacked_rnn']
    """
    return sorted({*BUILT_IN, *_entries})


def entry(name: str) -> Entry:
    """Return the table's entry for *name*, importing its module when it is one of ours.

    Raises:
        ValueError: no model has this name; the nearest is named.
    """
    _checks.choice("model", name, list_models())
    if name not in _entries:
        importlib.import_module(BUILT_IN[name][0].partition(":")[0])
    return _entries[name]


def build(name: str, **config: object) -> nn.Module:
    """Make the model *name*; *config* are its constructor's arguments, the entry's defaults fill the gaps.

    Raises:
        ValueError: no model has this name.
        TypeError: the model has no such argument; the nearest is named.
    """
    made = entry(name)
    known = parameters(made.cls)
    for key in config:
        if key not in known:
            try:
                _checks.choice("argument", key, known)
            except ValueError as e:
                raise TypeError(f"{name!r}: {e}") from None
    return made.cls(**{**made.defaults, **config})


def parameters(cls: type[nn.Module]) -> list[str]:
    """Return the names of the constructor's arguments."""
    return [p for p in inspect.signature(cls).parameters if p not in ("args", "kwargs")]


def name_of(model: nn.Module) -> str | None:
    """Return the registered name of the model's class, or None."""
    return next((e.name for e in _entries.values() if e.cls is type(model)), None)


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return the constructor's arguments as the model stores them.

    Raises:
        TypeError: an argument is not stored under its own name.
    """
    cls = type(model)
    missing = [p for p in parameters(cls) if not hasattr(model, p)]
    if missing:
        raise TypeError(
            f"{cls.__name__} does not store its argument {missing[0]!r}; "
            f"add self.{missing[0]} = {missing[0]} to its __init__"
        )
    return {p: getattr(model, p) for p in parameters(cls)}
