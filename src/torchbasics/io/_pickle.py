"""The state_dicts that ``torch.save`` writes, read without running the code that a pickle can hold."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics import _files, _pickles
from torchbasics._model import versioned, versions_of
from torchbasics._pickles import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIXES = (".pt", ".pth", ".pkl")
SHARED = 4  # how many names a tensor may have on the average; more would only fill memory
TIMES = 16  # how often the model a file may be, with an optimizer's state and averages beside it ...
BESIDE = 2**27  # ... and bytes that it may have besides
NAMED = 8  # keys that a message names


def read_pickle(path: str | os.PathLike[str], nbytes: int | None = None) -> dict[str, Tensor]:
    """Return the state_dict in *path*, on the CPU; with *nbytes*, for a model that has so many.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a state_dict of plain tensors, or torch does not read it with ``weights_only=True``.
    """
    limit = _pickles.FILE_LIMIT if nbytes is None else TIMES * nbytes + BESIDE
    tensors, left_out = read_part(path, limit=limit)
    if left_out:
        name, kind = next(iter(left_out.items()))
        text = f"holds no state_dict: {shown(name)} is {kind}; `torchbasics convert` takes the tensors out"
        raise _files.refuse(path, "unsupported", text)
    return tensors


def read_part(
    path: str | os.PathLike[str], key: str | None = None, *, limit: int = _pickles.FILE_LIMIT
) -> tuple[dict[str, Tensor], dict[Any, str]]:
    """Return the tensors in *path* or, with *key*, those under it, and of what kind the entries beside them are.

    The versions of the layers that torch wrote beside the tensors stay with them.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no dict of plain tensors; where there is one under some key, the message names it;
            or it has more than *limit* bytes.
    """
    found = _pickles.scan(path, limit=limit)
    state = found.load()
    told = found.root
    if key is not None and isinstance(told, dict):
        if key not in told:
            raise _files.refuse(path, "mismatch", f"has no key {key!r}; it has {listed(told)}")
        state, told = state[key], told[key]
    if not isinstance(told, dict) or not isinstance(state, dict):
        raise _files.refuse(path, "unsupported", f"holds {_kind(told)}, not a state_dict")
    keys = states_in(told)
    if keys and not any(isinstance(value, _pickles.Dense) for value in told.values()):
        text = f"is a checkpoint with the state_dict under {listed(keys, ' or ')}; take it out with"
        raise _files.refuse(path, "unsupported", f"{text} `{_command(keys[0], str(path))}`")
    wanted = {name: told[name] for name in told if type(name) is str and isinstance(told[name], _pickles.Dense)}
    if sum(tensor.nbytes for tensor in wanted.values()) > SHARED * len(found.content):
        raise _files.refuse(path, "unsafe", "has far more values under its names than in the file")
    tensors = {name: _plain(path, name, state.get(name), tensor) for name, tensor in wanted.items()}
    return versioned(tensors, _versions(path, state)), {
        name: _kind(value) for name, value in told.items() if name not in wanted
    }


def states_in(told: Any) -> list[str]:
    """Return the keys of a checkpoint that hold state_dicts."""
    return [
        name
        for name, value in told.items()
        if type(name) is str and isinstance(value, dict) and value
        and all(type(part) is str and isinstance(t, _pickles.Dense) for part, t in value.items())
    ]  # fmt: skip


def listed(names: Iterable[Any], between: str = ", ") -> str:
    """Return the first of *names* for a message, and how many more there are."""
    told = [shown(name) for name in names]
    more = [f"{len(told) - NAMED} more"] if len(told) > NAMED else []
    return between.join(told[:NAMED] + more)


def _command(key: str, path: str) -> str:
    """Return the command that converts what is under *key*, which the file's author chose: no shell runs a part of it.

    The command prompt of Windows does not know the quotes that make a word of anything.
    """
    quoted = shlex.quote(f"--key={key}")
    sound = key.isprintable() and len(key) <= 100 and (os.name != "nt" or not quoted.startswith("'"))
    named = quoted if sound and path.isprintable() else "--key=KEY"
    return f"torchbasics convert {named} {shlex.quote(path) if path.isprintable() else 'IN'} OUT.safetensors"


def _plain(path: str | os.PathLike[str], name: str, value: Any, told: _pickles.Dense) -> Tensor:
    """Return *value* if torch read what the scan tells, so that no trick passes that only one of them falls for."""
    if type(value) not in (Tensor, nn.Parameter) or (value.dtype, tuple(value.shape)) != (told.dtype, told.shape):
        raise _files.refuse(path, "unsafe", f"holds {shown(name)}, which is no plain dense tensor")
    if value.dtype == torch.bool and value.numel() and int(value.detach().view(torch.uint8).max()) > 1:
        raise _files.refuse(path, "damaged", f"is damaged: {shown(name)} has truth values other than 0 and 1")
    tensor: Tensor = value.detach().contiguous()
    # A part of a larger storage would keep all of it in memory.
    return tensor.clone() if tensor.untyped_storage().nbytes() > told.nbytes else tensor


def _versions(path: str | os.PathLike[str], state: dict[Any, Any]) -> dict[str, Any] | None:
    """Return the versions of the modules that were saved, if they are what torch writes: plain values by name."""
    found = versions_of(state)
    told: Any = {} if found is None else found
    plain = isinstance(told, dict) and all(
        type(name) is str
        and isinstance(part, dict)
        and all(type(key) is str and type(value) in (bool, int, float, str, type(None)) for key, value in part.items())
        for name, part in told.items()
    )
    if not plain:
        raise _files.refuse(path, "unsupported", "holds versions of its layers (_metadata) that are no plain values")
    return found


def _kind(value: Any) -> str:
    return "Tensor" if isinstance(value, _pickles.Dense) else type(value).__name__
