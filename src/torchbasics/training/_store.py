"""Where checkpoints lie: a folder for each, which is there whole or not at all.

``step-00000012/`` holds the state and a manifest with size and SHA-256 of every file, and of itself. It is written
beside its place and renamed when all of it is on the disk; a name that is there is not used again (the next one at step
12 is ``step-00000012.2``), so nothing is ever written over.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

import torchbasics
from torchbasics import _files
from torchbasics._files import CheckpointError, refuse
from torchbasics._world import ALONE, World

FORMAT = 1
STATE = "state.pt"
MANIFEST = "manifest.json"
LOCK = ".lock"
LATE = 10.0  # seconds after which one process sees what another has written, or never does
_HELD: set[Path] = set()  # folders that runs of this process write to
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in *folder*, the newest first, whether they can be read or not."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: _position(path.name), reverse=True)


def place(folder: Path, step: int) -> Path:
    """Return the path of a new checkpoint at *step*: one that is not there yet."""
    taken = [_position(path.name)[1] for path in checkpoints(folder) if _position(path.name)[0] == step]
    return folder / (f"step-{step:08d}" + (f".{max(taken) + 1}" if taken else ""))


def write(path: Path, state: Mapping[str, Any], step: int) -> None:
    """Write the checkpoint *path*, read it back, and only then give it its name.

    Raises:
        OSError: it could not be written; nothing was changed.
        CheckpointError: what was read back is not what was written, or cannot be read without running code.
    """
    temporary = begin(path)
    try:
        finish(temporary, path, state, step)
    except BaseException:
        discard(temporary)
        raise


def begin(path: Path) -> Path:
    """Return the folder in which the checkpoint *path* is to be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    return temporary


def finish(
    temporary: Path,
    path: Path,
    state: Mapping[str, Any],
    step: int,
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write *state* beside what is in *temporary* already, read all of it back, and give it the name *path*.

    Args:
        temporary: What `begin` returned.
        path: The checkpoint.
        state: The state.
        step: Updates done.
        others: The files that are there, with what `told` returned to who wrote them.
    """
    written = _write(temporary / STATE, lambda file: torch.save(dict(state), file))
    versions = {"torchbasics": torchbasics.__version__, "torch": torch.__version__}
    manifest = {"format": FORMAT, "step": step, **versions, "files": {STATE: written, **(others or {})}}
    signed = json.dumps({**manifest, "digest": _digest(manifest)}, indent=2)
    _write(temporary / MANIFEST, lambda file: file.write(signed.encode()))
    _files.sync_folder(temporary)
    read(temporary, mmap=True, trusted=others or {})  # those who wrote them have read them back
    temporary.rename(path)
    _files.sync_folder(path.parent)


def discard(temporary: Path) -> None:
    """Delete what was begun."""
    shutil.rmtree(temporary, ignore_errors=True)


def told(file: Path) -> dict[str, Any]:
    """Return what a manifest says of a file."""
    with file.open("rb") as opened:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def read(path: Path, *, mmap: bool = False, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Return the state of the checkpoint *path*, all of it checked.

    Args:
        path: The checkpoint's folder.
        mmap: Whether tensors stay in the file, for a quick look at whether they can be read.
        trusted: Files whose digest another process looks at; of them only the sizes are compared.

    Raises:
        CheckpointError: the checkpoint is damaged, of another format, or holds more than plain data.
    """
    for name, said in _manifest(path)["files"].items():
        file = path / name
        if not file.is_file():
            raise refuse(path, "damaged", f"is damaged: {name} is missing")
        size = file.stat().st_size
        if size != said["size"]:
            text = f"{name} has {size} bytes, and had {said['size']} when it was written"
            raise refuse(path, "truncated" if size < said["size"] else "damaged", f"is damaged: {text}")
        if name not in trusted and told(file)["sha256"] != said["sha256"]:
            raise refuse(path, "damaged", f"is damaged: the SHA-256 of {name} is not that of its manifest")
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, MemoryError):  # the file is sound
        raise
    except Exception as e:
        reason = str(e).partition("WeightsUnpickler error: ")[2] or str(e)  # torch's own advice is longer than a screen
        text = reason.strip().partition("\n")[0]
        raise refuse(path, "unsafe", f"holds what cannot be read without running code: {text}") from e
    if not isinstance(state, dict):
        raise refuse(path, "not-a-checkpoint", f"is no checkpoint: {STATE} holds {type(state).__name__}")
    return state


def read_alike(path: Path, world: World = ALONE) -> dict[str, Any]:
    """Do as `read` in all processes, of which each digests a part of the files; what one refuses all refuse.

    Process 0 reads first: what it finds whole the others may only not see yet.

    Raises:
        CheckpointError: as for `read`.
        OSError: this process does not see what process 0 does.
    """
    state: dict[str, Any] = {}
    for turn in (world.first, not world.first):
        refused: CheckpointError | None = None
        try:
            if turn:
                state = read(path, trusted=_others(path, world))
        except CheckpointError as e:
            refused = e
        answers = world.exchange(None if refused is None else (str(refused), refused.reason))
        first = next((answer for answer in answers if answer is not None), None)
        if first is not None:
            raise CheckpointError(*first) from refused
    return state


def _others(path: Path, world: World) -> list[str]:
    """Return the files that other processes digest; what all have to read each digests for itself."""
    seen = world.first or wait_for(
        lambda: all((path / n).stat().st_size == f["size"] for n, f in _manifest(path)["files"].items())
    )
    if not seen:  # it is not damaged: nobody is to pass it over, and delete it one day
        raise OSError(
            f"process {world.rank} does not see {str(path)!r} as process 0 does; give a folder on a disk that all "
            "hosts share, or start again once it has caught up"
        )
    names = sorted(name for name in _manifest(path)["files"] if name != STATE)
    return [name for i, name in enumerate(names) if i % world.size != world.rank]


