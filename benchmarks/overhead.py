"""What `fit` costs a step over the loop one would write: ``python benchmarks/overhead.py [--device cuda] [CASE ...]``.

Both run epoch by epoch in turns, in one process on one thread; CPU time, on a GPU the time until it is done, medians
over pairs of epochs. The loop has no metric, no check, and nothing to go on from after a crash.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from time import perf_counter, process_time
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

    def __init__(self, loop: Callable[[int], None], clock: Callable[[], float]) -> None:
        self.loop = loop
        self.clock = clock
        self.of_fit: list[float] = []
        self.of_loop: list[float] = []

    def on_start(self, state: training.State) -> None:
        """Start the clock."""
        self.started = self.clock()

    def on_epoch(self, state: training.State) -> None:
        """Stop the clock, and run the loop."""
        self.of_fit.append(self.clock() - self.started)
        started = self.clock()
        self.loop(len(state.history) - 1)
        self.of_loop.append(self.clock() - started)
        self.started = self.clock()


def when_done() -> float:
    """Return the time when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return perf_counter()


def compare(name: str, device: str, **options: Any) -> None:
    """Print a line of the table."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(STEPS * BATCH, 784), torch.randint(10, (STEPS * BATCH,))
    model = models.MLP(784, (128,), 10, batch_norm=options.pop("batch_norm", False)).to(device)
    by_hand = copy.deepcopy(model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01, fused=options.get("fused"))

    def loop(epoch: int) -> None:
        for index in torch.split(data.order(len(inputs), 0, epoch), BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(by_hand(inputs[index].to(device)), targets[index].to(device))
            torch.autograd.backward(loss)
            if "clip_norm" in options:
                nn.utils.clip_grad_norm_(by_hand.parameters(), options["clip_norm"])
            optimizer.step()

    turns = Turns(loop, process_time if device == "cpu" else when_done)
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, MLP 784-128-10, batch {BATCH}, {EPOCHS} epochs of {STEPS} steps, microseconds")
    print(f"{'':32} {'loop':>9} {'fit over':>9} {'ratio':>7}")
    cases: dict[str, dict[str, Any]] = {
        "as it is": {},
        "without metrics": {"metrics": []},
        "fused": {"fused": True},
        "clip_norm": {"clip_norm": 1.0},
        "batch norm": {"batch_norm": True},
        "ema": {"ema": 0.999},
    }
    for name in args.cases or [*cases, "checkpoint once an epoch"]:
        if name in cases:
            compare(name, args.device, **cases[name])
        else:
            with tempfile.TemporaryDirectory() as folder:
                compare(name, args.device, checkpoint=folder)


if __name__ == "__main__":
    main()
