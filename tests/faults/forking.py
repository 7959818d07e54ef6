"""A process under torchrun that is to fork workers for its data while a thread of gloo holds the last exchange's tensor.

All is on one processor, where gloo's threads run while nothing else does: after the exchange they still hold what was
sent as the fork begins. This process then waits for them. Prints how often they held something before and after that.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from torchbasics import _meeting, training

FORKS = 4

if __name__ == "__main__":
    multiprocessing.set_start_method("fork")  # which Python 3.14 does no more by itself
    sent: list[weakref.ref[torch.Tensor]] = []
    held: dict[str, list[bool]] = {"before": [], "after": []}

    def look(when: str) -> None:
        """Note whether one of the tensors is still there."""
        held[when].append(any(ref() is not None for ref in sent))

    def look_and_wait(wait: Callable[[], None] = _meeting.before_fork) -> None:
        """Note it before, and wait."""
        look("before")
        wait()

    vars(_meeting).update(SETTLING=120.0, FORKS_WELL=False, before_fork=look_and_wait)
    os.register_at_fork(before=lambda: look("after"))
    dist.init_process_group("gloo")
    samples, model = TensorDataset(torch.arange(4.0)[:, None]), torch.nn.Linear(1, 1)
    data = samples if sys.argv[1] == "dataset" else DataLoader(samples, num_workers=1)
    dist.all_reduce(torch.ones(1))  # so that all threads are there
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), os.sched_getaffinity(0))
        if int(task.name) != threading.get_native_id():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
    for _ in range(FORKS):
        tensor = torch.ones(2**10)
        sent[:] = [weakref.ref(tensor)]
        work = dist.all_reduce(tensor, async_op=True)
        del tensor, work
        training.predict(model, data, workers=int(data is samples))
    print(*(f"{sum(found)} of {len(found)} {when}" for when, found in held.items()), sep=", ")
