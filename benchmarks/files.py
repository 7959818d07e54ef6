"""What reading a checked file costs: ``python benchmarks/files.py [MB]``.

`torchbasics.io.load` checks a SHA-256 over all bytes, every value, and makes the model; ``torch.load`` and
``safetensors.torch.load_file`` return a dictionary of tensors and check nothing. Each reads one file of about a
gigabyte in a process of its own, in turns, then sums every tensor, so that memory-mapped ones are read as well.
Printed are medians over the rounds: warm, the file being in the system's cache, and cold, after it was dropped.
Peak memory is that of the process over what it had before (VmHWM, which counts mapped pages too), as a multiple of
the file; for `io.load` that includes the model.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch

from torchbasics import io, models

READERS = ("io.load", "torch.load", "safetensors.load_file")
ORDERS = list(itertools.permutations(READERS))  # one round each: none always comes after the same other


def high_water() -> int:
    """Return the most memory that this process has had, in bytes, and start counting anew."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


def measure(reader: str, folder: Path, *, cold: bool) -> dict[str, float]:
    """Read the file, sum the tensors; return seconds and peak memory."""
    io.load(folder / "small.safetensors")  # imports, threads
    file = folder / ("model.pt" if reader == "torch.load" else "model.safetensors")
    torch.ones(4 * file.stat().st_size, dtype=torch.uint8)  # a virtual machine gets memory when it is first used
    drop(file) if cold else file.read_bytes()
    high_water()
    before = high_water()
    start = time.perf_counter()
    if reader == "io.load":
        state = io.load(file).state_dict()
    elif reader == "torch.load":
        state = torch.load(file, weights_only=True)
    else:
        state = safetensors.torch.load_file(file)
    total = sum(float(tensor.sum()) for tensor in state.values())
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": float(high_water() - before), "total": total}


def drop(path: Path) -> None:
    """Take the file out of the system's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def rounds(folder: Path, *, cold: bool) -> dict[str, list[dict[str, float]]]:
    """Measure all readers in turns."""
    found: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
    for order in ORDERS:
        for reader in order:
            command = [sys.executable, __file__, "--measure", reader, str(folder), *(["--cold"] if cold else [])]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            found[reader].append(json.loads(run.stdout))
    if len({measured["total"] for of_reader in found.values() for measured in of_reader}) != 1:
        raise SystemExit("the readers returned other values")
    return found


def main() -> None:
    """Print the table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    width = round((megabytes * 2**20 / 4 / 8) ** 0.5)  # eight square layers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = models.MLP(width, (width,) * 7, width)
        io.save(models.MLP(2, (), 2), folder / "small.safetensors")
        io.save(model, folder / "model.safetensors")
        torch.save(model.state_dict(), folder / "model.pt")
        del model
        size = (folder / "model.safetensors").stat().st_size
        print(f"torch {torch.__version__}, {os.cpu_count()} cores, {size / 2**20:.0f} MiB, medians of {len(ORDERS)}\n")
        print("| | reader | seconds | of the faster other | of torch.load | peak memory / file |")
        print("|---|---|---|---|---|---|")
        for cold in (False, True):
            found = rounds(folder, cold=cold)
            seconds = {reader: statistics.median(m["seconds"] for m in found[reader]) for reader in READERS}
            for reader in READERS:
                ratio = seconds[reader] / min(seconds[other] for other in READERS[1:])
                of_torch = seconds[reader] / seconds["torch.load"]
                memory = statistics.median(m["memory"] for m in found[reader]) / size
                state = "cold" if cold else "warm"
                print(f"| {state} | {reader} | {seconds[reader]:.3f} | {ratio:.2f} | {of_torch:.2f} | {memory:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]), cold="--cold" in sys.argv)))
    else:
        main()
