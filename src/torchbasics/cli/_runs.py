"""The folders of runs: a new one for each, and none left by a run that got nowhere."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from torchbasics import _meeting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchbasics._world import World
    from torchbasics.training._checkpoint import Resume

CHECKPOINT = "checkpoint"  # the folder in a run's own that `--resume` goes on from
JOB = ".torchrun"  # which of torchrun's jobs has begun in this folder
FIRST = f"{CHECKPOINT}/step-00000000"  # what a run starts with, and the same command starts with again


@contextlib.contextmanager
def folder_of(out: str | None, name: str, world: World, *, resume: bool) -> Iterator[tuple[Path, Resume]]:
    """Find or make the folder of a run, by process 0 for all, and tell how `fit` is to go on in it.

    A job that torchrun has started again goes on in the folder that it has begun in.

    Raises:
        ValueError: there is none to go on with, or *out* is there and not empty.
    """
    with contextlib.ExitStack() as stack:
        folder = Path()
        how: Resume = False
        if world.first:
            begun = None if resume else _begun(out, name)
            if begun is not None:
                folder, how = begun, "auto"
            else:
                folder = stack.enter_context(resumed(out, name) if resume else claimed(out, name))
                how = resume
            if _meeting.in_job():
                (folder / JOB).write_text(_meeting.job())
        found: list[tuple[Path, Resume]] = world.exchange((folder, how))
        yield found[0]


def _begun(out: str | None, name: str) -> Path | None:
    """Return the folder in which this job has begun before torchrun started it again."""
    if not _meeting.restarts():
        return None
    folders = [Path(out)] if out else [Path(f"runs/{name}"), *Path("runs").glob(f"{name}-[0-9]*")]
    marks = [folder / JOB for folder in folders]
    mine = [mark for mark in marks if mark.is_file() and mark.read_text() == _meeting.job()]
    return max(mine, key=lambda mark: mark.stat().st_mtime).parent if mine else None


@contextlib.contextmanager
def resumed(out: str | None, name: str) -> Iterator[Path]:
    """Find the folder of a run to go on with: the one that was named, or the newest of the model's.

    Raises:
        ValueError: there is none.
    """
    folders = [Path(out)] if out else [Path(f"runs/{name}"), *Path("runs").glob(f"{name}-[0-9]*")]
    found = [folder for folder in folders if (folder / CHECKPOINT).is_dir()]
    if not found:
        place = repr(out) if out else f"'runs/{name}'"
        raise ValueError(f"--resume: no checkpoint in {place}; leave out --resume to start a run")
    yield max(found, key=lambda folder: (folder / CHECKPOINT).stat().st_mtime)


@contextlib.contextmanager
def claimed(out: str | None, name: str) -> Iterator[Path]:
    """Make the folder of a run, never one that is there; after an error it goes again, unless work is in it.

    Raises:
        ValueError: *out* is there and not empty.
    """
    folder = Path(out or f"runs/{name}")
    if out and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--out {out!r} is there and not empty; give another folder")
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while not out:
        try:
            folder.mkdir()
            break
        except FileExistsError:
            number += 1
            folder = Path(f"runs/{name}-{number}")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except (Exception, KeyboardInterrupt):  # not SystemExit: a run that a signal ended can be gone on with
        if not _worked(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                for empty in made:
                    empty.rmdir()
        raise


def _worked(folder: Path) -> bool:
    """Whether there is more in *folder* than what a run writes before its first step, and events."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return not all(file.startswith(("events.out.tfevents.", f"{FIRST}/", "checkpoint/.", JOB)) for file in files)
