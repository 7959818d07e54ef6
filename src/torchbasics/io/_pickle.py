"""The state_dicts that ``torch.save`` writes, read without running the code that a pickle can hold."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchbasics import _files

if TYPE_CHECKING:
    import os

SUFFIXES = (".pt", ".pth", ".pkl")
# The attributes of every module, as they stand in its pickle; no state_dict has them all.
MODULE_MARKS = (b"_parameters", b"_buffers", b"_modules")


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state_dict in *path*, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a state_dict of plain tensors, or torch does not read it with ``weights_only=True``.
    """
    _files.check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch speaks of its own future
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds: EOFError, KeyError, RuntimeError, UnpicklingError, ...
        raise _reason(path, e) from e
    return _plain(path, state)


def _reason(path: str | os.PathLike[str], error: Exception) -> _files.CheckpointError:
    content = Path(path).read_bytes()
    if all(mark in content for mark in MODULE_MARKS):
        text = (
            "holds a whole pickled model, which only runs with its code; where it came from, write "
            "torch.save(model.state_dict(), path) and use that file"
        )
        return _files.refuse(path, "whole-model-pickle", text)
    if not content:
        return _files.refuse(path, "truncated", "is empty")
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return _files.refuse(path, "unsafe", f"asks to run {asked[1]}, which no state_dict does; it was not run")
    # torch's own advice, to load without the guard, is left out.
    cause = re.search(r"WeightsUnpickler error: (.*)", str(error)) or re.search(r"(.*)", str(error).strip())
    said = cause[1] if cause and cause[1] else type(error).__name__
    return _files.refuse(path, "not-a-checkpoint", f"is no state_dict that torch can read: {said}")


def _plain(path: str | os.PathLike[str], state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise _files.refuse(path, "unsupported", f"holds {type(state).__name__}, not a state_dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            text = f"holds no state_dict: {name!r} is {type(value).__name__}; torch.load it and write the part you need"
            raise _files.refuse(path, "unsupported", text)
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise _files.refuse(path, "unsafe", f"holds {name!r}, which is no plain dense tensor")
    return {name: value.detach().contiguous() for name, value in state.items()}
