"""Whole models in one file: parameters, constructor arguments, history, and whatever else is JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from torchbasics import _files, _safetensors, _zoo
from torchbasics._model import unwrapped, versions_of
from torchbasics._recipe import tuples
from torchbasics.io import _building, _fit
from torchbasics.io._pickle import SUFFIXES, read_pickle
from torchbasics.io._state import check_memory, fill, kinds_of, state_of, write_file

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

    The file is there whole or not at all, and the same model always gives the same bytes. Where processes have a part
    of the model each (``fit(strategy="fsdp")``), all have to call this; process 0 writes one ordinary file.

    Args:
        model: One of ``models.list_models()``, or of a class of one's own that ``models.register`` has named.
        path: Ends in ".safetensors".
        history: What ``fit`` returned, or any sequence of mappings.
        metadata: JSON data to keep in the file, such as the names of the classes; tuples come back as lists.

    Raises:
        TypeError: the model's class is not registered, or something is no JSON data.
        ValueError: *path* has another ending, or the model's class would make another one of its arguments: a layer
            was replaced, or has taken its shape from a batch; the class takes arguments without a name.
        FileNotFoundError: the folder is not there.

    >>> from tempfile import TemporaryDirectory
    >>> from torchbasics.models import MLP
    >>> with TemporaryDirectory() as folder:
    ...     save(MLP(3, (4,), 2), Path(folder, "mlp.safetensors"), metadata={"classes": ["cat", "dog"]})
    """
    path, model = _suffixed(path), unwrapped(model)
    name = _zoo.name_of(model)
    if name is None:
        kind = _zoo.class_of(model).__name__
        raise TypeError(
            f"{kind} is not registered, so no file could say how to make it; put "
            f"@models.register({kind.lower()!r}) on the class, or write the parameters alone with io.save_state"
        )
    config = _zoo.config_of(model)
    for key, value in config.items():
        _check_plain(f"{_zoo.class_of(model).__name__}'s argument {key!r}", value)
    _check_plain("metadata", metadata)
    fields = {"kind": "model", "model": name, "config": _json(config), "history": _history(history)}
    state = state_of(model)
    _check_comes_back(name, _zoo.class_of(model).__name__, json.loads(fields["config"]), _fit.kinds(state))
    write_file(path, state, {**fields, "metadata": _json(dict(metadata or {}))})


