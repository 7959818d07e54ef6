"""What a second process brings, what `fit` costs there, and whether the cost model says so before."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._measure import Part, Row, Settings, Times
from benchmarks.cost_model import Network, Work, step
from benchmarks.scaling_child import network

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SMALL = 4  # bytes: all of it is latency


def scaling(settings: Settings) -> Part:
    """One process and two, of one thread each and with the same batch each (weak scaling); seconds of a step."""
    each, steps = settings.size(500, 8), settings.size(4, 2)
    gradient = sum(p.numel() * p.element_size() for p in network().parameters())
    times, small, large = Times(), [], []
    with ExitStack() as stack:
        one = stack.enter_context(_processes(1, each, steps, settings))
        two = stack.enter_context(_processes(2, each, steps, settings))
        contestants = {
            "1 process, bare loop": (one, "loop"),
            "1 process, fit": (one, "fit"),
            "2 processes, bare DDP": (two, "loop"),
            "2 processes, fit": (two, "fit"),
        }
        for turn in range(settings.number(15) + 1):
            for name, (processes, what) in list(contestants.items())[:: 1 if turn % 2 else -1]:
                seconds = _ask(processes, what)
                if turn:
                    times.setdefault(name, []).append(seconds)
            small.append(_ask(two, f"allreduce {SMALL}"))
            large.append(_ask(two, f"allreduce {gradient}"))
    hop = sorted(small)[len(small) // 2] / 2
    here = Network(gradient / max(sorted(large)[len(large) // 2] - 2 * hop, 1e-9), hop)
    times = Times({name: times[name] for name in contestants})
    alone = Work(sample=times.row("1 process, fit", "", 1).median / each, fixed=0.0, gradient=gradient, overlap=0.0)
    told = step(alone, each, 2, here)
    efficient = None if settings.busy else round(1 / 0.9, 3)  # processor time has no waiting in it
    rows = [
        *times.rows("ms", 1e3),
        times.ratio("2 processes, fit", "1 process, fit", efficient),
        times.ratio("2 processes, fit", "2 processes, bare DDP", 1.03),
        times.ratio("2 processes, bare DDP", "1 process, bare loop"),
    ]
    if not settings.busy:
        rows.append(Row("2 processes, by the cost model", [told * 1e3], "ms"))
        rows.append(
            Row("2 processes, fit / by the cost model", [s / told for s in times["2 processes, fit"]], "", None, True)
        )
    about = f"CNNModel(channels=(32, 64)), {each} images of each process a step, {gradient / 1e6:.2f} MB of gradients"
    wires = f"all-reduce here by gloo: {here.bandwidth / 1e9:.2f} GB/s, {here.latency * 1e6:.0f} us a hop"
    notes = [
        f"{about}; on the wall a ratio to one process of 1.111 is an efficiency of 0.9",
        f"{wires}; the model takes them and the time of one process, with no overlap: who computes here also sends",
    ]
    return Part(scaling.__doc__ or "", rows, notes)


@contextmanager
def _processes(number: int, each: int, steps: int, settings: Settings) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that wait for what they are asked, as torchrun would."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.scaling_child", str(each), str(steps), settings.clock().__name__]
    with socket.socket() as kept:  # its port is given to nobody else meanwhile, and the first process can listen there
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        if number > 1:
            port = str(kept.getsockname()[1])
            environment |= {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started = [
            subprocess.Popen(
                command,
                env={**environment, "RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(number)
        ]
        try:
            yield started
        finally:
            for process in started:
                process.communicate()  # the end of its input ends it


def _ask(processes: list[subprocess.Popen[str]], what: str) -> float:
    """Return the seconds of the slowest."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
    answers = [process.stdout.readline() for process in processes if process.stdout is not None]
    if not all(answers):
        raise SystemExit(f"a process ended instead of running {what!r}")
    return max(map(float, answers))
