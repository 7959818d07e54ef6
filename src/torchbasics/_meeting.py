"""Where the processes that torchrun, or anything like it, has started meet, and how they part again."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import stat
import sys
import threading
import time
import uuid
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=10)  # that the processes wait for each other; of your own with init_process_group
ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process
SETTLING = 2.0  # seconds at most that a process which ends, or forks, waits for torch's threads; they need a moment
RESTS = 5  # times that they are seen at rest: a thread that waits for Python sleeps, too; between two looks it has it
FORKS_WELL = sys.version_info >= (3, 11, 10)  # see `before_fork`
PARENT = os.getppid()
_met: Any = None  # the store over which the processes meet
_gloo = False  # whether this process has had a group with gloo
_joined = False  # whether the process group is this module's
_connections: set[tuple[int, int]] = set()  # of that group


class DistributedError(RuntimeError):
    """Another process of the run has failed, or the processes do not find each other."""


def restarts() -> int:
    """Return how often torchrun has started this job anew."""
    return number("TORCHELASTIC_RESTART_COUNT", 0)


def in_job() -> bool:
    """Whether torchrun has started this process."""
    return bool(os.environ.get("TORCHELASTIC_RUN_ID"))


def job() -> str:
    """Return a name of this job of torchrun's, the same after each of its restarts."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"{name} of {socket.gethostname()}, {PARENT}" if name == "none" else name


def number(name: str, default: int) -> int:
    """Return the number that the environment variable *name* holds."""
    said = os.environ.get(name) or str(default)
    try:
        return int(said)
    except ValueError:
        raise ValueError(f"{name}={said!r} is no number; start the processes with torchrun, or unset it") from None


def join() -> None:
    """Meet the other processes, where the environment tells of some."""
    global _met, _joined, _connections  # noqa: PLW0603  # the process group is global, too
    said = {name: os.environ.get(name) for name in ADDRESS}
    missing = [name for name, value in said.items() if not value]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={said['WORLD_SIZE']} says that there are more processes, but {', '.join(missing)} is not "
            "set; start them with torchrun, or unset WORLD_SIZE"
        )
    rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
    if not 0 <= rank < size:
        raise ValueError(f"RANK={rank} is not in 0 .. WORLD_SIZE - 1 = {size - 1}; start the processes with torchrun")
    if not 0 < number("MASTER_PORT", 0) < 2**16:
        raise ValueError(f"MASTER_PORT={said['MASTER_PORT']} is no port; give one in 1 .. 65535, the same for all")
    backend = "gloo"
    if torch.cuda.is_available():  # pragma: no cover  # CUDA
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(number("LOCAL_RANK", 0) % torch.cuda.device_count())  # SLURM may show each its own alone
    try:
        if _met is None:
            _see_agent()
            _met = _shared(said["MASTER_ADDR"] or "", number("MASTER_PORT", 0), rank)
        name = _meet(_met, rank, size)  # so that all are connected to the store, whose sockets are not the group's
        before = _sockets()
        store = dist.PrefixStore(f"torchbasics/{name}", _met)  # type: ignore[attr-defined]  # it is public
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError, OSError) as e:  # a port in use, another number of processes, no way there
        where = f"{said['MASTER_ADDR']}:{said['MASTER_PORT']}"
        raise DistributedError(
            f"process {rank} of {size} did not meet the others at {where}: {told(e)}; see that the address and the "
            "port are free and the same for all, and that as many processes start as WORLD_SIZE says"
        ) from e
    _connections = _sockets() - before
    _joined = True


def _shared(address: str, port: int, rank: int) -> Any:
    """Return the store that process 0 keeps, or torchrun.

    Raises:
        RuntimeError: it cannot be reached, or what listens there is something else.
    """
    made: list[Any] = []

    def make() -> None:
        options: dict[str, Any] = {"is_master": rank == 0 and not agent_keeps_store(), "timeout": TIMEOUT}
        try:
            made.append(dist.TCPStore(address, port, wait_for_workers=False, multi_tenant=True, **options))  # type: ignore[attr-defined]  # it is public
        except Exception as e:
            made.append(e)

    thread = threading.Thread(target=make, daemon=True)  # torch waits without end for an answer once it is connected
    thread.start()
    thread.join(TIMEOUT.total_seconds() + 5)
    if not made:
        raise RuntimeError("something is listening there that does not answer")
    if isinstance(made[0], Exception):
        raise made[0]
    return made[0]


def _meet(store: Any, rank: int, size: int) -> str:
    """Return a name that the processes which are here now have, and no other: torchrun's store outlives them.

    Raises:
        RuntimeError: not all came in time, or they do not agree how many they are.
    """
    mine, at = uuid.uuid4().hex, "torchbasics/meeting"
    if rank > 0:
        store.set(f"{at}/{rank}", f"{mine} {size}")
        name, _, refused = store.get(f"{at}/{mine}").decode().partition(" ")
        store.set(f"{at}/{name}/{rank}", refused)
        if refused:
            raise RuntimeError(refused)
        return str(name)
    away, until = set(range(1, size)), time.monotonic() + TIMEOUT.total_seconds()
    while away:
        for other in sorted(away):
            if store.check([f"{at}/{other}"]):
                theirs, _, their_size = store.get(f"{at}/{other}").decode().partition(" ")
                answer = mine
                if int(their_size) != size:  # it may be of a round before
                    answer += f" WORLD_SIZE={size} in process 0, and {their_size} in process {other}"
                store.set(f"{at}/{theirs}", answer)
            if store.check([f"{at}/{mine}/{other}"]):
                away.remove(other)
                refused = store.get(f"{at}/{mine}/{other}").decode()
                if refused:
                    raise RuntimeError(refused)
        if away and time.monotonic() > until:
            told = ", ".join(map(str, sorted(away)))
            raise RuntimeError(f"process {told} did not come in {TIMEOUT.total_seconds():g} s")
        time.sleep(0.01)
    return mine


