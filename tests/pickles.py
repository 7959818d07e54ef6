"""Files as ``torch.save`` would not write them: pickles put together by hand, in zip archives and without."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def text(value: str) -> bytes:
    """The opcode of a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """The opcode of a whole number."""
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(*values: int) -> bytes:
    """The opcodes of a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def name(full: str) -> bytes:
    """The opcode that asks for a class or function."""
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(function: str, *arguments: bytes) -> bytes:
    """The opcodes of a call."""
    return name(function) + b"(" + b"".join(arguments) + b"tR"


def storage(numel: int, key: str = "0", of: str = "torch.FloatStorage", legacy: bool = False) -> bytes:
    """The opcodes of a storage in the file."""
    return b"(" + text("storage") + name(of) + text(key) + text("cpu") + number(numel) + b"N" * legacy + b"tQ"


def tensor(
    numel: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, *, stored: bytes | None = None,
    legacy: bool = False, hooks: bytes = b"",
) -> bytes:  # fmt: skip
    """The opcodes of a tensor of float32 in a storage of *numel*."""
    hooks = hooks or call("collections.OrderedDict")
    stored = storage(numel, legacy=legacy) if stored is None else stored
    return call(
        "torch._utils._rebuild_tensor_v2", stored, number(offset), numbers(*shape), numbers(*stride), b"\x89", hooks
    )


def web(levels: int) -> bytes:
    """The opcodes of a tuple that has one and the same object ``2**levels`` times in it."""
    return b"K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))


def dictionary(**items: bytes) -> bytes:
    """The opcodes of a dict."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def stream(body: bytes) -> bytes:
    """A pickle."""
    return b"\x80\x02" + body + b"."


def write_zip(
    path: Path, body: bytes, storages: Mapping[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a pickle and its storages as torch 1.6 and later do."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", stream(body))
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, body: bytes, storages: Mapping[str, bytes] | None = None, itemsize: int = 4) -> Path:
    """Write a pickle and its storages as torch did before 1.6."""
    out = io.BytesIO()
    out.write(MAGIC + pickle.dumps(1001, 2) + pickle.dumps(SYSTEM, 2) + stream(body))
    out.write(pickle.dumps(list(storages or {}), 2))
    for content in (storages or {}).values():
        out.write(struct.pack("<q", len(content) // itemsize) + content)
    path.write_bytes(out.getvalue())
    return path
