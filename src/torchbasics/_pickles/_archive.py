"""The two containers of ``torch.save``: where the pickle and the storages lie, and nothing between or after them."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass

from ._machine import Wrong

# What is before the pickle of the format without zip, which torch wrote before 1.6: a number, as a pickle.
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
MEMBERS = re.compile(
    r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d{1,20}"
)
DESCRIPTORS = (0, 16, 24)  # bytes that may follow a member: its size and CRC once more


@dataclass(frozen=True)
class Archive:
    """A zip file that was checked.

    Attributes:
        pickle: The pickle in it.
        sizes: The size of each storage by its key.
        content: The same parts in an archive written anew. torch's own reader of archives goes by fields that ours does
            not: with a folder's attribute on a part, it reads nothing and returns memory as it finds it.
    """

    pickle: bytes
    sizes: dict[str, int]
    content: bytes


def read_zip(content: bytes) -> Archive:
    """Look through a zip file: members that torch writes, each once, not compressed, side by side, with their CRC.

    Raises:
        Wrong: something else is found.
    """
    if len(content) < 22 or content[-22:-18] != b"PK\5\6" or content[-2:] != b"\0\0":
        found = content.rfind(b"PK\5\6")
        if found < 0:
            raise Wrong("truncated", "is truncated: the table of contents at its end is missing")
        raise Wrong("damaged", f"is damaged: its zip archive does not end with the file (but at byte {found + 22})")
    try:
        members = _members(content)
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        NotImplementedError,
        EOFError,
        IndexError,
        OverflowError,
    ) as e:
        raise Wrong("damaged", f"is damaged: its zip archive cannot be read ({e})") from e
    for name, (start, stop, crc) in members.items():
        if zlib.crc32(memoryview(content)[start:stop]) != crc:
            raise Wrong("damaged", f"is damaged: the CRC of its part {name!r} does not hold")
    if "data.pkl" not in members:
        raise Wrong("not-a-checkpoint", "is no state_dict that torch can read, but a zip archive without data.pkl")
    start, stop, _ = members["data.pkl"]
    sizes = {name[5:]: stop - start for name, (start, stop, _) in members.items() if name.startswith("data/")}
    return Archive(content[start:stop], sizes, _rewritten(content, members))


def _rewritten(content: bytes, members: dict[str, tuple[int, int, int]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, (start, stop, _) in members.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), memoryview(content)[start:stop])
    return out.getvalue()


def _members(content: bytes) -> dict[str, tuple[int, int, int]]:
    """Return where each member's bytes start and stop, and their CRC."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        begin = archive.start_dir
    _check_end(content, begin)
    root = infos[0].filename.partition("/")[0] if infos else ""
    members: dict[str, tuple[int, int, int]] = {}
    position = 0
    for info, following in zip(infos, [*(info.header_offset for info in infos[1:]), begin], strict=True):
        name = info.filename.removeprefix(f"{root}/")
        if not MEMBERS.fullmatch(name) or info.filename == name or not root.isprintable() or "\\" in root:
            kind = "a TorchScript program" if name.startswith(("code/", "constants")) else f"the part {name[:100]!r}"
            raise Wrong("unsupported", f"is no state_dict that torch can read: it holds {kind}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Wrong("unsafe", f"holds the compressed part {name!r}; torch.save compresses nothing")
        if name in members or info.flag_bits & ~0x808 or info.external_attr & 0xFFFF:
            raise ValueError(f"{name!r} stands in it twice, encrypted or as a folder")
        start = _start(content, position, info)
        if following - (start + info.file_size) not in DESCRIPTORS:
            raise ValueError(f"{name!r} and what follows do not lie side by side")
        members[name] = start, start + info.file_size, info.CRC
        position = following
    return members


def _start(content: bytes, position: int, info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes start, behind the header that stands at *position*."""
    mark, length, extra = struct.unpack_from("<4s22xHH", content, position)
    name = content[position + 30 : position + 30 + length]
    if mark != b"PK\3\4" or info.header_offset != position or name.decode() != info.orig_filename:
        raise ValueError(f"{info.filename!r} is not where the table of contents says")
    return position + 30 + int(length) + int(extra)


def _check_end(content: bytes, begin: int) -> None:
    """Check that the table of contents stands where the file itself says, up to the file's last record."""
    end = len(content) - 22
    size, offset = struct.unpack_from("<12xII2x", content, end)
    if content[end - 20 : end - 16] == b"PK\6\7":  # what torch adds for files over 4 GiB, in every file
        (end,) = struct.unpack_from("<8xQ4x", content, end - 20)
        mark, size, offset = struct.unpack_from("<4s36xQQ", content, end)
        if mark != b"PK\6\6" or end != len(content) - 98:
            raise ValueError("its last records do not lie side by side")
    if offset != begin or offset + size != end:
        raise ValueError("its table of contents is elsewhere")


def check_legacy_storages(content: bytes, position: int, keys: object, sizes: dict[str, tuple[int, int]]) -> None:
    """Check that the storages, told as (elements, bytes) by key, fill the file from *position* to its end.

    Raises:
        Wrong: they do not.
    """
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(sizes):
        raise Wrong("damaged", "is damaged: its list of storages is not that of its tensors")
    for key in keys:
        numel, nbytes = sizes[key]
        if position + 8 + nbytes > len(content):
            raise Wrong(
                "truncated",
                f"is truncated: the storage {key} ends {position + 8 + nbytes - len(content)} bytes after it",
            )
        if int.from_bytes(content[position : position + 8], "little") != numel:
            raise Wrong("damaged", f"is damaged: the storage {key} has not the {numel} elements of its tensors")
        position += 8 + nbytes
    if position != len(content):
        raise Wrong("damaged", f"is damaged: {len(content) - position} bytes follow its last storage")
