"""What is in a file, without making a model or running anything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _files
from torchbasics.io._model import decode
from torchbasics.io._pickle import SUFFIXES, read_pickle

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
        tensors = {
            name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": tuple(t.shape)}
            for name, t in read_pickle(path).items()
        }
        report["kind"] = "pickle"
    else:
        content = _files.read(path, verify=False)
        tensors = {
            name: {"dtype": str(_files.DTYPES[slot.dtype]).removeprefix("torch."), "shape": slot.shape}
            for name, slot in sorted(content.slots.items())
        }
        report |= _described(content)
    elements = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    return {**report, "bytes": Path(path).stat().st_size, "elements": elements, "tensors": tensors}


def _described(content: _files.Content) -> dict[str, Any]:
    if content.fields is None:
        return {}
    history = decode(content, "history") or {}
    return {
        "kind": content.fields["kind"],
        "intact": content.intact,
        "model": content.fields["model"] or None,
        "config": decode(content, "config") if content.fields["model"] else None,
        "history": history.get("epochs"),
        "recipe": history.get("recipe"),
        "metadata": decode(content, "metadata"),
    }