def load(path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> nn.Module:
    """Make the model that `save` wrote to *path*: on the CPU and in eval mode; random state stays as it is.

    The file chooses the model and its constructor's arguments, among those registered here and those that installed
    packages declare; of the latter, the one module is imported that is declared under this name. A model that comes to
    many more layers or values than the file has tensors for is given up while it is made.

    Args:
        path: The file.
        allow_nonfinite: Whether NaN and infinite values are loaded too. A buffer may always hold those that a new
            model has, such as a mask of -inf.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file cannot be trusted, holds no model, or its model cannot be made here.

    >>> from torchbasics.models import get_weights
    >>> model = load(get_weights("cnn")[0].path)
    >>> model(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """
    return load_described(path, allow_nonfinite=allow_nonfinite)[0]


def load_described(path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """Return what `load` returns, and the metadata, from one reading of the file; the errors are those of `load`."""
    text = "holds parameters only; make the model and use io.load_state"
    if Path(path).suffix in SUFFIXES:
        read_pickle(path)  # tells of what is no state_dict, such as a whole model
        raise _files.refuse(path, "unsupported", text)
    with _safetensors.opened(path) as file:
        if file.fields is None or file.fields["kind"] != "model":
            raise _files.refuse(path, "unsupported", text)
        model, metadata = _made(file), decode(file, "metadata")
        _fill(model, file, allow_nonfinite)
    return model.eval(), metadata


def decode(file: _safetensors.File, key: str) -> dict[str, Any]:
    """Return one of the file's fields from its JSON; "null" is an empty one.

    Raises:
        CheckpointError: it is no JSON object.
    """
    try:
        made = json.loads((file.fields or {})[key])
    except (ValueError, RecursionError) as e:
        raise _files.refuse(file.path, "damaged", f"is damaged: its {key} is no JSON ({e})") from e
    if not isinstance(made, dict | None):
        raise _files.refuse(file.path, "damaged", f"is damaged: its {key} is no JSON object")
    return made or {}


def _made(file: _safetensors.File) -> nn.Module:
    """Make the model that the file describes, of the file's own precision; it fits the file."""
    name, config = (file.fields or {})["model"], decode(file, "config")
    if name not in _zoo.list_models():
        shown = _safetensors.shown(name)
        text = f"holds the model {shown}, which is not registered here; install the package that declares it, or import"
        text += " the module that registers it first"
        raise _files.refuse(file.path, "unsupported", text)
    wanted = kinds_of(file)
    try:
        model = _built(name, config, wanted)
    except _building.TooLargeError as e:
        raise _files.refuse(file.path, "too-large", f"holds a {name!r} {e}") from e
    except Exception as e:  # whatever a constructor makes of arguments that it never expected
        text = f"holds a {name!r} that this torchbasics cannot make: {_files.brief(e)}"
        raise _files.refuse(file.path, "unsupported", text) from e
    _fit.check_kinds(file.path, type(model).__name__, _fit.kinds(state_of(model)), wanted)
    return model


def _built(name: str, config: Mapping[str, Any], wanted: Mapping[str, _fit.Kind]) -> nn.Module:
    """Make the model *name* on the CPU, from what JSON made of its arguments, in the precision of what is *wanted*."""
    if name not in _zoo.BUILT_IN:
        with _building.random_kept():
            _zoo.entry(name)  # imports the package that declares it; what its modules make is not the model's
    with _building.bounded(wanted, fill=name not in _zoo.BUILT_IN), torch.device("cpu"):
        model = _zoo.build(name, **tuples(config))
    state = state_of(model)
    check_memory(state)
    for key, value in state.items():
        if key in wanted and value.is_floating_point() and wanted[key][0].is_floating_point:
            value.data = value.data.to(wanted[key][0])  # a model saved in another precision comes back in it
    return model


def _check_comes_back(name: str, kind: str, config: Mapping[str, Any], state: Mapping[str, _fit.Kind]) -> None:
    """See that `load` could make from *config* what has this *state*.

    Raises:
        ValueError: it could not.
    """
    try:
        problems = _fit.differences(_fit.kinds(state_of(_built(name, config, state))), state)
    except Exception as e:  # whatever a constructor makes of arguments that it never expected
        problems = [_files.brief(e)]
    if problems:
        text = f"io.load could not make this {kind} again from its arguments: {'; '.join(problems)}"
        raise ValueError(
            f"{text}; store all that it depends on as arguments, or write the parameters alone with io.save_state"
        )


def _fill(model: nn.Module, file: _safetensors.File, allow_nonfinite: bool) -> None:
    """Load the file's tensors; of our own models, read into the parameters themselves where that can be done.

    Of others the code may change what it is given, or where it goes: these are read elsewhere, and compared.
    """
    own = (file.fields or {})["model"] not in _zoo.BUILT_IN
    state, parameters = state_of(model), {id(parameter) for parameter in model.parameters() if not own}
    there: dict[int, set[int]] = {}  # what lies in a memory: what overlaps is read elsewhere, and compared
    for tensor in state.values():
        there.setdefault(tensor.untyped_storage().data_ptr(), set()).add(id(tensor))
    into: dict[str, Tensor] = {}
    for name, tensor in state.items():
        alone = len(there[tensor.untyped_storage().data_ptr()]) == 1
        if alone and id(tensor) in parameters and tensor.is_contiguous() and tensor.is_cpu:
            parameters.remove(id(tensor))  # its second name, if it has one, is read elsewhere as well
            into[name] = tensor
    tensors = file.read(into)
    _fit.check_values(file.path, type(model).__name__, state, tensors, nonfinite=allow_nonfinite)
    fill(file.path, model, tensors, versions_of(state), own=own)  # copies nothing onto itself


def _suffixed(path: str | os.PathLike[str]) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    return Path(path)


def _check_plain(name: str, value: Any) -> None:
    """Refuse what JSON has no form for; lists and tuples it writes alike."""
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
