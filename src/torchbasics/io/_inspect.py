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
        tensors = {name: (t.dtype, tuple(t.shape)) for name, t in read_pickle(path).items()}
        report["kind"] = "pickle"
    else:
        content = _files.read(path, verify=False)
        tensors = {name: (_files.DTYPES[slot.dtype], slot.shape) for name, slot in sorted(content.slots.items())}
        report |= _described(content)
    return {
        **report,
        "bytes": Path(path).stat().st_size,
        "elements": sum(math.prod(shape) for _, shape in tensors.values()),
        "tensors": {
            name: {"dtype": str(dtype).removeprefix("torch."), "shape": shape}
            for name, (dtype, shape) in tensors.items()
        },
    }


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
