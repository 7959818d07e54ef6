"""Parameters and buffers of any module, without the model around them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchbasics import _files
from torchbasics.io._pickle import SUFFIXES, read_pickle

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


def save_state(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the parameters and buffers of *model*, any module, to *path*; `load_state` reads them.

    The file is there whole or not at all, and the same values always give the same bytes.

    Raises:
        ValueError: *path* does not end in ".safetensors", or the model's layers have no shape yet.
        TypeError: the model's state has entries that are no dense tensors.
        FileNotFoundError: the folder is not there.
    """
    write_state(state_of(model), path)


def write_state(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write *tensors*, a state_dict, to *path*; the errors are those of `save_state`."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    fields = {"kind": "state", "model": "", "config": "{}", "history": "null", "metadata": "{}"}
    _files.write_tensors(path, tensors, fields)


def load_state(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Copy the parameters and buffers in *path* into *model*, all of them or none.

    Reads what `save_state` and `save` write, other safetensors files, and the state_dicts that ``torch.save`` writes
    to .pt, .pth and .pkl. No code in a file is ever run.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file cannot be trusted, or does not fit the model; the message lists every difference.
    """
    suffix = Path(path).suffix
    if suffix not in (".safetensors", *SUFFIXES):
        text = f"ends in {suffix!r}; load_state reads .safetensors, {', '.join(SUFFIXES)}"
        raise _files.refuse(path, "unsupported", text)
    tensors = read_pickle(path) if suffix in SUFFIXES else _files.read(path).tensors()
    check_fit(path, model, tensors)
    model.load_state_dict(tensors)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of *model* by name.

    Raises:
        ValueError: a lazy layer has no shape yet.
        TypeError: the state has an entry that is no tensor.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} in the model's state is no tensor but {type(value).__name__}; it has no place")
        if is_lazy(value):
            raise ValueError(f"{name!r} has no shape yet; run the model on a batch first")
    return state


def check_fit(path: str | os.PathLike[str], model: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and dtypes of *found* with those of *model*.

    Raises:
        CheckpointError: they differ; one message lists all differences.
    """
    wanted = state_of(model)
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    problems = [f"missing {', '.join(map(repr, missing))}"] if missing else []
    problems += [f"unexpected {', '.join(map(repr, unexpected))}"] if unexpected else []
    for name in wanted.keys() & found.keys():
        have, need = found[name], wanted[name]
        if have.shape != need.shape:
            problems.append(f"{name!r} has shape {tuple(have.shape)}, needs {tuple(need.shape)}")
        if have.dtype != need.dtype:
            problems.append(f"{name!r} has dtype {have.dtype}, needs {need.dtype}")
    if problems:
        text = f"does not fit {type(model).__name__}: {'; '.join(sorted(problems))}; nothing was loaded"
        raise _files.refuse(path, "mismatch", text)
