"""Writing: the old file or the new one, and nothing between."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest

from torchbasics import _files

if TYPE_CHECKING:
    pass


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """An error while writing changes nothing; writing in place would (positive control)."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half(opened: AbstractContextManager[BinaryIO]) -> None:
        with opened as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half(_files.atomic_write(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt):
        write_half(path.open("wb"))
    assert path.read_bytes() == b"half"


def test_the_file_and_its_folder_are_synced_around_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content reaches the disk before the name does, and the name before the call returns."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    with _files.atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert calls == ["file", "replace", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="modes and links are POSIX")
def test_modes_and_links_stay(tmp_path: Path) -> None:
    """A new file has the umask's mode, a replaced one keeps its own, a link goes on naming the file."""
    umask = os.umask(0o027)
    try:
        with _files.atomic_write(tmp_path / "file"):
            pass
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    (tmp_path / "file").chmod(0o604)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with _files.atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o604


def test_a_folder_is_not_written_to(tmp_path: Path) -> None:
    """A path that is there and is no regular file is refused."""
    with pytest.raises(ValueError, match="is no regular file; give the path of a file"), _files.atomic_write(tmp_path):
        pass
