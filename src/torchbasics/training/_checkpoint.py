"""Checkpoints: all that is needed to go on with a run, written while it goes on, and found again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from torchbasics._model import COMPILED, unwrapped
from torchbasics._recipe import EarlyStopping
from torchbasics._world import ALONE, World, lost
from torchbasics.data._batches import LoaderBatches
from torchbasics.training import _identity, _shards, _store
from torchbasics.training._callbacks import Callback, State, score
from torchbasics.training._finite import NonFiniteError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from torch import nn

    from torchbasics.training._run import Run

AVERAGES = ("torchbasics.Average", "torchbasics.Stopper")  # callbacks that keep weights

Resume = bool | Literal["auto"] | str | Path


class Found(NamedTuple):
    """The checkpoint to go on from."""

    path: Path
    state: Mapping[str, Any]


@dataclass
class Checkpoints:
    """Where a run keeps its checkpoints, when it writes them, and what it goes on from.

    Args:
        folder: The folder, one checkpoint a folder in it.
        every: Updates from one to the next; None = one after each epoch.
        keep: How many of the newest stay, beside the best.
        found: The one to go on from.
        damaged: Those that were passed over.
        origin: The checkpoint that the run was told to go on from, seen from the folder; None = there is none.
        world: The processes of the run, of which the first writes.
    """

    folder: Path
    every: int | None
    keep: int
    found: Found | None = None
    damaged: set[Path] = field(default_factory=set)
    origin: str | None = None
    world: World = ALONE

    @property
    def seed(self) -> int | None:
        """The seed of the run to go on with, where its recipe left it open."""
        return None if self.found is None else self.found.state["seed"]

    def set_threads(self, stack: ExitStack) -> None:
        """Compute with as many threads as before, until the *stack* closes: the last bits depend on it."""
        now = torch.get_num_threads()
        then = now if self.found is None else self.found.state["numerics"]["threads"]
        if then != now:
            stack.callback(torch.set_num_threads, now)
            torch.set_num_threads(then)

    def attach(self, run: Run, resume: Resume, seed: int, callbacks: Sequence[Any]) -> list[Any]:
        """Bring *run* to where it was left, and return its callbacks, with the one that writes checkpoints.

        Raises:
            ValueError: it is another run; nothing was changed.
        """
        identity = _identity.identify(run)
        identity |= {"seed": seed, "numerics": _identity.numerics(run.device, run.state.recipe), "origin": self.origin}
        if self.found is not None:
            _shards.check(self.found.path, self.found.state)
            identity["weights"] = self._checked(self.found, identity, run, resume)
            _identity.tell_numerics(self.found.state["numerics"], identity["numerics"])
        parts = [*callbacks, Checkpointer(run, self, identity)]
        if self.found is not None:
            state = _shards.loaded(self.found.path, self.found.state, _shards.places(run.model, run.step))
            run.load_state_dict(state, parts)
            stops = run.state.recipe.early_stopping is not None and not _identity.stops_by_validation(run.state.recipe)
            if self.found.state["validation"] != identity["validation"] and not stops:
                parts[-1].best = None  # of other data
            run.state.notes.append(_note(run, self.found.path))
        if isinstance(run.train, LoaderBatches) and not run.train.exact and (run.position or self.every is not None):
            warnings.warn(
                f"a {type(run.train.loader).__name__} without state_dict and load_state_dict goes on exactly from the "
                "end of an epoch only; leave out checkpoint_every, or give fit the Dataset itself",
                RuntimeWarning,
                stacklevel=3,
            )
        return parts

    def _checked(self, found: Found, identity: Mapping[str, Any], run: Run, resume: Resume) -> str:
        """Do `check` in all processes; the first one's word counts, whose run the checkpoint tells of."""
        weights, refused = "", None
        try:
            weights = check(found, identity, run, resume)
        except ValueError as e:
            refused = str(e)
        answer: tuple[str, str | None] = self.world.exchange((weights, refused))[0]
        if answer[1] is not None:
            raise ValueError(answer[1])
        return answer[0]


