"""Where a step's time goes, op by op: ``python -m benchmarks --profile cnn``."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks._measure import Settings, threads
from benchmarks._work import images
from torchbasics import models, training

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mlp": (lambda: models.MLP(784, (128,), 10), {"optimizer": "sgd", "lr": 0.01}),
    "cnn": (models.CNNModel, {"optimizer": "sgd", "lr": 0.01}),
    "bfloat16": (models.CNNModel, {"optimizer": "sgd", "lr": 0.01, "precision": "bfloat16"}),
    "dcgan": (models.DCGAN, {}),
}
SHOWN = 25


def show(name: str, settings: Settings) -> None:
    """Print the milliseconds of one thread in each op, a step of `fit`, the most first."""
    make, options = CASES[name]
    train = images(*settings.images())[0][: settings.size(5000, 200)]
    options = {"epochs": 1, "batch_size": 100, "progress": False, **options}
    steps = -(-len(train) // 100)
    with threads(1):
        training.fit(make(), train, **options)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            training.fit(make(), train, **options)
    ops = sorted(profiled.key_averages(group_by_input_shape=True), key=lambda op: -op.self_cpu_time_total)
    total = sum(op.self_cpu_time_total for op in ops) / steps / 1e3
    print(f"{name}: {total:.3f} ms a step in ops, one thread, torch {torch.__version__}\n")
    print("| op | inputs | calls a step | ms a step | share |\n|---|---|---|---|---|")
    for op in ops[:SHOWN]:
        took = op.self_cpu_time_total / steps / 1e3
        shapes = " ".join("x".join(map(str, s)) for s in op.input_shapes if isinstance(s, list) and s)[:60]
        print(f"| {op.key} | {shapes} | {op.count / steps:.2f} | {took:.4f} | {took / total:.1%} |")
