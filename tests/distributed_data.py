"""What each process of tests/test_distributed_data.py does: reads and trains on data of every kind, and keeps notes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from torchbasics import _world, training
from torchbasics.data._batches import make_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

N, EVEN, BATCH, EPOCHS = 25, 24, 8, 2  # 25 = 3 * 8 + 1: of the last batch most processes have nothing
Read = list[list[Tensor]]  # epoch -> batch -> the numbers of its samples


def samples() -> tuple[Tensor, Tensor]:
    """Samples that know their number, and what is to be learnt of them."""
    number = torch.arange(N, dtype=torch.float64)
    inputs = torch.stack([number / N, torch.sin(number), torch.cos(3 * number)], 1)  # (N, 3)
    return inputs, torch.stack([inputs.prod(1), inputs.sum(1).tanh()], 1)  # (N, 2)


def network() -> nn.Module:
    """A small one in float64."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """One by one."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        inputs, targets = samples()
        return inputs[i], targets[i]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Some of them as they come, and *sharded* where each process has others."""

    def __init__(self, numbers: range, *, sharded: bool = False) -> None:
        self.numbers = numbers
        self.sharded = sharded

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = samples()
        yield from ((inputs[i], targets[i]) for i in self.numbers)


def shard(rank: int, size: int) -> range:
    """Numbers of one process alone, of which the first has by far the most."""
    return range(N)[: N - 5 * (size - 1)] if rank == 0 else range(N)[N - 5 * (size - rank) :][:5]


def ends(rank: int, size: int) -> range:
    """Numbers of one process alone, of which the first has the fewest."""
    return [range(5), range(5, N if size == 2 else 14), range(14, N)][rank]


def data(kind: str, rank: int, size: int) -> tuple[Any, dict[str, Any]]:
    """The samples as a user may have them, and the options that go with that."""
    inputs, targets = samples()
    batches = list(zip(torch.split(inputs, BATCH), torch.split(targets, BATCH), strict=True))
    own = Stream(shard(rank, size), sharded=True)
    part = TensorDataset(inputs[shard(rank, size)], targets[shard(rank, size)])
    part.sharded = True  # type: ignore[attr-defined]  # for fit
    if kind == "sampler":
        even = TensorDataset(inputs[:EVEN], targets[:EVEN])
        sampler = DistributedSampler(even, size, rank, shuffle=True)  # type: ignore[var-annotated]
        return DataLoader(even, batch_size=4, sampler=sampler), {}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "pair": ((inputs, targets), {"batch_size": BATCH}),
        "dataset": (Samples(), {"batch_size": BATCH}),
        "workers": (Samples(), {"batch_size": BATCH, "workers": 2}),
        "loader": (DataLoader(Samples(), batch_size=BATCH, shuffle=True), {}),
        "list": (batches, {}),
        "iterator": (iter(batches), {}),
        "stream": (Stream(range(N)), {"batch_size": BATCH}),
        "own stream": (own, {"batch_size": BATCH}),
        "loader of own stream": (DataLoader(own, batch_size=3), {}),
        "loader of own samples": (DataLoader(part, batch_size=3), {}),
        "first ends": (DataLoader(Stream(ends(rank, size), sharded=True), batch_size=3), {}),
        "unmarked": (Stream(shard(rank, size)), {"batch_size": BATCH}),
    }
    return kinds[kind]


WHOLE = ("pair", "dataset", "workers", "loader", "list", "iterator", "stream")  # each process takes its part
OWN = (
    "sampler",
    "own stream",
    "loader of own stream",
    "loader of own samples",
    "first ends",
)  # each process has samples of its own


def epochs(kind: str) -> int:
    return 1 if kind == "iterator" else EPOCHS


def read(kind: str, world: _world.World) -> Read:
    """The samples that this process is given, and that count."""
    what, options = data(kind, world.rank, world.size)
    torch.manual_seed(world.seed(0))
    shuffled = kind in ("pair", "dataset", "workers")
    batches = make_batches(what, **{"batch_size": None, **options}, shuffle=shuffled, world=world)
    found = []
    for epoch in range(epochs(kind)):
        of_epoch = []
        for batch in batches.epoch(epoch):
            assert isinstance(batch.inputs, Tensor)
            numbers = (batch.inputs[:, 0] * N).round().long()
            of_epoch.append(numbers[:0] if batch.idle else numbers)
        found.append(of_epoch)
    return found


def train(kind: str, rank: int, size: int, **more: Any) -> tuple[Tensor, list[float]]:
    """The parameters that `fit` ends on, and the losses."""
    what, options = data(kind, rank, size)
    model = network()
    history = training.fit(
        model, what, epochs=epochs(kind), optimizer="sgd", lr=0.5, seed=0, progress=False, **options, **more
    )
    return nn.utils.parameters_to_vector(model.parameters()).detach(), [row["loss"] for row in history]


def measure(kind: str, rank: int, size: int) -> dict[str, float]:
    """What `evaluate` says of the untrained network."""
    return training.evaluate(network(), data(kind, rank, size)[0])


def normed() -> nn.Sequential:
    """A network that begins with batch norm, so that the statistics are those of the inputs."""
    torch.manual_seed(5)
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double()


def statistics(kind: str, rank: int, size: int) -> dict[str, Tensor]:
    """What batch norm ends with after an epoch."""
    what, options = data(kind, rank, size)
    model = normed()
    training.fit(model, what, epochs=1, optimizer="sgd", lr=0.5, seed=0, progress=False, **options)
    return {name: buffer.clone() for name, buffer in model[0].named_buffers()}


class HaltError(Exception):
    """Ends a run."""


class Halt:
    """Ends a run in the second epoch, when all but the first process have no more."""

    def on_step(self, state: training.State) -> None:
        if state.step == 9:
            raise HaltError


def in_parts(folder: Path, rank: int, size: int) -> tuple[Tensor, list[float]]:
    """Train on a stream, and go on from a checkpoint after which most processes have nothing to read any more."""
    options: dict[str, Any] = {"checkpoint": folder / "tail", "checkpoint_every": 1}
    with suppress(HaltError):
        train("own stream", rank, size, callbacks=[Halt()], **options)
    assert (folder / "tail" / "step-00000008").exists()
    return train("own stream", rank, size, **options)


def all_kinds(folder: Path) -> dict[str, Any]:
    """Do all of it, and return what came out."""
    world = _world.join()
    torch.manual_seed(world.seed(0))
    found: dict[str, Any] = {"random": torch.rand(3)}
    for kind in (*WHOLE, *OWN):
        found[kind] = {
            "read": read(kind, world),
            "trained": train(kind, world.rank, world.size),
            "measured": measure(kind, world.rank, world.size),
        }
    found["accumulated"] = train("pair", world.rank, world.size, accumulate=3)
    found["in parts"] = in_parts(folder, world.rank, world.size)
    found["statistics"] = {kind: statistics(kind, world.rank, world.size) for kind in ("sampler", "first ends")}
    try:
        train("unmarked", world.rank, world.size)
    except ValueError as e:
        found["told"] = str(e)
    return found
