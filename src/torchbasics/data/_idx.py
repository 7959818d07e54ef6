"""The IDX format of MNIST and its kin, read strictly: any deviation is an error.

References: Yann LeCun, Corinna Cortes, Christopher Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_UINT8 = 0x08  # the format's code for unsigned bytes, the type of every MNIST-like file


def read_bytes(path: Path) -> bytearray:
    """Return the content of *path*, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: it is no gzip file, or a truncated or altered one.
    """
    if path.suffix != ".gz":
        return bytearray(path.read_bytes())
    try:
        return bytearray(gzip.decompress(path.read_bytes()))
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        reason = str(e).lower().rstrip(".")
        raise ValueError(f"{str(path)!r} is damaged ({reason}); replace it by a fresh copy") from e


def parse(content: bytearray, path: Path) -> Tensor:
    """Return the uint8 tensor that the IDX file *content*, read from *path*, holds; they share memory.

    The format: two zero bytes, the type's code, the number of dimensions, each size (big-endian uint32), the values.

    Raises:
        ValueError: anything but exactly this, or another type than unsigned bytes.

    >>> from pathlib import Path
    >>> parse(bytearray([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), Path("labels"))
    tensor([7, 8, 9], dtype=torch.uint8)
    """
    where = repr(str(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise ValueError(f"{where} is not an IDX file: it begins with {bytes(content[:4])!r}; expected two zero bytes")
    if content[2] != _UINT8:
        raise ValueError(f"{where} holds IDX type 0x{content[2]:02x}; only unsigned bytes, 0x08, are read")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{where} is truncated: its header needs {start} bytes, it has {len(content)}")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    if 0 in shape:
        raise ValueError(f"{where} is empty: its shape is {shape!r}")
    size = start + math.prod(shape)
    if len(content) != size:
        raise ValueError(f"{where} has {len(content)} bytes, but its shape {shape!r} needs {size}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(shape)
