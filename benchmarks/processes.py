"""What is measured from outside, in fresh processes: imports, the command, memory; and files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from benchmarks._measure import Part, Settings, Times, measure
from torchbasics import io, models

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]


def imports(settings: Settings) -> Part:
    """Import time; seconds of processor time (user and system) of a fresh interpreter."""
    codes = {
        "nothing": "pass",
        "import torch, safetensors": "import torch, safetensors",
        "the four modules": "from torchbasics import models, training, io, hub",
        "import torchbasics": "import torchbasics",
    }
    times = _in_turns({name: partial(_cpu_time, "-c", code) for name, code in codes.items()}, settings.number(15))
    rows = [
        *times.rows("s", 1),
        times.ratio("the four modules", "import torch, safetensors", 1.05),
        times.over("import torchbasics", "nothing", "s", 1),
    ]
    return Part(imports.__doc__ or "", rows, ["the four modules: `from torchbasics import models, training, io, hub`"])


def command(settings: Settings) -> Part:
    """Start-up of the command; seconds on the wall of a fresh process."""
    lines = {"--help": ["--help"], "list": ["list"], "--version": ["--version"]}
    contestants = {name: partial(_wall_time, "-m", "torchbasics", *line) for name, line in lines.items()}
    times = _in_turns({"python -c pass": partial(_wall_time, "-c", "pass"), **contestants}, settings.number(15))
    rows = [times.row("python -c pass", "s", 1), *(times.row(name, "s", 1, 0.15) for name in lines)]
    for row in rows[1:]:
        row.name, row.comparison = f"torchbasics {row.name}", True
    return Part(command.__doc__ or "", rows)


def files(settings: Settings) -> Part:
    """Saving and loading, a small model (the CNN, 0.2 MB) and a larger one (MLP, 40 MB); ms on the wall."""
    width = settings.size(2800, 50)
    with tempfile.TemporaryDirectory() as folder:
        contestants: dict[str, Any] = {}
        for size, model in {"small": models.CNNModel(), "large": models.MLP(784, (width, width), 10)}.items():
            path = Path(folder, size)
            io.save(model, f"{path}.safetensors")
            torch.save(model.state_dict(), f"{path}.pt")
            safetensors.torch.save_file(model.state_dict(), f"{path}.st")
            contestants |= {
                f"torch.save, {size}": _later(torch.save, model.state_dict(), f"{path}.pt"),
                f"safetensors save_file, {size}": _later(safetensors.torch.save_file, model.state_dict(), f"{path}.st"),
                f"io.save, {size}": _later(io.save, model, f"{path}.safetensors"),
                f"torch.load, {size}": _later(torch.load, f"{path}.pt", weights_only=True),
                f"safetensors load_file, {size}": _later(safetensors.torch.load_file, f"{path}.st"),
                f"io.load, {size}": _later(io.load, f"{path}.safetensors"),
            }
        times = measure(contestants, settings.number(9), clock=perf_counter)
    rows = times.rows("ms", 1e3)
    for size in ("small", "large"):
        rows.append(times.ratio(f"io.save, {size}", f"torch.save, {size}"))
        rows.append(times.ratio(f"io.load, {size}", f"torch.load, {size}"))
    notes = ["io.save writes to a new file, waits for the disk (fsync) and renames; io.load checks the digest; the "]
    notes = [f"{notes[0]}others do neither; io.load makes the model as well, the others return tensors"]
    return Part(files.__doc__ or "", rows, notes)


def memory(settings: Settings) -> Part:
    """Peak memory of training, more than the process had before; MB, fresh processes."""
    n = settings.images()[0]
    cases = {"mlp": ("mlp",), "cnn": ("cnn",), "mlp, warm": ("mlp", "warm"), "cnn, warm": ("cnn", "warm")}
    figures = Times()
    for _ in range(settings.number(3, quick=1)):
        for case, (model, *warm) in cases.items():
            for who in ("bare loop", "fit"):
                printed = _python("-m", "benchmarks.memory_child", model, who, str(n), *warm).stdout
                figures.setdefault(f"{case}: {who}", []).append(float(printed))
    rows = figures.rows("MB", 1)
    for case in cases:
        target = None if "warm" in case else 1.02
        rows.append(figures.ratio(f"{case}: fit", f"{case}: bare loop", target))
        rows.append(figures.over(f"{case}: fit", f"{case}: bare loop", "MB", 1))
    notes = [
        f"{n} images as float tensors, one epoch, one thread; the bare loop gathers its batches",
        "warm: an optimizer was made before; the first one makes torch import its compiler, in both",
    ]
    return Part(memory.__doc__ or "", rows, notes)


def _in_turns(contestants: dict[str, Callable[[], float]], rounds: int) -> Times:
    times = Times({name: [] for name in contestants})
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            seconds = run()
            if turn:  # the first one reads the disk
                times[name].append(seconds)
    return times


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its compiled files
    return subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True)


def _cpu_time(*arguments: str) -> float:
    before = os.times()
    _python(*arguments)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _wall_time(*arguments: str) -> float:
    started = perf_counter()
    _python(*arguments)
    return perf_counter() - started


def _later(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Callable[[], Any]]:
    return lambda: partial(function, *arguments, **options)
