"""A process that ends while a thread of gloo still holds a tensor of the last exchange, under torchrun.

All is on one processor, where gloo's threads run while nothing else does: after the exchange this process goes on at
once, and does not wait for anything before Python ends, but where the argument says so. When Python has begun to end,
it sleeps, and the thread goes on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from torchbasics import _meeting, _world


class Late:
    """Sleeps as Python ends."""

    def __del__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        sleep(0.5)


os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
world = _world.join()
vars(_meeting)["SETTLING"] = float(sys.argv[1])
for task in Path("/proc/self/task").iterdir():
    if int(task.name) != threading.get_native_id():
        os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
world.exchange(world.rank)
sys.setswitchinterval(100)
late = Late()
