"""What is in a file, without making a model or running anything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _files, _pickles, _safetensors
from torchbasics.io._model import decode
from torchbasics.io._pickle import SUFFIXES, states_in
from torchbasics.io._state import kinds_of

if TYPE_CHECKING:
    import os

    import torch


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is in the file, as plain data; no model is made, nothing in the file is run.

    "kind" is "model" (of `save`), "state" (of `save_state`), "tensors" (another safetensors file), or of a pickle
    "state_dict (pickle)", "checkpoint (pickle)" (a state_dict among other things), "whole model (pickle)" or "unsafe
    (pickle)"; "refused" says why the file cannot be loaded, None where it can; "names" are the classes and functions
    that a pickle asks for.

    "tensors" maps names to ``{"dtype", "shape"}``, "elements" is their number of values, buffers included; "intact"
    says whether the digest holds, None where there is none; "model", "config", "history" (the epochs), "recipe" and
    "metadata" are what was saved, None where nothing was.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is too damaged to tell what is in it.

    >>> from tempfile import TemporaryDirectory
    >>> from torchbasics import io, models
    >>> with TemporaryDirectory() as folder:
    ...     io.save(models.MLP(3, (4,), 2), Path(folder, "mlp.safetensors"))
    ...     report = io.inspect(Path(folder, "mlp.safetensors"))
    >>> report["kind"], report["model"], report["intact"], report["elements"]
    ('model', 'mlp', True, 26)
    """
    report: dict[str, Any] = {"path": str(path), "kind": "tensors", "intact": None, "refused": None}
    report |= dict.fromkeys(("model", "config", "history", "recipe", "metadata", "names"))
    if Path(path).suffix in SUFFIXES:
        tensors, told = _pickled(path)
        report |= told
    else:
        with _safetensors.opened(path) as file:
            tensors = dict(sorted(kinds_of(file).items()))
            report |= _described(file)
    return {
        **report,
        "bytes": Path(path).stat().st_size,
        "elements": sum(math.prod(shape) for _, shape in tensors.values()),
        "tensors": {
            name: {"dtype": str(dtype).removeprefix("torch."), "shape": shape}
            for name, (dtype, shape) in tensors.items()
        },
    }


def _pickled(path: str | os.PathLike[str]) -> tuple[dict[str, tuple[torch.dtype, tuple[int, ...]]], dict[str, Any]]:
    found = _pickles.scan(path)
    told: dict[str, Any] = {"names": found.names, "model": found.model}
    if found.refusal is not None:
        if found.refusal.reason not in ("whole-model-pickle", "unsafe"):
            raise found.refusal
        kind = "unsafe (pickle)" if found.model is None else "whole model (pickle)"
        return {}, {**told, "kind": kind, "refused": str(found.refusal)}
    root = found.root if isinstance(found.root, dict) else {"": found.root}
    states = {f"{key}: ": root[key] for key in states_in(root)}
    tensors = {
        f"{key}{name}": (tensor.dtype, tensor.shape)
        for key, state in {"": root, **states}.items()
        for name, tensor in state.items()
        if isinstance(tensor, _pickles.Dense)
    }
    others = {name: value for name, value in root.items() if f"{name}: " not in states and name not in tensors}
    shown = {str(name): value if _is_plain(value) else type(value).__name__ for name, value in others.items()}
    kind = "checkpoint (pickle)" if states or others else "state_dict (pickle)"
    return tensors, {**told, "kind": kind, "metadata": shown or None}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _described(file: _safetensors.File) -> dict[str, Any]:
    if file.fields is None:
        return {}
    name, history, intact = file.fields["model"] or None, decode(file, "history"), file.verify()
    epochs = history.get("epochs")
    if not isinstance(epochs, list | None) or not all(isinstance(epoch, dict) for epoch in epochs or ()):
        raise _files.refuse(file.path, "damaged", "is damaged: its history is no list of epochs")
    altered = _files.refuse(file.path, "damaged", "is damaged: its digest does not match its content")
    return {
        "refused": None if intact else str(altered),
        "kind": file.fields["kind"],
        "intact": intact,
        "model": name,
        "config": decode(file, "config") if name else None,
        "history": epochs,
        "recipe": history.get("recipe"),
        "metadata": decode(file, "metadata"),
    }