class Checkpointer(Callback):
    """Writes checkpoints: at the start, every so many updates or after each epoch, and after the last one."""

    def __init__(self, run: Run, options: Checkpoints, identity: Mapping[str, Any]) -> None:
        self.run = run
        self.options = options
        self.identity = identity
        self.best: float | None = None
        self.best_name: str | None = None

    def on_start(self, state: State) -> None:
        """Clear what a crash left; write where there is nothing to go on from."""
        folder, found = self.options.folder, self.options.found
        if self.options.world.first:
            _store.clean(folder)
        if found is None or found.path.parent != folder:
            self.save()

    def on_step(self, state: State) -> None:
        """Write when it is time."""
        if self.options.every is not None and state.step % self.options.every == 0:
            self.save()

    def on_epoch(self, state: State) -> None:
        """Write after each epoch or after the last one, and after the best."""
        self.run.agree()
        best = self.options.world.exchange(self._better(state))[0]  # where writing failed, only the first knows
        done = state.stopped or len(state.history) == state.recipe.epochs
        if best is not None or self.options.every is None or done:
            self.save(best)

    def on_stop(self, state: State) -> None:
        """Write where a signal or the time limit ends the run."""
        self.save()

    def save(self, best: float | None = None) -> None:
        """Write a checkpoint, the *best* so far where that is given, then delete those that are no longer needed.

        Warns:
            RuntimeWarning: it could not be written; those before it are still there.
        """
        folder, step, before = self.options.folder, self.run.state.step, (self.best, self.best_name)
        world = self.options.world
        try:
            path = folder / f"step-{step:08d}"
            if world.first:
                with suppress(OSError):  # a folder that cannot be read: writing tells of it, to all processes
                    path = _store.place(folder, step)
                if best is not None:
                    self.best, self.best_name = best, path.name
            state = self.run.state_dict()
            _shards.write(path, {**self.identity, **state}, step, world)
        except NonFiniteError:  # news of an update before this one
            raise
        except Exception as e:  # a full disk, a folder that is gone, a value that is no plain data
            if lost(e):
                raise
            self.best, self.best_name = before
            if not world.first:
                return
            text = f"the checkpoint at step {step} could not be saved in {str(folder)!r}: {e}; training goes on, "
            warnings.warn(text + "and those before it are kept", RuntimeWarning, stacklevel=2)
            return
        if not world.first:
            return
        spare = {path} if self.best_name is None else {path, folder / self.best_name}
        try:
            _store.prune(folder, self.options.keep, spare, self.options.damaged)
        except OSError as e:
            text = f"old checkpoints in {str(folder)!r} could not be deleted: {e}; training goes on"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _better(self, state: State) -> float | None:
        """Return the epoch's score if it is the best so far: what early stopping watches, else the validation loss."""
        stopping = state.recipe.early_stopping
        name = (stopping.monitor if isinstance(stopping, EarlyStopping) else None) or "validation_loss"
        if name not in state.history[-1]:
            return None
        value = score(state.history[-1], name)
        return value if self.best is None or value > self.best else None

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoint is the best."""
        return {"best": self.best, "best_name": self.best_name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        self.best, self.best_name = state["best"], state["best_name"]


def open_folder(
    folder: str | Path | None, every: int | None, keep: int, resume: Resume, world: World, stack: ExitStack
) -> Checkpoints | None:
    """Return where the run keeps its checkpoints, and which one it goes on from; None = it keeps none.

    Others are kept out of the folder until the *stack* closes.

    Raises:
        TypeError: *resume* is none of its values.
        FileNotFoundError: ``resume=True`` or a path, and there is none.
        FileExistsError: ``resume=False``, and there is one; or a path, and there are others after it.
        NotADirectoryError: *folder* is a file.
        CheckpointError: none can be read, or it is of another format.
        ValueError: *resume* without a folder, or a process does not see the folder.
        RuntimeError: another run is writing to it.
    """
    if folder is not None and world.first:
        stack.enter_context(_store.locked(Path(folder)))
    if not isinstance(resume, (bool, str, Path)):
        raise TypeError(f"resume must be 'auto', True, False or the path of a checkpoint, got {resume!r}")
    if folder is None:
        if resume in ("auto", False):
            return None
        raise ValueError(f"resume={resume!r} needs a folder for the checkpoints to come; give checkpoint=")
    made = Checkpoints(Path(folder), every, keep, world=world)
    _see_alike(made.folder, world)
    if made.folder.is_file():
        raise NotADirectoryError(f"checkpoint={str(folder)!r} is a file; give a folder")
    if resume is False and _store.checkpoints(made.folder):
        raise FileExistsError(
            f"{str(folder)!r} holds checkpoints; go on from the newest with resume=True, "
            "or begin anew in another checkpoint folder"
        )
    if isinstance(resume, bool) or resume == "auto":
        _find(made, made.folder)
        if resume is True and made.found is None:
            raise FileNotFoundError(f"no checkpoint in {str(folder)!r}; start one with resume='auto'")
    else:
        _find_given(made, Path(resume))
    return made


def _see_alike(folder: Path, world: World) -> None:
    """Raise unless all processes see, soon, what the first does in the folder: it has just locked it."""
    if world.size == 1:
        return

    def names() -> list[str]:
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    there = world.exchange(names() if world.first else None)[0]
    _store.wait_for(lambda: names() == there)
    for rank, seen in enumerate(world.exchange(names())):
        if seen != there:
            raise ValueError(
                f"checkpoint={str(folder)!r} holds {', '.join(there) or 'nothing'} in process 0 and "
                f"{', '.join(seen) or 'nothing'} in process {rank}; give a folder on a disk that all hosts share"
            )


def _find(made: Checkpoints, folder: Path) -> None:
    """Find the newest checkpoint in *folder*."""
    newest, made.damaged = _store.newest(folder, made.world)
    if newest is not None:
        made.found = Found(*newest)
        made.origin = made.found.state["origin"]


def _find_given(made: Checkpoints, given: Path) -> None:
    """Find the checkpoint that *given* is, or the newest in it; the same call again goes on with what it wrote."""
    here, there = made.folder.resolve(), given.resolve()
    origin = Path(os.path.relpath(there, here)).as_posix()  # both may be moved
    if there != here:
        _find(made, made.folder)
        if made.found is not None and made.origin == origin:
            return
    own, made.found = made.found, None
    itself = (given / _store.MANIFEST).exists() or (given.is_dir() and given.name.startswith("step-"))
    if made.world.exchange(itself)[0]:
        made.found = Found(given, _store.read_alike(given, made.world))
    else:
        _find(made, given)
    if made.found is None:
        raise FileNotFoundError(f"no checkpoint in {str(given)!r}; start one with resume='auto'")
    if own is not None and own.path.resolve() != made.found.path.resolve():
        raise FileExistsError(
            f"{str(made.folder)!r} holds {own.path.name}, which does not come from {str(given)!r}; give another "
            "checkpoint folder, or delete the checkpoints that are not wanted any more"
        )
    made.origin = origin


def check(found: Found, now: Mapping[str, Any], run: Run, resume: Resume) -> str:
    """See that a checkpoint belongs to this run, and return the digest of the weights that the run began with.

    Raises:
        ValueError: a value has changed that would alter the run, or with "auto" the data, the starting weights, the
            source of the model's class, or what the recipe's functions and instances do.
    """
    then, path = found.state, str(found.path)
    own = now["weights"] != then["weights"] and (
        now["weights"] in map(_identity.weights_digest, _trained(_with_weights(found), run.model))
    )
    changed = _identity.changes(then, now, run, own=own)
    if changed:
        raise ValueError(
            f"{path!r} is of another run: {'; '.join(changed)}; undo the change, or give another checkpoint folder"
        )
    other = _identity.digests_changed(then, now)
    if own:  # the attributes of the model have moved with its weights
        other = {name: text for name, text in other.items() if name not in ("weights", "settings")}
        now = then
    if other and resume == "auto":
        raise ValueError(
            f"{', '.join(other.values())} changed since {path!r} was written; go on all the same with resume=True, "
            "or begin anew in another checkpoint folder"
        )
    return now["weights"]  # type: ignore[no-any-return]  # a digest


def _with_weights(found: Found) -> dict[str, Any]:
    """Return what the checkpoint has of the model, with its tensors."""
    named = {
        name: {"weights": state.get("weights")} for name, state in found.state["callbacks"].items() if name in AVERAGES
    }
    wanted = {"model_state": found.state["model_state"], "callbacks": named}
    made: dict[str, Any] = _shards.loaded(found.path, {**wanted, _shards.PARTS: found.state.get(_shards.PARTS)})
    return made


def _trained(state: Mapping[str, Any], model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield what this very run has made of the model so far: as trained, averaged, and the best that was put back.

    The average has one name for tensors that are tied, and also what the model's state leaves out.
    """
    yield state["model_state"]
    bare, first = unwrapped(model), dict[int, str]()
    tensors = [*bare.named_parameters(remove_duplicate=False), *bare.named_buffers(remove_duplicate=False)]
    same = {
        name: first.setdefault(id(tensor), name) for name, tensor in ((n.replace(COMPILED, ""), t) for n, t in tensors)
    }
    for name in AVERAGES:
        weights = state["callbacks"].get(name, {}).get("weights")
        if weights:
            yield {k: weights.get(k, weights.get(same.get(k), v)) for k, v in state["model_state"].items()}


def _note(run: Run, path: Path) -> str:
    done, epochs = len(run.history), run.state.recipe.epochs
    if done >= epochs or run.state.stopped is not None:
        return f"nothing left to train: {str(path)!r} is of a finished run, and all of its state is back"
    return f"going on from {str(path)!r}: step {run.state.step}, epoch {done + 1}/{epochs}"
