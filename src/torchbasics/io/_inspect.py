"""What is in a file, without making a model or running anything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _files, _safetensors
from torchbasics.io._model import decode
from torchbasics.io._pickle import SUFFIXES, read_pickle
from torchbasics.io._state import kinds_of

if TYPE_CHECKING:
    import os


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is in the file, as plain data.

    "kind" is "model" (of `save`), "state" (of `save_state`), "tensors" (another safetensors file) or "pickle";
    "tensors" maps names to ``{"dtype", "shape"}``, "elements" is their number of values, buffers included; "intact"
    says whether the digest holds, None where there is none; "model", "config", "history" (the epochs), "recipe" and
    "metadata" are what was saved, None where nothing was.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: its header cannot be trusted.
    """
    report: dict[str, Any] = {"path": str(path), "kind": "tensors", "intact": None}
    report |= dict.fromkeys(("model", "config", "history", "recipe", "metadata"))
    if Path(path).suffix in SUFFIXES:
        tensors = {name: (t.dtype, tuple(t.shape)) for name, t in read_pickle(path).items()}
        report["kind"] = "pickle"
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


def _described(file: _safetensors.File) -> dict[str, Any]:
    if file.fields is None:
        return {}
    name, history = file.fields["model"] or None, decode(file, "history")
    epochs = history.get("epochs")
    if not isinstance(epochs, list | None) or not all(isinstance(epoch, dict) for epoch in epochs or ()):
        raise _files.refuse(file.path, "damaged", "is damaged: its history is no list of epochs")
    return {
        "kind": file.fields["kind"],
        "intact": file.verify(),
        "model": name,
        "config": decode(file, "config") if name else None,
        "history": epochs,
        "recipe": history.get("recipe"),
        "metadata": decode(file, "metadata"),
    }
