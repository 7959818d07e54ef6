"""The state_dicts that ``torch.save`` writes, read without running the code that a pickle can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchbasics import _files, _pickles

if TYPE_CHECKING:
    import os

SUFFIXES = (".pt", ".pth", ".pkl")
SHARED = 4  # how many names a tensor may have on the average; more would only fill memory


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state_dict in *path*, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a state_dict of plain tensors, or torch does not read it with ``weights_only=True``.
    """
    tensors, left_out = read_part(path)
    if left_out:
        name, kind = next(iter(left_out.items()))
        text = f"holds no state_dict: {name!r} is {kind}; `torchbasics convert` takes the tensors out"
        raise _files.refuse(path, "unsupported", text)
    return tensors


def read_part(path: str | os.PathLike[str], key: str | None = None) -> tuple[dict[str, Tensor], dict[Any, str]]:
    """Return the tensors in *path* or, with *key*, those under it, and of what kind the entries beside them are.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no dict of plain tensors; where there is one under some key, the message names it.
    """
    found = _pickles.scan(path)
    state = found.load()
    told = found.root
    if key is not None and isinstance(told, dict):
        if key not in told:
            raise _files.refuse(path, "mismatch", f"has no key {key!r}; it has {', '.join(map(repr, told))}")
        state, told = state[key], told[key]
    if not isinstance(told, dict) or not isinstance(state, dict):
        raise _files.refuse(path, "unsupported", f"holds {_kind(told)}, not a state_dict")
    keys = states_in(told)
    if keys and not any(isinstance(value, _pickles.Dense) for value in told.values()):
        text = f"is a checkpoint with the state_dict under {' or '.join(map(repr, keys))}; take it out with"
        command = f"torchbasics convert --key {keys[0]} {path!s} OUT.safetensors"
        raise _files.refuse(path, "unsupported", f"{text} `{command}`")
    wanted = {name: told[name] for name in told if type(name) is str and isinstance(told[name], _pickles.Dense)}
    if sum(tensor.nbytes for tensor in wanted.values()) > SHARED * len(found.content):
        raise _files.refuse(path, "unsafe", "has far more values under its names than in the file")
    tensors = {name: _plain(path, name, state.get(name), tensor) for name, tensor in wanted.items()}
    return tensors, {name: _kind(value) for name, value in told.items() if name not in wanted}


def states_in(told: Any) -> list[str]:
    """Return the keys of a checkpoint that hold state_dicts."""
    return [
        name
        for name, value in told.items()
        if type(name) is str and isinstance(value, dict) and value
        and all(type(part) is str and isinstance(t, _pickles.Dense) for part, t in value.items())
    ]  # fmt: skip


def _plain(path: str | os.PathLike[str], name: str, value: Any, told: _pickles.Dense) -> Tensor:
    """Return *value* if torch read what the scan tells, so that no trick passes that only one of them falls for."""
    if type(value) not in (Tensor, nn.Parameter) or (value.dtype, tuple(value.shape)) != (told.dtype, told.shape):
        raise _files.refuse(path, "unsafe", f"holds {name!r}, which is no plain dense tensor")
    tensor: Tensor = value.detach().contiguous()
    # A part of a larger storage would keep all of it in memory.
    return tensor.clone() if tensor.untyped_storage().nbytes() > told.nbytes else tensor


def _kind(value: Any) -> str:
    return "Tensor" if isinstance(value, _pickles.Dense) else type(value).__name__
