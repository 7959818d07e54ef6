"""What `fit` costs a step over the loop one would write: ``python benchmarks/overhead.py``.

Both run epoch by epoch in turns, in one process on one thread; CPU time, medians over pairs of epochs. The
loop has no metric, no check, and nothing to go on from after a crash.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
from time import process_time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from torchbasics import data, models, training

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS, BATCH, EPOCHS = 100, 100, 40


class Turns:
    """Times each epoch of `fit`, and after each one an epoch of the loop."""

    def __init__(self, loop: Callable[[int], None]) -> None:
        self.loop = loop
        self.of_fit: list[float] = []
        self.of_loop: list[float] = []

    def on_start(self, state: training.State) -> None:
        """Start the clock."""
        self.started = process_time()

    def on_epoch(self, state: training.State) -> None:
        """Stop the clock, and run the loop."""
        self.of_fit.append(process_time() - self.started)
        started = process_time()
        self.loop(len(state.history) - 1)
        self.of_loop.append(process_time() - started)
        self.started = process_time()


def compare(name: str, **options: Any) -> None:
    """Print a line of the table."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(STEPS * BATCH, 784), torch.randint(10, (STEPS * BATCH,))
    model = models.MLP(784, (128,), 10, batch_norm=options.pop("batch_norm", False))
    by_hand = copy.deepcopy(model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01)

    def loop(epoch: int) -> None:
        for index in torch.split(data.order(len(inputs), 0, epoch), BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(by_hand(inputs[index]), targets[index])
            torch.autograd.backward(loss)
            if "clip_norm" in options:
                nn.utils.clip_grad_norm_(by_hand.parameters(), options["clip_norm"])
            optimizer.step()

    turns = Turns(loop)
    options = {"batch_size": BATCH, "optimizer": "sgd", "lr": 0.01, "progress": False, **options}
    training.fit(model, inputs, targets, epochs=EPOCHS, callbacks=[turns], **options)
    if "ema" not in options and not torch.equal(next(model.parameters()), next(by_hand.parameters())):
        raise SystemExit(f"{name}: the two ended on other bits")
    pairs = list(zip(turns.of_fit, turns.of_loop, strict=True))[2:]
    bare = statistics.median(loop for _, loop in pairs) / STEPS * 1e6
    over = statistics.median(fit - loop for fit, loop in pairs) / STEPS * 1e6
    ratio = statistics.median(fit / loop for fit, loop in pairs)
    print(f"{name:32} {bare:9.1f} {over:+9.1f} {ratio:7.3f}", flush=True)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, MLP 784-128-10, batch {BATCH}, {EPOCHS} epochs of {STEPS} steps, microseconds")
    print(f"{'':32} {'loop':>9} {'fit over':>9} {'ratio':>7}")
    cases: dict[str, dict[str, Any]] = {
        "as it is": {},
        "without metrics": {"metrics": []},
        "clip_norm": {"clip_norm": 1.0},
        "batch norm": {"batch_norm": True},
        "ema": {"ema": 0.999},
    }
    for name in sys.argv[1:] or [*cases, "checkpoint once an epoch"]:
        if name in cases:
            compare(name, **cases[name])
        else:
            with tempfile.TemporaryDirectory() as folder:
                compare(name, checkpoint=folder)


if __name__ == "__main__":
    main()