def mind_end() -> None:
    """See that this process, which has a group, whoever made it, ends well."""
    global _gloo  # noqa: PLW0603  # the process group is global, too
    _gloo = _gloo or "gloo" in dist.distributed_c10d.get_backend_config()


def _end() -> None:
    """Leave as the process ends; of gloo the system closes what is open, and to wait for the others may be for ever."""
    if _joined and dist.is_initialized() and "nccl" in dist.get_backend():
        leave()  # pragma: no cover  # CUDA
    if _gloo and sys.version_info < (3, 14):  # which stops threads that want Python too late
        _settle()


atexit.register(_end)  # here, so that what others register runs before


def before_fork() -> None:
    """Wait, where there is a process group, until its threads rest, but not for an exchange that is under way.

    One that is letting go of a tensor may hold a lock of Python's, for which a process that is forked meanwhile, as a
    DataLoader's workers are, waits for ever: CPython's gh-112275, mended in 3.11.10 and 3.12. To be called before
    forks: what a signal's handler raises in a hook of `os.register_at_fork` would be lost. What a user's own iterable
    forks in the midst of an epoch is not covered.
    """
    if not FORKS_WELL and dist.is_available() and dist.is_initialized():
        _settle()


def _settle() -> None:
    """Wait until torch's threads rest; where the system has no /proc, for a moment.

    One of gloo's may still hold a tensor of the last exchange. To let go of it, it needs Python, and where Python ends
    at that time it aborts the process ("terminate called without an active exception"). A thread that waits for another
    process rests, too.
    """
    until, rests = time.monotonic() + SETTLING, 0
    while rests < RESTS and time.monotonic() < until:
        time.sleep(0.01)
        rests = 0 if _busy() else rests + 1


def _busy() -> bool:
    """Return whether a thread of this process that is none of Python's is running or runnable."""
    known = {str(thread.native_id) for thread in threading.enumerate()}
    for path in Path("/proc/self/task").glob("*/stat"):  # none where there is no such folder
        with suppress(OSError):  # it has ended
            if path.parent.name not in known and path.read_text().rpartition(")")[2].split()[0] != "S":
                return True
    return False


def leave() -> None:
    """Go from the group, which ends what others wait for; one of the user's own is left to them."""
    global _joined  # noqa: PLW0603  # the process group is global, too
    if _joined and dist.is_initialized():
        _hang_up()
        with suppress(Exception):  # what is broken already
            group = dist.distributed_c10d._get_default_group()  # no public name
            if "nccl" not in dist.get_backend():  # gloo, taken down after a failure, may wait for ever (torch 2.6)
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
            dist.destroy_process_group()
    _joined = False


def mind_agent() -> None:
    """See from now on whether torchrun is still there, which started this process."""
    name = "torchbasics.agent"
    if in_job() and all(thread.name != name for thread in threading.enumerate()):
        threading.Thread(target=_watch, daemon=True, name=name).start()


def _watch() -> None:
    """End this process, and those it has started, when the agent is gone: nobody else would."""
    while os.getppid() == PARENT:
        time.sleep(0.2)
    with suppress(OSError):
        os.write(2, b"torchrun is gone; this process ends\n")
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():  # as torchrun starts them
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def agent_keeps_store() -> bool:
    """Return whether torchrun's agent, and not the first process, has the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _see_agent() -> None:
    """Raise OSError where the agent has gone before this process was up; torch would wait for it until the timeout."""
    if agent_keeps_store():
        address = os.environ["MASTER_ADDR"], number("MASTER_PORT", 0)
        socket.create_connection(address, timeout=min(60.0, TIMEOUT.total_seconds())).close()


def told(error: BaseException) -> str:
    """Return an error's type and the first line of what it says: torch puts a stack below."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def store() -> Any:
    """Return what the processes of the group share."""
    from torch.distributed import distributed_c10d

    return _met if _joined else distributed_c10d._get_default_store()  # no public name


def is_own() -> bool:
    """Whether the process group is none of the user's."""
    return _joined


def _sockets() -> set[tuple[int, int]]:
    """Return the sockets of this process: descriptor, and inode, as numbers are used again."""
    found = set()
    for path in Path("/proc/self/fd").glob("*"):  # none where there is no such folder
        with suppress(OSError):
            about = os.fstat(int(path.name))
            if stat.S_ISSOCK(about.st_mode):
                found.add((int(path.name), about.st_ino))
    return found


def _hang_up() -> None:
    """Shut the group's connections, so that the others notice.

    Torch leaves them open as long as anything, such as a DistributedDataParallel in a traceback, holds the group.
    """
    for number, _ in _connections & _sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            connection.getpeername()  # raises where it is none, but waits for some: gloo aborts without it
            connection.shutdown(socket.SHUT_RDWR)
    _connections.clear()
