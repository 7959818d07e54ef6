"""Checkpoints of a run whose processes have a part of the tensors each: every process writes and reads its own.

The parts go through ``torch.distributed.checkpoint``, whose planner finds for any number of processes who needs what.
Its ``.metadata`` is not used: that is a pickle, and reading one runs whatever code a stranger has put there. What it
says, which part of which tensor lies where, is plain data in ``state.pt`` instead, under "parts"; the parts themselves
are tensors that torch reads with ``weights_only``. All files are in the manifest, by size and SHA-256.

In the state, a tensor in parts is ``{"torchbasics.part": key, "shape": ..., "dtype": ...}``.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics import _files, _parts
from torchbasics._model import COMPILED, unwrapped, versioned, versions_of
from torchbasics.training import _store

if TYPE_CHECKING:
    from torchbasics._world import World
    from torchbasics.training._step import Step

PART = "torchbasics.part"
PARTS = "parts"

Place = tuple[Any, ...]  # the keys that lead to a value in a nested state


def write(path: Path, state: Mapping[str, Any], step: int, world: World) -> None:
    """Write the checkpoint *path*, by process 0, and where *state* has tensors in parts by all, who have to call this.

    It gets its name when all is written and verified, and else there is nothing.

    Raises:
        OSError: it could not be written, by this process or another one.
        CheckpointError: what was read back is not what was written, or cannot be read without running code.
    """
    found: dict[str, Tensor] = {}
    plain = _changed(state, lambda place, value: _taken(found, place, value))
    if not found:
        if world.first:
            _store.write(path, state, step)
        return
    temporary = world.by_all(lambda: _store.begin(path) if world.first else None)[0]
    try:
        described = world.by_all(lambda: _save(temporary, found))[0]
        mine = world.by_all(lambda: {p.name: _store.told(p) for p in temporary.glob(f"__{world.rank}_*")})
        files = {name: said for part in mine for name, said in part.items()}
        whole = {**plain, PARTS: described}
        world.by_all(lambda: _store.finish(temporary, path, whole, step, files) if world.first else None)
    except BaseException:
        if world.first:
            _store.discard(temporary)
        raise


def loaded(path: Path, state: Mapping[str, Any], like: Callable[[Place], Tensor | None] | None = None) -> Any:
    """Return *state*, of the checkpoint *path*, with its tensors; all processes have to call it.

    Args:
        path: The checkpoint.
        state: What `torchbasics.training._store.read` returned, or a part of it with its "parts".
        like: Returns for the place of a tensor one that is in parts as it is to be; None = it is to be whole.

    Raises:
        CheckpointError: a part is missing.
    """
    wanted: dict[str, Tensor] = {}
    like = like or (lambda place: None)

    def prepared(place: Place, value: Any) -> Any:
        model = like(place)
        if not is_told(value):
            fits = isinstance(value, Tensor) and model is not None and value.shape == model.shape
            return _parts.cut(value, model) if fits else value
        shape, dtype = value["shape"], value["dtype"]
        if model is not None and tuple(model.shape) == tuple(shape):
            made = torch.empty_like(model, dtype=dtype)
        else:
            made = torch.empty(shape, dtype=dtype)
        wanted[value[PART]] = made.detach()
        return wanted[value[PART]]

    made = _changed({name: value for name, value in state.items() if name != PARTS}, prepared)
    if wanted:
        _load(path, state, wanted)
    return made


def places(model: nn.Module, step: Step) -> Callable[[Place], Tensor | None]:
    """Return what says how a tensor at a place in a run's state is cut: as its parameter, in parts or not."""
    parameters = unwrapped(model).named_parameters(remove_duplicate=False)
    named = {name.replace(COMPILED, ""): p for name, p in parameters if _parts.is_part(p)}

    def like(place: Place) -> Tensor | None:
        if not named:
            return None
        if place[:2] == ("step", "optimizers") and len(place) == 6 and place[3] == "state":
            groups = step.optimizers[place[2]].param_groups
            held = [p for group in groups for p in group["params"]]
            return held[place[4]] if place[4] < len(held) and _parts.is_part(held[place[4]]) else None
        return named.get(place[-1])

    return like


def check(path: Path, state: Mapping[str, Any]) -> None:
    """See that what *state*, of the checkpoint *path*, says of tensors in parts has the form that `write` gives it.

    Raises:
        CheckpointError: it has another.
    """

    def look(place: Place, value: Any) -> Any:
        if is_told(value):
            shape, dtype = value.get("shape"), value.get("dtype")
            sizes = isinstance(shape, (tuple, list)) and all(isinstance(n, int) and n >= 0 for n in shape)
            if not (isinstance(value[PART], str) and sizes and isinstance(dtype, torch.dtype)):
                text = f"is damaged: what it says of the tensor {'/'.join(map(str, place))} is wrong ({value!r})"
                raise _files.refuse(path, "damaged", text)
        return value

    _changed(state, look)


