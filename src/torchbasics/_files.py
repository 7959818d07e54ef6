"""Files: written whole or not at all, and read with suspicion.

A file of ours is a safetensors file whose metadata has one ``torchbasics.*`` key for each of `FIELDS`. The header has
one spelling (`_encode`), and the digest is the SHA-256 of the whole file with the digest itself written as zeros; so
no byte can change unnoticed, and the same content always gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FORMAT = "1"
FIELDS = ("config", "digest", "format", "history", "kind", "metadata", "model")
PREFIX = "torchbasics."
HEADER_LIMIT = 100_000_000  # bytes; safetensors' own
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
    "U8": torch.uint8,
}

Reason = Literal[
    "not-a-checkpoint",
    "damaged",
    "truncated",
    "format-version",
    "unsafe",
    "whole-model-pickle",
    "mismatch",
    "too-large",
    "unsupported",
]


class CheckpointError(ValueError):
    """A file was refused; nothing in the process has changed.

    Attributes:
        reason: Why, as one of a few words that stay the same from release to release.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message, reason)
        self.reason: Reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of *path* at the end of the block, and only then.

    After an error in the block, or a crash at any moment, *path* is what it was before. A symbolic link stays and the
    file it names is replaced; the new file has the mode of the old one, or that of the umask.

    Raises:
        FileNotFoundError: the folder is not there.
        ValueError: *path* is there and is no regular file.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {str(target.parent)!r} for {target.name!r}; make it first")
    if target.exists() and not target.is_file():
        raise ValueError(f"{str(path)!r} is no regular file; give the path of a file")
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"  # same folder: a rename across disks is a copy
    try:
        with temporary.open("xb") as file:
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in *folder* to the disk, where a system has a call for that."""
    if os.name == "nt":  # pragma: no cover  # Windows cannot open a folder, and needs no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a file: its dtype's name, its shape, and its bytes, counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Content:
    """A safetensors file, read once.

    Attributes:
        fields: What a file of ours says of itself, by `FIELDS`; None in any other file.
        intact: Whether the digest holds; None where there is none.
    """

    path: str
    slots: dict[str, Slot]
    fields: dict[str, str] | None
    intact: bool | None
    data: bytes

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors, on the CPU.

        Raises:
            CheckpointError: safetensors itself refuses the file.
        """
        try:
            return safetensors.torch.load(self.data)
        except (safetensors.SafetensorError, TypeError) as e:  # what our own reading lets through
            raise refuse(self.path, "damaged", f"is damaged: {e}") from e


def refuse(path: str | os.PathLike[str], reason: Reason, text: str) -> CheckpointError:
    """Return the error for the file *path*."""
    return CheckpointError(f"{str(path)!r} {text}", reason)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], fields: Mapping[str, str]) -> None:
    """Write *tensors* and *fields* (all of `FIELDS` but format and digest) to *path*, atomically.

    Raises:
        TypeError: a tensor cannot be written: sparse, without data, or of a rare dtype.
    """
    arrays = {name: _array(name, tensors[name]) for name in sorted(tensors, key=lambda n: (_width(tensors[n]), n))}
    slots, end = {}, 0
    for name, array in arrays.items():
        slots[name] = Slot(_dtype_name(tensors[name]), tuple(tensors[name].shape), end, end + array.numel())
        end += array.numel()
    known = {**fields, "format": FORMAT}
    digest = _digest(_encode(slots, {**known, "digest": "0" * 64}), *(a.numpy() for a in arrays.values()))
    with atomic_write(path) as file:
        file.write(_encode(slots, {**known, "digest": digest}))
        for array in arrays.values():
            file.write(array.numpy().data)


