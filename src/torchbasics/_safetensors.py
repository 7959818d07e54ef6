"""The safetensors files that the library writes, and the strict reading of those and others.

A file of ours is a safetensors file whose metadata has one ``torchbasics.*`` key for each of `FIELDS`. The header has
one spelling (`_encode`), and the digest is the SHA-256 of that header, the digest itself written as zeros, and of the
SHA-256 of each piece of each tensor (`PIECE` bytes, in the order of the file); so no byte can change unnoticed, the
same content always gives the same bytes, and a large file is hashed by all cores while it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from torchbasics._files import CheckpointError, Reason, atomic_write, check_file, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

FORMAT = "1"
FIELDS = ("config", "digest", "format", "history", "kind", "metadata", "model")
PREFIX = "torchbasics."
HEADER_LIMIT = 10_000_000  # bytes: a hundred thousand tensors; what JSON makes of so many stays below 1 GB
PIECE = 2**22  # bytes: with fewer, threads spend more time waking each other
SMALL = PIECE  # bytes up to which threads cost more than they save
DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "U8": torch.uint8,
}
OTHER_DTYPES = ("C64", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")  # safetensors has them


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a file: its dtype's name, its shape, and its bytes, counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class File:
    """An open safetensors file whose header has been checked; the tensors are still to be read.

    Attributes:
        slots: What tensors there are, by name, in the order of the file.
        fields: What a file of ours says of itself, by `FIELDS`; None in any other file.
    """

    def __init__(self, path: str, file: io.FileIO) -> None:
        self.path, self._file, self._read = path, file, False
        self.slots, metadata, self._header = _header(path, file)
        self.fields = _fields(path, metadata)

    def read(self, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Read all tensors, once: what is hashed and checked is the memory that is returned.

        Args:
            into: Contiguous tensors on the CPU, of the right dtype and shape, to read into; others are made.

        Raises:
            CheckpointError: the digest does not hold, or the file has changed since it was opened.
        """
        into = into or {}
        _expect(self._file)
        tensors = {
            name: into[name] if name in into else torch.empty(slot.shape, dtype=DTYPES[slot.dtype], device="cpu")
            for name, slot in self.slots.items()
        }
        pieces = (piece for tensor in tensors.values() for piece in _pieces(tensor))
        self._check(self._filled(pieces))
        for name, tensor in tensors.items():
            if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
                raise refuse(self.path, "damaged", f"is damaged: {shown(name)} has truth values other than 0 and 1")
        return tensors

    def verify(self) -> bool | None:
        """Tell whether the digest holds, in little memory; None where there is none.

        Raises:
            CheckpointError: the file has changed since it was opened.
        """
        if self.fields is None:
            return None
        self._file.seek(len(self._header))
        buffer = memoryview(bytearray(PIECE))
        sizes = (min(PIECE, s.stop - at) for s in self.slots.values() for at in range(s.start, s.stop, PIECE))
        return self._holds(map(_sha256, self._filled(buffer[:size] for size in sizes)))

    def explain(self, error: CheckpointError) -> CheckpointError:
        """Return *error*, or the one for a damaged file, which is the cause of whatever else seems wrong with it."""
        return error if self._read or self.verify() is not False else self._damaged()

    def _check(self, pieces: Iterable[memoryview]) -> None:
        self._read = True
        if self.fields is None:
            for _ in pieces:
                pass
        elif not self._holds(_hashed(pieces, max((slot.stop for slot in self.slots.values()), default=0))):
            raise self._damaged()

    def _holds(self, leaves: Iterable[bytes]) -> bool:
        fields = self.fields or {}
        root = _root(_encode(self.slots, {**fields, "digest": "0" * 64}), leaves)
        return self._header == _encode(self.slots, fields) and fields["digest"] == root  # another spelling is not ours

    def _damaged(self) -> CheckpointError:
        text = "is damaged: its digest does not match its content (altered or badly copied)"
        return refuse(self.path, "damaged", text)

    def _filled(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            have = 0
            while have < len(piece):
                got = self._file.readinto(piece[have:])
                if not got:
                    raise refuse(self.path, "truncated", "is truncated: it became shorter while it was read")
                have += got
            yield piece


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[File]:
    """Open a safetensors file, ours or another's, and check all that its header tells.

    Where the block refuses the file before it was read, and its digest does not hold, that is the error.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the header cannot be trusted.
    """
    check_file(path)
    with Path(path).open("rb", buffering=0) as raw:
        file = File(str(path), raw)
        try:
            yield file
        except CheckpointError as e:
            error = file.explain(e)
            if error is e:
                raise
            raise error from e


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], fields: Mapping[str, str]) -> None:
    """Write *tensors* and *fields* (all of `FIELDS` but format and digest) to *path*, atomically.

    It takes the memory of a few pieces more, and of a whole tensor where that is not dense in memory.

    Raises:
        TypeError: a tensor cannot be written: sparse, without data, or of a rare dtype.
        ValueError: a name cannot be written, or all that is no tensor is too long.
    """
    for name in sorted(tensors):
        _check_writable(name, tensors[name])
    slots, end = {}, 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):  # widest first: all are aligned
        start, end = end, end + _size(tensors[name])
        slots[name] = Slot(_dtype_name(tensors[name]), tuple(tensors[name].shape), start, end)
    known = {**fields, "format": FORMAT}
    header = _encode(slots, {**known, "digest": "0" * 64})
    if len(header) > HEADER_LIMIT:
        text = f"names, config, history and metadata take {len(header)} bytes; at most {HEADER_LIMIT} can be written"
        raise ValueError(f"{text}; keep the rest in another file")
    with atomic_write(path) as file:
        file.write(header)
        groups = list(_together(tensors))
        places = [[len(header) + slots[name].start for name in names] for names in groups]
        pieces = (_written(file, tensors[names[0]], at) for names, at in zip(groups, places, strict=True))
        hashes = iter(_hashed(itertools.chain.from_iterable(pieces), end))
        leaves: dict[str, list[bytes]] = {}
        for names in groups:
            of_one = list(itertools.islice(hashes, -(-_size(tensors[names[0]]) // PIECE)))
            leaves |= dict.fromkeys(names, of_one)
        digest = _root(header, (leaf for name in slots for leaf in leaves[name]))
        file.seek(0)
        file.write(_encode(slots, {**known, "digest": digest}))


def _expect(file: io.FileIO) -> None:
    """Let the system begin to read the whole *file*, while this process makes and hashes the first tensors."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # advice alone
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _header(path: str, file: io.FileIO) -> tuple[dict[str, Slot], dict[str, str], bytes]:
    """Read and check the header; return what it says, and its bytes."""
    size = os.fstat(file.fileno()).st_size
    begin = file.read(9)
    if len(begin) < 8:
        raise refuse(path, "truncated", f"is truncated: it has {len(begin)} bytes")
    length = int.from_bytes(begin[:8], "little")
    if length > 2**32 or begin[8:9] not in (b"{", b" ", b""):
        text = "is no safetensors file; give one that io.save or `torchbasics train` wrote"
        raise refuse(path, "not-a-checkpoint", text)
    if 8 + length > size:
        raise refuse(path, "truncated", f"is truncated: its header has {length} bytes, the file {size}")
    if length > HEADER_LIMIT:
        raise refuse(path, "too-large", f"has a header of {length} bytes; at most {HEADER_LIMIT} are read")
    header = begin[:8] + begin[8:] + file.read(length - 1) if length else begin[:8]
    try:
        slots, metadata = _decode(header[8:])
        _check_layout(slots)
    except (ValueError, RecursionError) as e:
        raise refuse(path, "damaged", f"is damaged: its header is wrong ({e})") from e
    other = [name for name, slot in slots.items() if slot.dtype in OTHER_DTYPES]
    if other:
        text = f"holds {shown(other[0])} of dtype {slots[other[0]].dtype}; read are {', '.join(DTYPES)}"
        raise refuse(path, "unsupported", text)
    end = max((slot.stop for slot in slots.values()), default=0)
    have = size - 8 - length
    if have != end:
        reason: Reason = "truncated" if have < end else "damaged"
        raise refuse(path, reason, f"is {reason}: its tensors have {end} bytes, the file has {have} for them")
    return slots, metadata, header


def _encode(slots: Mapping[str, Slot], fields: Mapping[str, str]) -> bytes:
    """Return the one way to write a header: keys sorted, no spaces but those that pad it to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {PREFIX + key: fields[key] for key in sorted(fields)}}
    for name, slot in sorted(slots.items()):
        entries[name] = {"dtype": slot.dtype, "shape": slot.shape, "data_offsets": (slot.start, slot.stop)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _decode(header: bytes) -> tuple[dict[str, Slot], dict[str, str]]:
    entries = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(entries, dict):
        raise ValueError("not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("metadata other than text")
    slots = {name: _slot(name, entry) for name, entry in entries.items()}
    return dict(sorted(slots.items(), key=lambda item: (item[1].start, item[1].stop, item[0]))), metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands in it twice")
    return made


def _slot(name: str, entry: Any) -> Slot:
    if not _is_name(name):
        raise ValueError(f"{shown(name)} is no tensor's name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {shown(name)} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not all(isinstance(part, list) and all(type(n) is int and n >= 0 for n in part) for part in (shape, offsets)):
        raise ValueError(f"shape or data_offsets of {shown(name)} are not whole numbers")
    if not isinstance(dtype, str) or dtype not in (*DTYPES, *OTHER_DTYPES):
        raise ValueError(f"{shown(name)} has the unknown dtype {shown(str(dtype))}")
    if len(shape) > 64 or math.prod(n for n in shape if n) >= 2**48:  # torch's own limit; beyond any memory
        raise ValueError(f"{shown(name)} has an impossible shape")
    if len(offsets) != 2 or (dtype in DTYPES and offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize):
        raise ValueError(f"the bytes of {shown(name)} do not fit its shape")
    return Slot(dtype, tuple(shape), offsets[0], offsets[1])


def _check_layout(slots: Mapping[str, Slot]) -> None:
    end = 0
    for name, slot in slots.items():
        if slot.start != end or slot.stop < end:
            raise ValueError(f"{shown(name)} does not begin where the tensor before it ends")
        end = slot.stop


def shown(name: str) -> str:
    """Return *name* in quotes, at a length for messages; a file's author chose it."""
    return repr(name if len(name) <= 100 else f"{name[:80]}...")


def _is_name(name: str) -> bool:
    """Tell whether a terminal shows the whole of *name* as it is: no control characters, no lone surrogates."""
    return bool(name) and name.isprintable() and name != "__metadata__"


def _fields(path: str, metadata: Mapping[str, str]) -> dict[str, str] | None:
    fields = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    if not fields:
        return None
    if fields.get("format", FORMAT) != FORMAT:
        text = f"has format version {shown(fields['format'])}, this torchbasics reads {FORMAT!r}; update torchbasics"
        raise refuse(path, "format-version", text)
    missing = [name for name in FIELDS if name not in fields]
    if missing or len(fields) != len(FIELDS):
        problem = f"lacks {PREFIX}{missing[0]}" if missing else "has unknown torchbasics keys"
        raise refuse(path, "damaged", f"is damaged: its metadata {problem}")
    return fields


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the memory of a contiguous *tensor*, `PIECE` bytes at a time."""
    whole = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(whole), PIECE):
        yield whole[start : start + PIECE]


def _hashed(pieces: Iterable[memoryview], size: int) -> Iterable[bytes]:
    """Return the hash of each of the *pieces*, *size* bytes in all; this thread gets the next while others hash."""
    if size <= SMALL:
        return map(_sha256, pieces)
    workers = min(8, os.cpu_count() or 1)
    leaves: list[bytes] = []
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[bytes]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(_sha256, piece))
            if len(waiting) > 2 * workers:  # no more pieces in memory than keep all of them at work
                leaves.append(waiting.popleft().result())
    return [*leaves, *(future.result() for future in waiting)]


def _sha256(piece: memoryview) -> bytes:
    return hashlib.sha256(piece).digest()


def _root(header: bytes, leaves: Iterable[bytes]) -> str:
    digest = hashlib.sha256(header)
    for leaf in leaves:
        digest.update(leaf)
    return digest.hexdigest()


def _check_writable(name: str, tensor: Tensor) -> None:
    if not _is_name(name):
        raise ValueError(f"a tensor has the name {name!r}, which cannot be written; use printable characters")
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.dtype not in DTYPES.values():
        kind = f"{tensor.layout}, {tensor.dtype}, {tensor.device}".replace("torch.", "")
        raise TypeError(f"{name!r} is a tensor ({kind}) that cannot be written; only dense ones of common dtypes can")


def _together(tensors: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Return the names, those of one tensor together: they get one copy of it, whatever a thread writes meanwhile."""
    names: dict[tuple[Any, ...], list[str]] = {}
    for name, t in tensors.items():
        key = (t.device, t.data_ptr(), t.dtype, t.shape, t.stride(), t.is_neg()) if t.numel() else (name,)
        names.setdefault(key, []).append(name)
    return names.values()


def _written(file: BinaryIO, tensor: Tensor, places: Sequence[int]) -> Iterator[memoryview]:
    """Copy *tensor* piece by piece, row by row, write each piece to all *places*, and yield it to be hashed.

    What is written is what is hashed, although the tensor's own memory may change at any time.
    """
    flat = tensor.detach().resolve_neg().reshape(-1)  # of dense tensors a view
    step = PIECE // tensor.element_size()
    for start in range(0, len(flat), step):
        piece = flat[start : start + step].to("cpu", copy=True).view(torch.uint8).numpy().data
        for place in places:
            file.seek(place + start * tensor.element_size())
            file.write(piece)
        yield piece


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _dtype_name(tensor: Tensor) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype == tensor.dtype)