def is_told(value: Any) -> bool:
    """Whether *value* stands for a tensor in parts."""
    return isinstance(value, dict) and PART in value


def _taken(found: dict[str, Tensor], place: Place, value: Any) -> Any:
    if not _parts.is_part(value):
        return value
    key = f"{len(found)} {'/'.join(map(str, place))}"
    found[key] = value.detach()
    return {PART: key, "shape": tuple(value.shape), "dtype": value.dtype}


def _changed(value: Any, change: Callable[[Place, Any], Any], place: Place = ()) -> Any:
    """Return a nested *value* with what *change* makes of its leaves; what stays as it is is not copied."""
    if type(value) in (dict, OrderedDict) and not is_told(value):
        inner = {key: _changed(part, change, (*place, key)) for key, part in value.items()}
        if all(inner[key] is part for key, part in value.items()):
            return value
        return inner if type(value) is dict else versioned(inner, versions_of(value))
    if type(value) in (list, tuple):
        parts = [_changed(part, change, (*place, i)) for i, part in enumerate(value)]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    return change(place, value)


@dataclass
class _Slot:
    """Where a part lies, for torch's reader."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: tuple[str, ...]


def _save(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Let each process write its parts to a file of its own; return, in process 0, what lies where."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    described: dict[str, Any] = {}

    class Writer(FileSystemWriter):
        def finish(self, metadata: Any, results: Any) -> None:  # in process 0
            slots = {(r.index.fqn, tuple(r.index.offset)): r.storage_data for written in results for r in written}
            for key, kept in metadata.state_dict_metadata.items():
                chunks = []
                for chunk in kept.chunks:
                    slot = slots[key, tuple(chunk.offsets)]
                    lies = (slot.relative_path, slot.offset, slot.length)
                    how = tuple(getattr(slot, "transform_descriptors", None) or ())
                    chunks.append([tuple(chunk.offsets), tuple(chunk.sizes), *lies, how])
                described[key] = [tuple(kept.size), kept.properties.dtype, chunks]

    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    _run(lambda: save(tensors, storage_writer=Writer(folder), planner=planner))
    return described


def _load(path: Path, state: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Read *tensors*, or the parts of them that this process has."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        StorageMeta,
        TensorProperties,
        TensorStorageMetadata,
    )
    from torch.distributed.checkpoint.state_dict_loader import load

    kept: dict[str, Any] = {}
    slots: dict[Any, _Slot] = {}
    try:
        for key in tensors:
            size, dtype, chunks = state[PARTS][key]
            kept[key] = TensorStorageMetadata(
                TensorProperties(dtype=dtype),
                torch.Size(size),
                [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes, *_ in chunks],
            )
            for offsets, _, name, *slot in chunks:
                if Path(name).name != name or not (path / name).is_file():
                    raise ValueError(f"it names the file {name!r}")
                slots[MetadataIndex(key, torch.Size(offsets))] = _Slot(name, *slot)
    except (KeyError, TypeError, ValueError) as e:
        raise _files.refuse(
            path, "damaged", f"is damaged: what it says of the parts of tensors is wrong ({e!r})"
        ) from e

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # and not a pickle
            return Metadata(kept, storage_data=slots, storage_meta=StorageMeta())

    class Planner(DefaultLoadPlanner):
        def load_bytes(self, _item: Any, value: Any) -> None:  # torch's would unpickle them
            raise _files.refuse(path, "unsafe", "holds what is no tensor among the parts of tensors")

    planner = Planner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        _run(lambda: load(tensors, storage_reader=Reader(path), planner=planner))
    except RuntimeError as e:  # the digests hold: somebody made it so
        raise _files.refuse(path, "unsafe", f"holds what is no part of a tensor: {e}") from None


def _run(do: Callable[[], object]) -> None:
    """Call a function of torch's that gathers the errors of all processes; raise the first, or that it was another's.

    Raises:
        OSError: a disk.
        RuntimeError: anything else.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to", category=UserWarning)
        try:
            do()
        except CheckpointException as e:
            rank, (error, _) = min(e.failures.items())
            kind = OSError if isinstance(error, OSError) else RuntimeError
            raise kind(f"process {rank} failed: {type(error).__name__}: {_files.brief(error)}") from None
