"""One epoch in a process of its own; prints by how many MB its peak was above what it had before."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import torch

from benchmarks._work import Work, mlp, train
from torchbasics import models, training


def main() -> None:
    """Train as the arguments say: model, contestant, number of images, "warm" if an optimizer was made before."""
    model, who, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    work = Work(mlp if model == "mlp" else _cnn, torch.rand(n, 1, 28, 28), torch.randint(10, (n,)))
    made = work.model()
    if "warm" in sys.argv:
        work.optimizer(made)
    gc.collect()
    before = _start()
    if who == "fit":
        training.fit(
            made, work.inputs, work.targets, epochs=1, batch_size=100, optimizer="sgd", lr=0.01, progress=False
        )
    else:
        train(made, work.optimizer(made), work.gathered())
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
