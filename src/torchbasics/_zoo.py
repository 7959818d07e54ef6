"""The one table of models: names, classes, default arguments. Free of torch, so that listing names costs nothing."""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torchbasics import _checks, _third_party

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

    Every constructor argument must be stored on the model, unchanged, under its own name. A package whose models are
    to be known wherever it is installed, before anything of it is imported, declares them beside:
    ``[project.entry-points."torchbasics.models"]``, ``scale = "package.module:Scale"``.

    Args:
        name: What ``get_model`` calls it: an identifier, not taken by another class.
        defaults: Arguments for ``get_model(name)`` where the user gives none; they make it callable without any.

    Raises:
        TypeError: *name* is no string, what is registered no class, or its constructor has no argument of *defaults*.
        ValueError: *name* is no identifier, another class has it, here or by what an installed package declares, or
            the constructor has an argument that `get_model` could not pass on: "name" or "weights".

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
    if not isinstance(name, str):
        raise TypeError(f'write @register("name"), with the name that get_model calls it, got {name!r}')
    if not name.isidentifier():
        raise ValueError(f"a model's name must be an identifier, got {name!r}")

    def add(cls: M) -> M:
        from torch import nn  # the class is of torch, so it is there

        given: Any = cls
        if not (isinstance(given, type) and issubclass(given, nn.Module)):
            raise TypeError(f"register takes a class of torch.nn.Module, got {cls!r} for {name!r}")
        path = f"{cls.__module__}:{cls.__qualname__}"
        taken = _owner(name, cls)
        if taken not in ("", path):  # the same class may come again: a notebook cell run twice
            raise ValueError(f"the name {name!r} is taken by {taken}; register {path} under another one")
        own = [p for p in parameters(cls) if p in ("name", "weights")]
        if own:
            raise ValueError(f"{cls.__qualname__} has an argument {own[0]!r}, which get_model has too; rename it")
        for key in defaults or {}:
            if not _takes_any(cls):
                _check_argument(name, key, cls)
        _entries[name] = Entry(name, cls, dict(defaults or {}))
        return cls

    return add


def _owner(name: str, cls: type[nn.Module]) -> str:
    """Return what has the *name* that *cls* is to get, "module:Class" and whose; "" where nothing else has."""
    if name in _entries:
        return f"{_entries[name].cls.__module__}:{_entries[name].cls.__qualname__}"
    if name in BUILT_IN:
        return BUILT_IN[name][0]
    others = declared().get(name, ())
    allowed = any(other.is_home_of(cls) or other.names(cls) for other in others)
    return "" if allowed else " and ".join(map(str, others))


def _check_argument(name: str, key: str, cls: type[nn.Module]) -> None:
    known = parameters(cls)
    if not known:
        raise TypeError(f"{name!r}: unknown argument {key!r}; {cls.__qualname__} names none in its __init__")
    try:
        _checks.choice("argument", key, known)
    except ValueError as e:
        of_weights = "; of models that have weights, weights='DEFAULT' gives them" if key == "pretrained" else ""
        raise TypeError(f"{name!r}: {e}{of_weights}") from None


def forget(name: str) -> None:
    """Take a registered name out of the table; unknown names are ignored."""
    _entries.pop(name, None)


def list_models() -> list[str]:
    """Return the names of all models, sorted: the library's, those that installed packages declare, and one's own.

    >>> list_models()
    ['cnn', 'dcgan', 'mlp', 'rnn_classifier', 'stacked_rnn']
    """
    return sorted({*BUILT_IN, *_entries, *declared()})


@functools.cache
def declared() -> Mapping[str, tuple[_third_party.Declared, ...]]:
    """Return the models that installed packages declare, by name, and import none; the metadata is read once."""
    return _third_party.read(BUILT_IN)


def entry(name: str) -> Entry:
    """Return the table's entry for *name*, importing its module when it is one of ours or of an installed package.

    Raises:
        ValueError: no model has this name, and the nearest is named; or two packages declare it.
        ImportError: the package that declares it cannot be used.
    """
    _checks.choice("model", name, list_models())
    if name in declared():
        _register_declared(name)
    elif name not in _entries:
        importlib.import_module(BUILT_IN[name][0].partition(":")[0])
    return _entries[name]


def _register_declared(name: str) -> None:
    """Import the class that a package declares as *name*, and register it where its own module does not."""
    first, *others = declared()[name]
    if others:
        several = " and ".join(map(str, declared()[name]))
        raise ValueError(f"the name {name!r} is declared twice, as {several}; pip uninstall one of them")
    cls = first.load()
    if name in _entries:
        if _entries[name].cls is not cls:
            raise first.broken(f"another class is registered under its name: {_entries[name].cls!r}")
        return
    try:
        register(name)(cls)
    except ValueError as e:
        raise first.broken(str(e)) from e


def build(name: str, **config: object) -> nn.Module:
    """Make the model *name*; *config* are its constructor's arguments, the entry's defaults fill the gaps.

    Raises:
        ValueError: no model has this name.
        TypeError: the model has no such argument; the nearest is named.
    """
    made = entry(name)
    for key in config:
        _check_argument(name, key, made.cls)
    return made.cls(**{**made.defaults, **config})


def parameters(cls: type[nn.Module]) -> list[str]:
    """Return the names of the constructor's arguments, without those that ``*args`` and ``**kwargs`` stand for."""
    found = inspect.signature(cls).parameters.values()
    return [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _takes_any(cls: type[nn.Module]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())


def name_of(model: nn.Module) -> str | None:
    """Return the registered name of the model's class, or that under which its package declares it, or None."""
    cls = class_of(model)
    names = [name for name, found in declared().items() if any(one.names(cls) for one in found)]
    names += [known.name for known in _entries.values() if known.cls is cls]
    return names[0] if names else None  # one that other processes know too, where there is one


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return a module's class, seen through the one that FSDP2 makes of it."""
    cls = type(module)
    first = cls.__bases__[0]
    return cls.__bases__[1] if first.__name__ == "FSDPModule" and first.__module__.startswith("torch.") else cls


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return the constructor's arguments as the model stores them.

    Raises:
        TypeError: an argument is not stored under its own name.
    """
    cls = class_of(model)
    missing = [p for p in parameters(cls) if not hasattr(model, p)]
    if missing:
        raise TypeError(
            f"{cls.__name__} does not store its argument {missing[0]!r}; "
            f"add self.{missing[0]} = {missing[0]} to its __init__"
        )
    return {p: getattr(model, p) for p in parameters(cls)}
