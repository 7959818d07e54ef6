"""Whole models in one file: parameters, constructor arguments, history, and whatever else is JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from torchbasics import _files, _zoo
from torchbasics.io._pickle import SUFFIXES, read_pickle
from torchbasics.io._state import check_fit, state_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping


@runtime_checkable
class SupportsJSON(Protocol):
    """A history that writes itself, as `torchbasics.training.History` does."""

    def to_json(self) -> str:
        """Return a JSON object with "epochs", "recipe" and "stopped"."""


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    history: SupportsJSON | Iterable[Mapping[str, float]] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write *model* to *path*, so that `load` can make it again without being told its class.

    The file is there whole or not at all, and the same model always gives the same bytes.

    Args:
        model: One of ``models.list_models()``, or of a class of one's own that ``models.register`` has named.
        path: Ends in ".safetensors".
        history: What ``fit`` returned, or any sequence of mappings.
        metadata: JSON data to keep in the file, such as the names of the classes.

    Raises:
        TypeError: the model's class is not registered, or something is no JSON data.
        ValueError: *path* has another ending.
        FileNotFoundError: the folder is not there.
    """
    name = _zoo.name_of(model)
    if name is None:
        kind = type(model).__name__
        raise TypeError(
            f"{kind} is not registered, so no file could say how to make it; put "
            f"@models.register({kind.lower()!r}) on the class, or write the parameters alone with io.save_state"
        )
    config = _zoo.config_of(model)
    for key, value in config.items():
        _check_plain(f"{type(model).__name__}'s argument {key!r}", value)
    _check_plain("metadata", metadata)
    fields = {"kind": "model", "model": name, "config": _json(config), "history": _history(history)}
    _files.write_tensors(_suffixed(path), state_of(model), {**fields, "metadata": _json(dict(metadata or {}))})


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Make the model that `save` wrote to *path*: on the CPU and in eval mode; torch's random state stays as it is.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file cannot be trusted, holds no model, or its model cannot be made here.
    """
    return _made(_read(path))


def load_described(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Return what `load` returns, and the metadata, from one reading of the file; the errors are those of `load`."""
    content = _read(path)
    return _made(content), decode(content, "metadata")


def decode(content: _files.Content, key: str) -> Any:
    """Return one of the file's fields from its JSON.

    Raises:
        CheckpointError: it is no JSON.
    """
    try:
        return json.loads((content.fields or {})[key])
    except (ValueError, RecursionError) as e:
        raise _files.refuse(content.path, "damaged", f"is damaged: its {key} is no JSON ({e})") from e


def _read(path: str | os.PathLike[str]) -> _files.Content:
    """Read a file of `save`; others are refused with what to do instead."""
    is_pickle = Path(path).suffix in SUFFIXES
    if is_pickle:
        read_pickle(path)  # tells of what is no state_dict, such as a whole model
    content = None if is_pickle else _files.read(path)
    if content is None or content.fields is None or content.fields["kind"] != "model":
        text = "holds parameters only; make the model and use io.load_state"
        raise _files.refuse(path, "unsupported", text)
    return content


def _made(content: _files.Content) -> nn.Module:
    tensors = content.tensors()
    model = _build(content, tensors)
    model.load_state_dict(tensors)
    return model.eval()


def _build(content: _files.Content, tensors: dict[str, Tensor]) -> nn.Module:
    name = (content.fields or {})["model"]
    config = _tuples(decode(content, "config"))
    if name not in _zoo.list_models():
        text = f"holds the model {name!r}, which is not registered here; import the module that registers it first"
        raise _files.refuse(content.path, "unsupported", text)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # new parameters take random numbers
            model = _zoo.build(name, **config)
    except (TypeError, ValueError) as e:
        text = f"holds a {name!r} that this torchbasics cannot make: {e}"
        raise _files.refuse(content.path, "unsupported", text) from e
    for key, value in model.state_dict(keep_vars=True).items():
        if key in tensors and value.is_floating_point() and tensors[key].is_floating_point():
            value.data = value.data.to(tensors[key].dtype)  # a model saved in another precision comes back in it
    check_fit(content.path, model, tensors)
    return model


def _suffixed(path: str | os.PathLike[str]) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    return Path(path)


def _check_plain(name: str, value: Any) -> None:
    """Refuse what would not come back from JSON as it was."""
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_plain(name, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}, which cannot be written to a file; use text")
            _check_plain(name, item)
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise TypeError(f"{name} has the value {value!r}, which cannot be written to a file; use numbers, text, tuples")


def _history(history: SupportsJSON | Iterable[Mapping[str, float]] | None) -> str:
    if isinstance(history, SupportsJSON):
        return _json(json.loads(history.to_json()))
    rows = [dict(row) for row in history or ()]
    _check_plain("history", rows)
    return _json({"epochs": rows, "recipe": None, "stopped": None})


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
