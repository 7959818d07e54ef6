"""Parameters and buffers of any module, without the model around them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchbasics import _files, _parts, _safetensors, _world
from torchbasics._model import unwrapped, versioned, versions_of
from torchbasics.io import _fit
from torchbasics.io._pickle import SUFFIXES, read_pickle

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping


def save_state(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the parameters and buffers of *model*, any module, to *path*; `load_state` reads them.

    The file is there whole or not at all, and the same values always give the same bytes. What ``torch.compile`` and
    ``DataParallel`` put around a model is left out. A tensor that has two names is written under both. Where processes
    have a part of the model each (``fit(strategy="fsdp")``), all have to call this; process 0 writes one ordinary file.

    Raises:
        ValueError: *path* does not end in ".safetensors", or the model's layers have no shape yet.
        TypeError: the model's state has entries that are no dense tensors.
        FileNotFoundError: the folder is not there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_state(nn.Linear(3, 2), Path(folder, "linear.safetensors"))
    """
    write_state(state_of(unwrapped(model)), path)


def write_state(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write *tensors*, a state_dict, to *path*; the errors are those of `save_state`."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    fields = {"kind": "state", "model": "", "config": "{}", "history": "null", "metadata": "{}"}
    write_file(path, tensors, fields)


def write_file(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], fields: Mapping[str, str]) -> None:
    """Write a file; where processes have a part of the tensors each, all call this, and the first writes for all.

    Raises:
        OSError: another process could not write it.
    """
    if not any(map(_parts.is_part, tensors.values())):
        _safetensors.write(path, tensors, fields)
        return
    world = _world.join()
    whole = {}
    for name, tensor in tensors.items():
        made = _parts.whole(tensor)
        if world.first:
            whole[name] = made.cpu()
    error = None
    try:
        if world.first:
            _safetensors.write(path, whole, fields)
    except Exception as e:
        error = e
    told = world.exchange(None if error is None else f"{type(error).__name__}: {error}")[0]
    if error is not None:
        raise error
    if told is not None:
        raise OSError(f"process 0 could not write {str(path)!r}: {told}")


def load_state(model: nn.Module, path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> None:
    """Copy the parameters and buffers in *path* into *model*, all of them or none.

    Reads what `save_state` and `save` write, other safetensors files, and the state_dicts that ``torch.save`` writes
    to .pt, .pth and .pkl. No code in a file is ever run. Of a safetensors file that does not fit, no tensor is read.
    Where a layer's class counts versions (``_version``), a pickle says of which one its values are; a safetensors file
    does not, and its values are taken as they are, as of the code at hand.

    Args:
        model: Any module; what ``torch.compile`` and ``DataParallel`` put around it is seen through.
        path: The file.
        allow_nonfinite: Whether NaN and infinite values are loaded too. A buffer may always hold those that the
            model's own has, such as a mask of -inf.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a parameter or buffer of the model has no memory yet.
        TypeError: one is no dense tensor.
        CheckpointError: the file cannot be trusted, or does not fit the model; the message lists every difference.

    >>> from tempfile import TemporaryDirectory
    >>> model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(model.state_dict(), Path(folder, "linear.pt"))
    ...     load_state(other, Path(folder, "linear.pt"))
    >>> torch.equal(model.weight, other.weight)
    True
    """
    _files.check_file(path)
    suffix, bare = Path(path).suffix, unwrapped(model)
    wanted, name = state_of(bare), type(bare).__name__
    check_memory(wanted)
    if suffix in SUFFIXES:
        tensors = read_pickle(path, sum(tensor.nbytes for tensor in wanted.values()))
        versions = versions_of(tensors)
        _fit.check_kinds(str(path), name, _fit.kinds(wanted), _fit.kinds(tensors))
    elif suffix == ".safetensors":
        with _safetensors.opened(path) as file:
            _fit.check_kinds(str(path), name, _fit.kinds(wanted), kinds_of(file), hint=_hint(file))
            tensors, versions = file.read(), versions_of(wanted)
    else:
        text = f"ends in {suffix!r}; load_state reads .safetensors, {', '.join(SUFFIXES)}"
        raise _files.refuse(path, "unsupported", text)
    _fit.check_values(str(path), name, wanted, tensors, nonfinite=allow_nonfinite)
    with _all_or_nothing(bare):
        fill(str(path), bare, tensors, versions)


def fill(
    path: str, model: nn.Module, tensors: Mapping[str, Tensor], versions: Mapping[str, Any] | None, *, own: bool = True
) -> None:
    """Load *tensors*, which fit, into *model*, by its own code, and see that it has them then.

    Args:
        path: The file that they are of.
        model: Where they go.
        tensors: What is in the file.
        versions: Those of the modules that it was written by.
        own: Whether the code may be anybody's. It gets copies then: what it changes is not to be compared with itself.

    Raises:
        CheckpointError: the code fails or did something else, or the model's memory cannot be written.
    """
    name = type(model).__name__
    try:
        given = {key: tensor.clone() for key, tensor in tensors.items()} if own else tensors
        model.load_state_dict(versioned(given, versions))
        loaded = state_of(model)
    except Exception as e:  # the model's own code refuses, or its memory cannot be written
        raise _fit.mismatch(path, name, [_files.brief(e)]) from e
    _fit.check_loaded(path, name, loaded, tensors)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of *model* by name.

    Raises:
        ValueError: a lazy layer has no shape yet.
        TypeError: the state has an entry that is no tensor.
    """
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} in the model's state is no tensor but {type(value).__name__}; it has no place")
        if is_lazy(value):
            raise ValueError(f"{name!r} has no shape yet; run the model on a batch first")
    return state


def check_memory(state: Mapping[str, Tensor]) -> None:
    """Check that all of *state* is in memory, and dense.

    Raises:
        ValueError: a tensor is on the device "meta", where copying to it does nothing.
        TypeError: a tensor is of another layout.
    """
    for name, value in state.items():
        if value.layout != torch.strided:
            raise TypeError(f"{name!r} is a tensor ({value.layout}) that no file has; only dense ones can be loaded")
        if value.is_meta:
            raise ValueError(
                f"{name!r} is on the device 'meta', without memory; call model.to_empty(device='cpu') first"
            )


def kinds_of(file: _safetensors.File) -> dict[str, _fit.Kind]:
    """Return dtype and shape by name of what is in the *file*."""
    return {name: (_safetensors.DTYPES[slot.dtype], slot.shape) for name, slot in file.slots.items()}


def _hint(file: _safetensors.File) -> str:
    name = (file.fields or {}).get("model", "")
    return f"it holds the whole model {_safetensors.shown(name)}, which io.load makes" if name else ""


@contextlib.contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Put back all parameters and buffers, the tensors and their values, where the block fails half-way."""
    holders = [(h, dict(h)) for m in model.modules() for h in (m._parameters, m._buffers)]
    values = [(t, t.detach().clone()) for _, h in holders for t in h.values() if t is not None]
    try:
        yield
    except BaseException:
        for holder, before in holders:
            holder.clear()
            holder.update(before)  # type: ignore[arg-type]  # what was in it
        for tensor, value in values:
            with contextlib.suppress(RuntimeError):  # memory that cannot be written has not changed
                tensor.data.copy_(value)
        raise
