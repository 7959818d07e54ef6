"""Files: written whole or not at all; and the one error for those that are refused."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


ABANDONED = 3600  # seconds; a writer pauses for less, and if not, it fails and the old file stays


class CheckpointError(ValueError):
    """A file was refused; nothing in the process has changed.

    Attributes:
        reason: Why, as one of a few words that stay the same from release to release:

            - ``"not-a-checkpoint"``: it is something else, such as text, an archive, a folder.
            - ``"damaged"``: it is altered; a digest does not hold, or its parts contradict each other.
            - ``"truncated"``: it ends too early.
            - ``"format-version"``: a newer or older torchbasics wrote it, in a format that this one does not read.
            - ``"unsafe"``: it asks to run code, or holds tensors that are no plain memory.
            - ``"whole-model-pickle"``: it is a pickled model, which cannot be read without running code.
            - ``"mismatch"``: it is whole, but is not of this model, or has values that are not finite.
            - ``"too-large"``: it, or the model that it describes, needs far more memory than its tensors have.
            - ``"unsupported"``: it is whole, but of a kind, a model or a dtype that this torchbasics cannot load.

    >>> from torchbasics import io
    >>> try:
    ...     io.load(__file__)
    ... except io.CheckpointError as e:
    ...     e.reason
    'not-a-checkpoint'
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
    file it names is replaced; the new file has the mode of the old one, or that of the umask. A killed process leaves
    a hidden file in the folder, as large as what it had written; the first writing of *path* an hour later deletes it.

    Raises:
        FileNotFoundError: the folder is not there.
        ValueError: *path* is there and is no regular file.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {str(target.parent)!r} for {target.name!r}; make it first")
    if target.exists() and not target.is_file():
        raise ValueError(f"{str(path)!r} is no regular file; give the path of a file")
    mark = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    temporary = target.parent / f"{mark}-{uuid.uuid4().hex}.tmp"  # same folder: a rename across disks is a copy
    try:
        with temporary.open("xb") as file:
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            _sweep(temporary, mark)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _sweep(temporary: Path, mark: str) -> None:
    """Delete what killed writers of the same file left: nobody has written to it for `ABANDONED` seconds."""
    with contextlib.suppress(OSError):  # the folder cannot be listed, or another sweeps as well
        now = temporary.stat().st_mtime  # by the clock that the others were written by
        for path in temporary.parent.glob(f"{mark}-*.tmp"):
            if now - path.stat().st_mtime > ABANDONED:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Bring the names in *folder* to the disk, where a system has a call for that."""
    if os.name == "nt":  # pragma: no cover  # Windows cannot open a folder, and needs no such call
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as e:  # a folder that may be written to but not read, or a file system without this call
        if e.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise


def refuse(path: str | os.PathLike[str], reason: Reason, text: str) -> CheckpointError:
    """Return the error for the file *path*."""
    return CheckpointError(f"{str(path)!r} {text}", reason)


def brief(error: BaseException) -> str:
    r"""Return the message of *error*, in which a file may have a part, in printable characters and not too long.

    >>> brief(ValueError("of a\nfile"))
    'of a\\nfile'
    """
    text = str(error)
    text = text if len(text) <= 500 else f"{text[:500]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
