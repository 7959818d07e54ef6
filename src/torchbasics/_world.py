"""The processes of a run: who this one is, what they tell each other, and how the failure of one ends them all."""

from __future__ import annotations

import os
import pickle  # nosec B403  # as torch does between processes; nothing of a file
import re
import threading
import time
import traceback
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchbasics import _meeting
from torchbasics._meeting import DistributedError, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FAILED = "torchbasics/failed"  # where in the processes' common store failures are told
BUNDLE = 2**25  # bytes of tensors that are sent as one
PATIENCE = 1.0  # seconds that one waits to hear from others which have failed, too
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
_READING = os.path.join("torch", "utils", "data") + os.sep  # noqa: PTH118  # as in tracebacks
_CODE = tuple(os.path.dirname(path) + os.sep for path in (torch.__file__, __file__))  # noqa: PTH120  # as in tracebacks
_running = False  # whether a run of several processes is on


class World:
    """The processes that train together; `ALONE` is a single one, to which all of this costs nothing.

    Attributes:
        rank: The number of this process, from 0; process 0 writes and prints for all.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    def exchange(self, value: Any) -> list[Any]:
        """Return the *value* of each process, by rank; all have to call it, in the same order as all else."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def agree(self, what: str, value: Mapping[str, Any]) -> None:
        """See that all processes have the same.

        Raises:
            ValueError: one differs; every process raises it.
        """
        first, *others = self.exchange(value)
        for rank, other in enumerate(others, start=1):
            names = [name for name in first if first[name] != other.get(name)]
            if names:
                told = "; ".join(f"{n} is {first[n]!r} in process 0 and {other.get(n)!r} in {rank}" for n in names[:3])
                raise ValueError(f"the processes have different {what}: {told}; start all of them alike")

    def by_all(self, do: Callable[[], Any]) -> list[Any]:
        """Return what *do* returned in each process, by rank; where it failed in one it fails in all.

        Raises:
            Exception: what *do* raised here.
            OSError: it failed in another process.
        """
        value, error = b"", None
        try:
            value = pickle.dumps(do())  # what has no pickle fails here, and not in an exchange that others wait in
        except Exception as e:
            error = e
        said = self.exchange((value, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        for rank, (_, text) in enumerate(said):
            if text is not None:
                raise OSError(f"process {rank} failed: {text}")
        return [pickle.loads(value) for value, _ in said]  # nosec B301  # of this run's own processes

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor], source: int = 0) -> None:
        """Give *tensors* the values that they have in process *source*."""
        for alike in _bundles(tensors) if self.size > 1 else ():
            flat = torch.cat([t.detach().reshape(-1) for t in alike])
            dist.broadcast(flat, source)
            if self.rank != source:
                for tensor, sent in zip(alike, torch.split(flat, [t.numel() for t in alike]), strict=True):
                    tensor.detach().copy_(sent.view(tensor.shape))

    @torch.no_grad()
    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace *tensors* by their sums over the processes."""
        for alike in _bundles(tensors):
            flat = torch.cat([t.flatten() for t in alike])
            dist.all_reduce(flat)
            for tensor, total in zip(alike, torch.split(flat, [t.numel() for t in alike]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def total(self, value: float) -> float:
        """Return the sum of a number over the processes."""
        if self.size == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64, device=self._device())
        dist.all_reduce(summed)
        return summed.item()

    def largest(self, values: list[int]) -> list[int]:
        """Return the largest of each of the *values* over the processes."""
        found = torch.tensor(values, dtype=torch.int64, device=self._device())
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    def seed(self, seed: int) -> int:
        """Return the seed of this process's own random numbers; that of process 0 is *seed*."""
        return (seed + self.rank * 0x9E3779B97F4A7C15) % 2**63

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let an error in here end the other processes too, which say whose it was.

        After it the processes meet anew: all may go on to another run.

        Raises:
            DistributedError: another process was the first to fail, or is gone.
        """
        global _running  # noqa: PLW0603  # the process group is global, too
        if self.size == 1 or _running:
            yield
            return
        key, _running = "", True
        try:
            key = f"{FAILED}/{self.exchange(uuid.uuid4().hex)[0]}"
            with _listening(key):
                yield
        except BaseException as e:  # a KeyboardInterrupt here leaves the others waiting, too
            cause = self._failed(key, e)
            if cause is not None:
                raise DistributedError(cause) from e
            raise
        finally:
            _running = False

    def _failed(self, key: str, error: BaseException) -> str | None:
        """Tell the others of an error here, and go; return what came before it where it is but the consequence."""
        store, away, first = _meeting.store(), lost(error), None
        try:
            store.set(f"{key}/{self.rank}", "")
            if away:
                self._wait_for_all(store, key, f"{key}/first")
                first = self._first(store, key)
            else:
                store.compare_set(f"{key}/first", "", f"process {self.rank} failed: {told(error)}")
        except Exception:  # the store went with the process that kept it
            first = "process 0 is gone, with what the processes share" if away else None
        keeps = self.first and _meeting.is_own() and not _meeting.agent_keeps_store()
        _meeting.leave()  # a group of the user's own ends with the process
        with suppress(Exception):
            if keeps:  # the others read in it before this process ends
                self._wait_for_all(store, key, patience=5 * PATIENCE)
        return first

    def _first(self, store: Any, key: str) -> str:
        if store.check([f"{key}/first"]):
            return str(store.get(f"{key}/first").decode())
        silent = [str(rank) for rank in range(self.size) if not store.check([f"{key}/{rank}"])]
        if not silent:
            return "the connection between the processes broke"
        return f"process {' and '.join(silent)} is gone without an error: killed, out of memory, or no longer reached"

    def _wait_for_all(self, store: Any, key: str, enough: str | None = None, patience: float = PATIENCE) -> bool:
        """Wait until each process has told of its failure, or *enough* is there; return whether that is so."""
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        until = time.monotonic() + patience
        while not (store.check(keys) or (enough is not None and store.check([enough]))):
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def _device(self) -> str:
        return "cpu" if "gloo" in dist.distributed_c10d.get_backend_config() else "cuda"


ALONE = World()


def _bundles(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield *tensors* of one dtype and device together, as much as is sent at once."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        bundle: list[Tensor] = []
        for tensor in alike:
            if bundle and sum(t.nbytes for t in bundle) + tensor.nbytes > BUNDLE:
                yield bundle
                bundle = []
            bundle.append(tensor)
        yield bundle


def join() -> World:
    """Return the processes of this run: those that torchrun started, or those of the user's own process group.

    Raises:
        ValueError: the environment says that there are several, and not where.
        DistributedError: they did not come together.
    """
    if not dist.is_available():
        return ALONE
    _meeting.mind_agent()
    if not dist.is_initialized():
        if _meeting.number("WORLD_SIZE", 1) <= 1:
            return ALONE
        _meeting.join()
    if dist.get_world_size() == 1:
        return ALONE
    _meeting.mind_end()
    return World(dist.get_rank(), dist.get_world_size())


def nccl() -> bool:
    """Return whether the processes exchange what is on a GPU by NCCL; a group made without a backend has it, too."""
    return "nccl" in dist.distributed_c10d.get_backend_config()


@contextmanager
def _listening(key: str) -> Iterator[None]:
    """Say at once what ends the run where NCCL is used: who waits in an exchange on a GPU gets no exception."""
    ended = threading.Event()
    if torch.cuda.is_available() and nccl():  # pragma: no cover  # CUDA
        threading.Thread(target=listen, args=(_meeting.store(), key, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def listen(store: Any, key: str, ended: threading.Event, patience: float = PATIENCE) -> None:
    """Write to stderr that another process has failed, until *ended*; one that fails itself ends soon enough."""
    while not ended.wait(patience):
        try:
            told = store.get(f"{key}/first").decode() if store.check([f"{key}/first"]) else None
        except Exception:  # the store went with the process that kept it
            return
        if told is not None:
            if not ended.wait(2 * patience):
                os.write(2, f"{told}; this process waits on its GPU until torchrun ends it\n".encode())
            return


def lost(error: BaseException) -> bool:
    """Whether *error* is torch's about the way to another process, and so a consequence of what happened there."""
    if isinstance(error, getattr(dist, "DistError", ())):
        return True
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_here = bool(files) and files[-1].startswith(_CODE)  # by no code of a user's
    reading = any(_READING in file for file in files)  # torch raises there what a worker has raised, in the user's code
    return isinstance(error, RuntimeError) and raised_here and not reading and _LOST.search(str(error)) is not None