def read(path: str | os.PathLike[str], *, verify: bool = True) -> Content:
    """Read a safetensors file, ours or another's, and check all that can be checked without a model.

    Args:
        path: The file.
        verify: Whether a digest that does not hold is an error; else `Content.intact` says so.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file cannot be trusted.
    """
    check_file(path)
    content = Path(path).read_bytes()  # once: what is checked is then what is used, whatever happens to the file
    if len(content) < 8:
        raise refuse(path, "truncated", f"is truncated: it has {len(content)} bytes")
    length = int.from_bytes(content[:8], "little")
    if length > HEADER_LIMIT or content[8:9] not in (b"{", b" ", b""):
        raise refuse(
            path, "not-a-checkpoint", "is no safetensors file; give one that io.save or `torchbasics train` wrote"
        )
    if 8 + length > len(content):
        raise refuse(path, "truncated", f"is truncated: its header has {length} bytes, the file {len(content)}")
    try:
        slots, metadata = _decode(content[8 : 8 + length])
        _check_layout(slots)
    except (ValueError, RecursionError) as e:
        raise refuse(path, "damaged", f"is damaged: its header is wrong ({e})") from e
    end = max((slot.stop for slot in slots.values()), default=0)
    have = len(content) - 8 - length
    if have != end:
        reason: Reason = "truncated" if have < end else "damaged"
        raise refuse(path, reason, f"is {reason}: its tensors have {end} bytes, the file has {have} for them")
    fields = _fields(path, metadata)
    intact = None if fields is None else _holds(content, length, slots, fields)
    if verify and intact is False:
        raise refuse(path, "damaged", "is damaged: its digest does not match its content (altered or badly copied)")
    return Content(str(path), slots, fields, intact, content)


def check_file(path: str | os.PathLike[str]) -> None:
    """Check that *path* is a file.

    Raises:
        FileNotFoundError: there is nothing.
        CheckpointError: it is something else, such as a folder.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no file {str(path)!r}")
    if not Path(path).is_file():
        raise refuse(path, "not-a-checkpoint", "is no regular file")


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
    return {name: _slot(name, entry) for name, entry in entries.items()}, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands in it twice")
    return made


def _slot(name: str, entry: Any) -> Slot:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name!r} is not dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not all(isinstance(part, list) and all(type(n) is int and n >= 0 for n in part) for part in (shape, offsets)):
        raise ValueError(f"shape or data_offsets of {name!r} are not whole numbers")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ValueError(f"{name!r} has the unknown dtype {entry['dtype']!r}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[entry["dtype"]].itemsize:
        raise ValueError(f"the bytes of {name!r} do not fit its shape")
    if len(shape) > 64 or any(n >= 2**48 for n in shape):  # torch's own limit; beyond any memory
        raise ValueError(f"{name!r} has an impossible shape")
    return Slot(entry["dtype"], tuple(shape), offsets[0], offsets[1])


def _check_layout(slots: Mapping[str, Slot]) -> None:
    end = 0
    for name, slot in sorted(slots.items(), key=lambda item: (item[1].start, item[1].stop)):
        if slot.start != end:
            raise ValueError(f"{name!r} does not begin where the tensor before it ends")
        end = slot.stop


def _fields(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, str] | None:
    fields = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    if not fields:
        return None
    if fields.get("format", FORMAT) != FORMAT:
        text = f"has format version {fields['format']!r}, this torchbasics reads {FORMAT!r}; update torchbasics"
        raise refuse(path, "format-version", text)
    missing = [name for name in FIELDS if name not in fields]
    if missing or len(fields) != len(FIELDS):
        problem = f"lacks {PREFIX}{missing[0]}" if missing else "has unknown torchbasics keys"
        raise refuse(path, "damaged", f"is damaged: its metadata {problem}")
    return fields


def _holds(content: bytes, length: int, slots: Mapping[str, Slot], fields: Mapping[str, str]) -> bool:
    if content[: 8 + length] != _encode(slots, fields):  # another spelling of the header is not ours
        return False
    return fields["digest"] == _digest(
        _encode(slots, {**fields, "digest": "0" * 64}), memoryview(content)[8 + length :]
    )


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, Any]], *, limit: int | None = None) -> str:
    """Return one SHA-256 of names, dtypes, shapes and values, wherever the tensors lie and in whatever layout.

    Args:
        tensors: Names and tensors; what is no tensor counts by its ``repr``.
        limit: Bytes of a tensor beyond which every k-th row stands for all, so that this stays quick.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type == "meta":
            digest.update(f"{name} {tensor!r}\n".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        bytes_all = tensor.numel() * tensor.element_size()
        part = tensor[:: -(-bytes_all // limit)] if limit is not None and bytes_all > limit else tensor
        digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _array(name: str, tensor: Tensor) -> Tensor:
    """Return the bytes of *tensor*, row by row, as a flat uint8 tensor."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.dtype not in DTYPES.values():
        kind = f"{tensor.layout}, {tensor.dtype}, {tensor.device}".replace("torch.", "")
        raise TypeError(f"{name!r} is a tensor ({kind}) that cannot be written; only dense ones of common dtypes can")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _width(tensor: Tensor) -> int:
    return -tensor.element_size()  # widest first, so that every tensor is aligned


def _dtype_name(tensor: Tensor) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype == tensor.dtype)