def wait_for(seen: Callable[[], bool]) -> bool:
    """Wait some seconds until *seen*, as a network's disk may show late what another has written; return whether."""
    until = time.monotonic() + LATE
    while time.monotonic() < until:
        with suppress(OSError, CheckpointError):
            if seen():
                return True
        time.sleep(0.05)
    return False


def newest(folder: Path, world: World = ALONE) -> tuple[tuple[Path, dict[str, Any]] | None, set[Path]]:
    """Return the newest checkpoint in *folder* that can be read, with its state, and those that were passed over.

    All processes of *world* have to call it, and get the same: process 0 says what there is.

    Warns:
        RuntimeWarning: a damaged one was passed over.

    Raises:
        CheckpointError: all are damaged; or one is whole and cannot be read, and so of use to another version.
    """
    damaged: set[Path] = set()
    names: list[str] = world.exchange([path.name for path in checkpoints(folder)] if world.first else [])[0]
    for path in map(folder.joinpath, names):
        try:
            return (path, read_alike(path, world)), damaged
        except CheckpointError as e:
            if e.reason not in ("damaged", "truncated"):
                raise
            damaged.add(path)
            if world.first:
                warnings.warn(f"{e}; it is passed over", RuntimeWarning, stacklevel=5)  # at the call of fit
    if damaged:
        text = f"all checkpoints in {str(folder)!r} are damaged; begin anew in another folder, or delete them"
        raise CheckpointError(text, "damaged")
    return None, damaged


def prune(folder: Path, keep: int, spare: Collection[Path], damaged: set[Path]) -> None:
    """Delete all checkpoints but the newest *keep* and those to *spare*; *damaged* ones go, and are forgotten."""
    whole = [path for path in checkpoints(folder) if path not in damaged]
    for path in checkpoints(folder):
        if path in damaged or path not in [*whole[:keep], *spare]:
            gone = folder / f".{uuid.uuid4().hex}.tmp"
            path.rename(gone)  # so that what is half deleted never looks like a checkpoint
            damaged.discard(path)
            shutil.rmtree(gone)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of *folder* meanwhile: of this process, and where there are such locks, of others.

    Raises:
        RuntimeError: another run has it.
    """
    mine = folder.resolve()
    made = [path for path in (mine, *mine.parents) if not path.exists()]
    if mine in _HELD:
        raise _taken(folder)
    with suppress(OSError):  # a file, or a disk that cannot be written to: saving tells of it
        mine.mkdir(parents=True, exist_ok=True)
    file = _locked_file(folder)
    _HELD.add(mine)
    try:
        yield
    finally:
        _HELD.discard(mine)
        if file is not None:
            with suppress(OSError):
                (mine / LOCK).unlink()
            file.close()
        with suppress(OSError):
            for path in made:  # where nothing was written after all
                path.rmdir()


def _locked_file(folder: Path) -> BinaryIO | None:
    """Return the open lock file, None where the system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        try:
            file = (folder / LOCK).open("ab")
        except OSError:
            return None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, and is not handed to workers
            if os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat()):
                return file
        except (BlockingIOError, PermissionError) as e:
            file.close()
            raise _taken(folder) from e
        except FileNotFoundError:  # the run before has just taken it away
            pass
        except OSError:  # a network's disk without locks
            return file
        file.close()


def _taken(folder: Path) -> RuntimeError:
    return RuntimeError(
        f"another run is writing to {str(folder)!r}; wait for its end, or give another checkpoint folder"
    )


def clean(folder: Path) -> None:
    """Delete what a crash left half written or half deleted."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\.[0-9a-f]{32}\.tmp", path.name):
            shutil.rmtree(path, ignore_errors=True)


class _Digesting:
    """A file for writing that counts and digests what goes into it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None  # which torch.save hides behind its own

    def write(self, content: Any) -> int:
        """Write."""
        self.size += len(content)
        self.sha256.update(content)
        try:
            return self.file.write(content)
        except OSError as e:
            self.error = e
            raise

    def flush(self) -> None:
        """Flush."""
        self.file.flush()


def _write(path: Path, fill: Callable[[Any], object]) -> dict[str, Any]:
    with path.open("xb") as opened:
        file = _Digesting(opened)
        try:
            fill(file)
        except RuntimeError as e:
            raise file.error or e from None
        opened.flush()
        os.fsync(opened.fileno())
    return {"size": file.size, "sha256": file.sha256.hexdigest()}


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest.pop("digest") != _digest(manifest):
            raise ValueError("its digest does not match it")
        if manifest["format"] != FORMAT:
            text = f"has format version {manifest['format']!r}, this torchbasics reads {FORMAT!r}"
            raise refuse(path, "format-version", f"{text}; go on with the torchbasics that wrote it")
        names = {name: (said["size"], said["sha256"]) for name, said in manifest["files"].items()}
        if STATE not in names or any(Path(name).name != name for name in names):
            raise ValueError(f"it lists the files {', '.join(map(repr, names))}")
    except OSError as e:
        raise refuse(path, "damaged", f"is damaged: {MANIFEST} cannot be read ({e.strerror})") from e
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise refuse(path, "damaged", f"is damaged: {MANIFEST} is none ({e!r})") from e
    return manifest  # type: ignore[no-any-return]  # a dict, by its keys


def _digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content, in whatever form it is written; the same in all formats to come."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _position(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2] or 1)) if found else (-1, 0)
