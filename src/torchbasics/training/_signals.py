"""What ends a run from outside: signals, and the end of its time."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
INTERRUPTED = ("signal", "time")  # the reasons after which a run can be gone on with

Reason = Literal["signal", "time"]


class Interrupts:
    """Asked at each step border whether to end the run there; within ``with``, signals are taken as a request.

    A second Ctrl-C is a KeyboardInterrupt at once. Signals that the process ignores stay ignored. One that came too
    late to end the run is handed to the handler of before, once the run is over.

    Args:
        time_limit: Seconds from ``with`` on.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self.time_limit = time_limit
        self.deadline = float("inf")
        self.signal: int | None = None
        self.heeded = False
        self.previous: dict[int, Any] = {}

    def __call__(self) -> Reason | None:
        """Return why the run is to end, None = it is not."""
        if self.signal is not None:
            self.heeded = True
            return "signal"
        return "time" if monotonic() > self.deadline else None

    def __enter__(self) -> Interrupts:
        if self.time_limit is not None:
            self.deadline = monotonic() + self.time_limit
        if threading.current_thread() is not threading.main_thread():
            logging.getLogger("torchbasics").warning(
                "fit runs outside the main thread, where signals cannot be received; time_limit or a callback ends it"
            )
            return self
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by something that is not Python
                self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()
        if self.signal is not None and not self.heeded and error is None:
            signal.raise_signal(self.signal)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            # print() may be what was interrupted, and cannot be entered twice; a terminal may be gone
            with suppress(OSError):
                os.write(2, f"\n{name}: ending the run after this step; Ctrl-C ends it at once\n".encode())
