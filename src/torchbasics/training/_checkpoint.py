"""Checkpoints: all that is needed to go on with a run, as one file that plain ``torch.load`` reads safely."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from torchbasics import _files
from torchbasics._recipe import Recipe
from torchbasics.training import _random
from torchbasics.training._callbacks import Callback, State

if TYPE_CHECKING:
    from torchbasics.training._run import Run

NAME = "checkpoint.pt"
FORMAT = 1


class Checkpointer(Callback):
    """Writes a checkpoint every *every* updates, or after each epoch; always after the last one."""

    def __init__(self, run: Run, folder: Path, every: int | None) -> None:
        self.run = run
        self.folder = folder
        self.every = every

    def on_step(self, state: State) -> None:
        """Write when it is time."""
        if self.every is not None and state.step % self.every == 0:
            self.save()

    def on_epoch(self, state: State) -> None:
        """Write after each epoch, or after the last one."""
        if self.every is None or state.stopped or len(state.history) == state.recipe.epochs:
            self.save()

    def on_stop(self, state: State) -> None:
        """Write where a signal or the time limit ends the run."""
        self.save()

    def save(self) -> None:
        """Write the checkpoint in place of the one before it, all or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _files.atomic_write(self.folder / NAME) as file:
            torch.save({"format": FORMAT, "random": _random.get_state(), **self.run.state_dict()}, file)


def find(folder: Path, resume: bool | Literal["auto"] | str | Path) -> Path | None:
    """Return the checkpoint to go on from, None to begin anew.

    Raises:
        FileNotFoundError: ``resume=True`` or a path, and there is none.
        FileExistsError: ``resume=False``, and there is one, which the run would overwrite.
    """
    path = folder / NAME
    if resume not in ("auto", True, False):
        given = Path(resume)  # type: ignore[arg-type]  # a path is what is left
        path = given / NAME if given.is_dir() else given
    if resume is False and path.exists():
        raise FileExistsError(f"{str(folder)!r} holds a checkpoint; go on with resume=True, or give another folder")
    if resume not in ("auto", False) and not path.exists():
        raise FileNotFoundError(f"no checkpoint in {str(path.parent)!r}; start one with resume='auto'")
    return path if path.exists() else None


def load(path: Path, recipe: Recipe, samples: int | None) -> dict[str, Any]:
    """Read a checkpoint and see that it belongs to this run.

    Raises:
        ValueError: recipe or data changed; each change is named with both values.
        CheckpointError: the file is no checkpoint, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise _files.CheckpointError(f"{str(path)!r} is not a checkpoint or is damaged: {e}", "damaged") from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _files.CheckpointError(f"{str(path)!r} is not a checkpoint of format {FORMAT}", "format-version")
    now, then = recipe.as_dict(), state["recipe"]
    free = {"epochs"} if now["schedule"] in (None, "constant") else set()  # other schedules depend on the total
    changed = [f"{k} was {then.get(k)!r} and is {v!r}" for k, v in now.items() if k not in free and then.get(k) != v]
    if state["samples"] != samples:
        changed.append(f"the data had {state['samples']!r} samples and has {samples!r}")
    if changed:
        raise ValueError(
            f"{str(path)!r} is of another run: {'; '.join(changed)}; undo the change, or give another checkpoint folder"
        )
    return state
