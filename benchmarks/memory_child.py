"""One epoch in a process of its own; prints by how many MB its peak was above what it had before."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import torch

from benchmarks._work import Work, mlp
from torchbasics import models


def main() -> None:
    """Train as the arguments say: model, contestant, number of images."""
    model, who, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    work = Work(mlp if model == "mlp" else _cnn, torch.rand(n, 1, 28, 28), torch.randint(10, (n,)))
    by_hand = who == "bare loop"
    run = (work.loop(work.gathered) if by_hand else work.fit())()
    gc.collect()
    before = _start()
    run()
    print(_peak() - before)


def _cnn() -> torch.nn.Module:
    return models.CNNModel().to(memory_format=torch.channels_last)


def _start() -> float:
    """Forget the peak so far, where the system can, and return what the process has now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    try:
        return _status("VmHWM")
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 2**10


if __name__ == "__main__":
    main()
