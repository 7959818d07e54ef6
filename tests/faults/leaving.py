"""A process that ends while a thread of gloo still holds a tensor of the last exchange, under torchrun.

All is on one processor, where gloo's threads run while nothing else does: after the exchange this process goes on at
once, and does not wait for anything before Python ends, but for as long as the first argument says. When Python has
begun to end, it sleeps, and the thread goes on. With the second argument "own" the group is no one of the package.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from torchbasics import _meeting, _world


class Late:
    """Sleeps as Python ends."""

    def __del__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        sleep(5)


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if sys.argv[2] == "own":
        dist.init_process_group("gloo")
    world = _world.join()
    vars(_meeting)["SETTLING"] = float(sys.argv[1])
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != threading.get_native_id():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
    world.exchange(world.rank)
    sys.setswitchinterval(100)
    late = Late()
