"""Writing: the old file or the new one, and nothing between."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from torchbasics import _files


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


@pytest.mark.parametrize("code", [errno.EACCES, errno.EINVAL, errno.ENOTSUP], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_is_no_failure(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is there, so its writing succeeds: in a folder of mode 0300, on a file system without the call."""
    original = getattr(os, call)

    def fails(which: Any, *args: object, **kwargs: object) -> object:
        is_folder = which == tmp_path if call == "open" else stat.S_ISDIR(os.fstat(which).st_mode)
        if is_folder:
            raise OSError(code, os.strerror(code))
        return original(which, *args, **kwargs)

    monkeypatch.setattr(os, call, fails)
    with _files.atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_disk_that_fails_on_a_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another error of the system stays one (positive control)."""

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="broken"):
        _files.sync_folder(tmp_path)


def test_what_killed_writers_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    """An hour old and of the same file: deleted. What may still be written, or is of another file, stays."""

    def leave(name: str, age: float) -> Path:
        writing = _files.atomic_write(tmp_path / name)
        with writing as file:
            (left,) = set(tmp_path.glob(".*.tmp")) - kept
            copy = left.with_name(left.name.replace("-", "-0", 1))
            copy.write_bytes(b"half")
            now = os.fstat(file.fileno()).st_mtime
            os.utime(copy, (now - age, now - age))
        kept.add(copy)
        return copy

    kept: set[Path] = set()
    fresh, other = leave("file", 3000), leave("other", 4000)
    old = leave("file", 4000)
    with _files.atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert set(tmp_path.iterdir()) == {tmp_path / "file", tmp_path / "other", fresh, other}
    assert not old.exists()
