"""One of the processes of the part scaling: told on its input what to run, prints how many seconds a step took."""

from __future__ import annotations

import sys
import warnings
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from torchbasics import _world, data, models, training

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Answer line by line: "fit", "loop" or "allreduce BYTES"; arguments: samples a step of each, steps, clock."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    each, steps = int(sys.argv[1]), int(sys.argv[2])
    clock = process_time if sys.argv[3] == "process_time" else perf_counter
    size = _world.join().size
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(each * size * steps, 1, 28, 28, generator=generator)
    targets = torch.randint(10, (len(inputs),), generator=generator)
    for line in sys.stdin:
        what, *number = line.split()
        if size > 1:
            dist.barrier()
        if what == "allreduce":
            seconds = all_reduce(int(number[0]))
        else:
            seconds = (fit if what == "fit" else loop)(inputs, targets, each * size, clock) / steps
        print(seconds, flush=True)


def network() -> nn.Module:
    """Return the network of all: much compute for its parameters."""
    torch.manual_seed(0)
    return models.CNNModel(channels=(32, 64)).to(memory_format=torch.channels_last)


class Stopwatch:
    """Notes when the epochs of `fit` end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ends: list[float] = []

    def on_epoch(self, state: training.State) -> None:
        """Note it."""
        self.ends.append(self.clock())


def fit(inputs: Tensor, targets: Tensor, batch_size: int, clock: Callable[[], float]) -> float:
    """Return the seconds of the second epoch of `fit`."""
    watch = Stopwatch(clock)
    options: dict[str, Any] = {"batch_size": batch_size, "optimizer": "sgd", "lr": 0.01, "seed": 0, "progress": False}
    training.fit(network(), inputs, targets, epochs=2, callbacks=[watch], **options)
    return watch.ends[1] - watch.ends[0]


def loop(inputs: Tensor, targets: Tensor, batch_size: int, clock: Callable[[], float]) -> float:
    """Return the seconds of the second epoch of the loop one would write, with DistributedDataParallel if several."""
    several = dist.is_initialized()
    rank, size = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    model = DistributedDataParallel(network()) if several else network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seconds = 0.0
    for epoch in range(2):
        started = clock()
        for whole in torch.split(data.order(len(inputs), 0, epoch), batch_size):
            index = whole.tensor_split(size)[rank]
            optimizer.zero_grad()
            images = inputs[index].contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(images), targets[index])
            torch.autograd.backward(loss)
            optimizer.step()
        seconds = clock() - started
    return seconds


def all_reduce(size: int) -> float:
    """Return the seconds of an all-reduce of so many bytes, the middle of several."""
    values = torch.zeros(max(1, size // 4))
    found = []
    for _ in range(21):
        dist.barrier()
        started = perf_counter()
        dist.all_reduce(values)
        found.append(perf_counter() - started)
    return sorted(found)[len(found) // 2]


if __name__ == "__main__":
    main()
