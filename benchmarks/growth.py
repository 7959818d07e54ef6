"""Whether a step costs the same whatever there is around it."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks._measure import Part, Row, Settings, Times, measure, threads
from benchmarks._work import Work, train
from torchbasics import training

_FEW = 200_000


def growth(settings: Settings) -> Part:
    """Growth with samples, batch size, parameters and workers; microseconds of CPU time a step, one thread."""
    rows: list[Row] = []
    with threads(1):
        rows += _samples(settings)
        for size in (1, 10, 100, 1000) if not settings.quick else (1, 10):
            rows += _compared(f"batch of {size}", _work(784, 128, min(20_000, 500 * size), size), settings)
        for width in (16, 128, 1024, 4096) if not settings.quick else (16,):
            work = _work(784, width, 5000, 100)
            count = sum(p.numel() for p in work.model().parameters())
            rows += _compared(f"{count:,} parameters", work, settings)
        rows += _workers(settings)
    notes = [
        f"samples: 8 values each, a small network, batch 100, {_FEW:,} samples or more a figure, of whole calls",
        "workers: a dataset read sample by sample; wall time of an epoch",
    ]
    return Part(growth.__doc__ or "", rows, notes)


def _samples(settings: Settings) -> list[Row]:
    sizes = (1000, 2000) if settings.quick else (1000, 10_000, 100_000, 1_000_000, 10_000_000)
    times = Times()
    for n in sizes:
        work = _work(8, 16, n, 100)
        epochs = 1 if settings.quick else max(1, _FEW // n)
        loops = {f"bare loop, {n:,} samples": _epochs(work, epochs), f"fit, {n:,} samples": work.fit(epochs=epochs)}
        measured = measure(loops, settings.number(5, quick=1) if n < 10**6 else 1, warm_up=n < 10**6)
        scale = 1 / (work.steps() * epochs)
        times |= {name: [seconds * scale for seconds in values] for name, values in measured.items()}
    rows = times.rows("us", 1e6)
    rows += [times.ratio(f"fit, {n:,} samples", f"bare loop, {n:,} samples") for n in sizes]
    for who in ("fit", "bare loop"):
        few = times.row(f"{who}, {sizes[1]:,} samples", "us", 1).median
        many = times[f"{who}, {sizes[-1]:,} samples"]
        target = 1.1 if who == "fit" else None
        rows.append(Row(f"{who}: {sizes[-1]:,} / {sizes[1]:,} samples", [v / few for v in many], "", target, True))
    return rows


def _compared(name: str, work: Work, settings: Settings) -> list[Row]:
    loops = {f"bare loop, {name}": work.loop(work.gathered), f"fit, {name}": work.fit()}
    times = measure(loops, settings.number(5, quick=1), check=work.check())
    return [*times.rows("us", 1e6 / work.steps()), times.ratio(*reversed(loops))]


def _workers(settings: Settings) -> list[Row]:
    dataset = _Samples(settings.size(20_000, 50))
    times = Times()
    for n in (0, 1, 2) if not settings.quick else (0, 1):
        loops = {
            f"DataLoader loop, {n} workers": partial(_read, dataset, n),
            f"fit, {n} workers": partial(_fit_workers, dataset, n),
        }
        times |= measure(loops, settings.number(2, quick=1), clock=perf_counter)
    names = list(times)
    return [*times.rows("s", 1), *(times.ratio(fit, loop) for loop, fit in zip(names[::2], names[1::2], strict=True))]


class _Samples(Dataset[Any]):
    """A dataset that is read sample by sample."""

    def __init__(self, n: int) -> None:
        self.inputs = torch.zeros(n, 784)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index] * 2, 1


def _read(dataset: _Samples, workers: int) -> Any:
    model = _network(784, 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return lambda: (
        train(model, optimizer, DataLoader(dataset, batch_size=100, shuffle=True, num_workers=workers)) and None
    )


def _fit_workers(dataset: _Samples, workers: int) -> Any:
    model = _network(784, 128)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 100, "optimizer": "sgd", "lr": 0.01, "progress": False}
    return lambda: training.fit(model, dataset, workers=workers, **options) and None


def _epochs(work: Work, epochs: int) -> Any:
    return work.loop(lambda: (batch for _ in range(epochs) for batch in work.gathered()))


def _network(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 10))


def _work(inputs: int, width: int, n: int, batch_size: int) -> Work:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, inputs, generator=generator)
    targets = torch.randint(10, (n,), generator=generator)
    return Work(partial(_network, inputs, width), values, targets, batch_size)
