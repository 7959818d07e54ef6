"""The processes of a run: who this one is, what they tell each other, and how the failure of one ends them all."""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TIMEOUT = timedelta(minutes=10)  # that the processes wait for each other; of your own with init_process_group
ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process
FAILED = "torchbasics/failed"  # where in the processes' common store the first failure is told
_LOST = re.compile(r"connection|peer|gloo|nccl|socket|timed? ?out|broken pipe|store", re.IGNORECASE)
_joined = False  # whether the process group is this module's
_runs = 0  # that all processes have begun


class DistributedError(RuntimeError):
    """Another process of the run has failed, or the processes do not find each other."""


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

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give *tensors* the values that they have in process 0."""
        if self.size > 1:
            for tensor in tensors:
                there = tensor.detach()
                sent = there.contiguous()
                dist.broadcast(sent, 0)
                if not self.first:
                    there.copy_(sent)

    @torch.no_grad()
    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace *tensors* by their sums over the processes."""
        for kind in sorted({(t.dtype, t.device) for t in tensors}, key=str):
            alike = [t for t in tensors if (t.dtype, t.device) == kind]
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

        Raises:
            DistributedError: another process was the first to fail, or is gone.
        """
        if self.size == 1:
            yield
            return
        global _runs  # noqa: PLW0603  # all processes count alike
        _runs += 1
        key = f"{FAILED}/{_runs}"
        try:
            yield
        except Exception as e:
            cause = self._first_failure(key, e)
            _leave()
            if cause is not None and isinstance(e, RuntimeError) and _LOST.search(str(e)):
                raise DistributedError(cause) from e
            raise

    def _first_failure(self, key: str, error: Exception) -> str | None:
        """Tell of this process's failure, and return that of another which came first."""
        lost = isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
        mine = f"process {self.rank} failed: {type(error).__name__}: {error}"
        if lost:
            mine = f"another process than {self.rank} is gone: {error}"
            time.sleep(0.1)  # it may be about to tell
        try:
            found = _store().compare_set(key, "", mine).decode()
        except Exception:  # the store went with the process that kept it
            found = mine
        return found if lost or found != mine else None

    def _device(self) -> str:
        return "cpu" if "gloo" in dist.get_backend() or "cpu" in dist.get_backend() else "cuda"


ALONE = World()


def join() -> World:
    """Return the processes of this run: those that torchrun started, or those of the user's own process group.

    Raises:
        ValueError: the environment says that there are several, and not where.
        DistributedError: they did not come together.
    """
    if not dist.is_available():
        return ALONE
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE") or 1) <= 1:
            return ALONE
        _join()
    return World(dist.get_rank(), dist.get_world_size()) if dist.get_world_size() > 1 else ALONE


def _join() -> None:
    global _joined  # noqa: PLW0603  # the process group is global, too
    said = {name: os.environ.get(name) for name in ADDRESS}
    missing = [name for name, value in said.items() if not value]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={said['WORLD_SIZE']} says that there are more processes, but {', '.join(missing)} is not "
            "set; start them with torchrun, or unset WORLD_SIZE"
        )
    rank, size = int(said["RANK"] or 0), int(said["WORLD_SIZE"] or 1)
    if not 0 <= rank < size:
        raise ValueError(f"RANK={rank} is not in 0 .. WORLD_SIZE - 1 = {size - 1}; start the processes with torchrun")
    backend = "gloo"
    if torch.cuda.is_available():  # pragma: no cover  # CUDA
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as e:  # a port in use, another number of processes, no way there
        where = f"{said['MASTER_ADDR']}:{said['MASTER_PORT']}"
        raise DistributedError(
            f"process {rank} of {size} did not meet the others at {where}: {e}; see that the address and the port are "
            "free and the same for all, and that as many processes start as WORLD_SIZE says"
        ) from e
    _joined = True
    atexit.register(_leave)
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="torchbasics.agent").start()


def _leave() -> None:
    """Go from the group, which ends what others wait for; one of the user's own is left to them."""
    global _joined  # noqa: PLW0603
    if _joined and dist.is_initialized():
        with suppress(Exception):  # what is broken already
            dist.destroy_process_group()
    _joined = False


def _watch(parent: int) -> None:
    """End this process when the agent that started it is gone: nobody else would."""
    while os.getppid() == parent:
        time.sleep(1)
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"torchrun is gone; this process ends\n")
    os._exit(1)


def _store() -> Any:
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()  # no public name
