"""The batches of a loader of the user's: a DataLoader, a stream, a list or an iterator, as they come."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from torchbasics import _meeting
from torchbasics.data._batch import Batch, as_batch, part
from torchbasics.data._facts import digest, loader_facts
from torchbasics.data._seeded import generators_kept, set_states, states
from torchbasics.data._sized import Batches, cut


class LoaderBatches(Batches):
    """The batches of a DataLoader, a list or an iterator, as they come.

    Attributes:
        exact: Whether an epoch goes on from its middle with the batches it would have had: a loader with the
            ``state_dict`` protocol brings them back, and a list has no other.
        shared: Whether the loader itself gives each process samples of its own: it has a `DistributedSampler`, or the
            loader or its dataset an attribute ``sharded`` that is true. Any other is read by all, each taking its part.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.once = isinstance(loader, Iterator)
        self.samples = None
        self.stateful = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self.exact = self.stateful or isinstance(loader, list)
        self.given = 0  # batches of the running epoch
        marked = any(getattr(one, "sharded", False) for one in (loader, getattr(loader, "dataset", None)))
        self.shared = marked or any(isinstance(one, DistributedSampler) for one in self._holders()[1:])
        self._steps = len(loader) if isinstance(loader, Sized) and not _is_stream(loader) else None
        if self._steps == 0:
            raise ValueError("the data is empty: it has no batches")

    def steps(self) -> int | None:
        """Length of the loader, if it has one."""
        return self._steps

    def meet(self, steps: list[int | None]) -> None:
        """Take as many steps as the longest of the processes' loaders; None = one cannot tell."""
        told = [n for n in steps if n is not None]
        self._steps = max(told) if len(told) == len(steps) else None

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """Yield the loader's batches; with *start*, those that are left of an epoch that was begun."""
        if not start:
            self.given = 0
        elif self.given == self._steps:
            return
        self._tell_epoch(epoch)
        alike = self.world.size > 1 and not self.shared
        for batch in self._parts(start) if alike else self._own(start) if self.world.size > 1 else self._all(start):
            self.given += 1
            yield batch
        if self.given == 0:
            raise ValueError("the data is empty: it gave no batch")

    def _tell_epoch(self, epoch: int) -> None:
        """Tell it to those that order by it, such as a `DistributedSampler`: else each epoch has the same order."""
        dataset = getattr(self.loader, "dataset", None)
        for holder in [*self._holders(), dataset]:
            if callable(getattr(holder, "set_epoch", None)):
                holder.set_epoch(epoch)
        if epoch == 1 and getattr(self.loader, "persistent_workers", False) and hasattr(dataset, "set_epoch"):
            warnings.warn(
                "persistent workers keep the dataset as it was when they started, which set_epoch does not reach: "
                "give the DataLoader persistent_workers=False, or keep the epoch in shared memory",
                RuntimeWarning,
                stacklevel=2,
            )

    def _begun(self) -> Iterator[Any]:
        """Begin an epoch, where it was left."""
        if not isinstance(self.loader, list) and getattr(self.loader, "num_workers", True):
            _meeting.before_fork()
        batches = iter(self.loader)
        self.skipped: Any = None  # the last one
        for _ in range(0 if self.stateful else self.given):
            self.skipped = next(batches, self.skipped)
        return batches

    def _all(self, start: int) -> Iterator[Batch]:
        """Read on; the generators stand where the epoch was left."""
        with generators_kept() if start else nullcontext():
            batches = self._begun()
        yield from map(as_batch, batches)

    def _parts(self, start: int) -> Iterator[Batch]:
        """Take this process's part of each: all processes read the same, by the random numbers of the first.

        The first one's generators go on from its first batch, as they do in a single process.
        """
        world, batches, looked = self.world, None, self._steps is None
        shared = world.exchange(states() if world.first else None)[0]
        while True:
            with nullcontext() if world.first and batches is None and not start else generators_kept():
                set_states(shared)
                if batches is None:
                    batches, looked = self._begun(), True
                item = next(batches, None)
                shared = states()
            batch = None if item is None else as_batch(item)
            if looked:
                self._see_alike(batch)
                looked = self._steps is None  # else their number is the same
            if batch is None:
                return
            yield part(batch, world.rank, world.size)

    def _see_alike(self, batch: Batch | None) -> None:
        """Compare what the processes have read.

        Raises:
            ValueError: one has read something else; every process raises it.
        """
        size = 0 if batch is None else batch.size
        labels = 0 if batch is None or batch.targets is None else _checksum(batch.targets)
        largest = self.world.largest([size, -size, labels, -labels])
        if largest[0] + largest[1] or largest[2] + largest[3]:
            raise ValueError(
                "the processes read different batches, of which each would take a part; if each is to read samples of "
                "its own, give the loader or its dataset the attribute sharded = True, else let all read alike"
            )

    def _own(self, start: int) -> Iterator[Batch]:
        """Take all, until no process has any more: each reads samples of its own."""
        last: Batch | None = None
        batches = self._all(start)
        while True:
            batch = next(batches, None)
            mine, world = 0 if batch is None else batch.size, self.world
            sizes = world.largest([mine if rank == world.rank else 0 for rank in range(world.size)])  # of each process
            last = batch or last or (None if self.skipped is None else as_batch(self.skipped))
            if not any(sizes):
                return
            if last is None:
                raise ValueError(f"process {world.rank} got no batch at all, and others did; give each at least one")
            leader = next(rank for rank, size in enumerate(sizes) if size)
            yield last._replace(whole=sum(sizes), idle=batch is None, leader=leader)

    def first(self, n: int) -> Batch | None:
        """Return the first samples of the dataset beneath, in its order, or the first batch of a list.

        None where looking would use them up, or draw from a stream.
        """
        if isinstance(self.loader, list):
            return as_batch(self.loader[0])
        dataset: Any = getattr(self.loader, "dataset", None)
        if not isinstance(self.loader, DataLoader) or not hasattr(dataset, "__getitem__") or _is_stream(self.loader):
            return None
        cuts = self.loader.batch_sampler is not None  # else each item is a batch
        sampler = getattr(self.loader.batch_sampler, "sampler", None) if cuts else self.loader.sampler
        # Another sampler may yield keys of any kind, and the dataset take no others.
        allowed = () if type(sampler) in (SequentialSampler, RandomSampler, WeightedRandomSampler) else (Exception,)
        with generators_kept(), suppress(*allowed):
            items = [dataset[i] for i in range(min(n, len(dataset)))] if cuts else dataset[0]
            return as_batch(self.loader.collate_fn(items))
        return None

    def sizes(self) -> set[int]:
        """Return those of a DataLoader that cuts its samples itself."""
        loader = self.loader
        if not isinstance(loader, DataLoader) or loader.batch_size is None or not isinstance(loader.sampler, Sized):
            return set()
        sizes = cut(len(loader.sampler), loader.batch_size)
        return {size for size in sizes if size == loader.batch_size or not loader.drop_last}

    def digest(self) -> str | None:
        """Digest a list, or a dataset of tensors in a DataLoader; other datasets are known by their length."""
        return digest(self.loader)

    def describe(self) -> dict[str, Any]:
        """Return a DataLoader's sizes, and what orders its samples."""
        return loader_facts(self.loader)

    @contextmanager
    def own_generators_kept(self) -> Iterator[None]:
        """Leave the loader's own generators as they were: a loader that trains may share them."""
        states = [generator.get_state() for generator in self._generators()]
        try:
            yield
        finally:
            for generator, state in zip(self._generators(), states, strict=True):
                generator.set_state(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's own state where it tells it, and that of its generators."""
        return {
            "given": self.given,
            "loader": self.loader.state_dict() if self.stateful else None,  # type: ignore[attr-defined]  # it has it
            "generators": [generator.get_state() for generator in self._generators()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        self.given = state["given"]
        if self.stateful:
            self.loader.load_state_dict(state["loader"])  # type: ignore[attr-defined]  # it has it
        for generator, saved in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(saved)

    def opaque(self) -> str | None:
        """Return the class of a sampler that may keep a state which nobody can read, None = there is none."""
        if self.stateful or not isinstance(self.loader, DataLoader):
            return None
        for sampler in self._holders()[1:]:
            of_torch = type(sampler).__module__.partition(".")[0] == "torch"
            own = isinstance(getattr(sampler, "generator", None), torch.Generator)
            if not (of_torch or own or isinstance(sampler, (list, tuple, range))):
                return type(sampler).__name__
        return None

    def _holders(self) -> list[Any]:
        """Return the loader, its samplers, and those within them."""
        found: list[Any] = [self.loader]
        for holder in found:  # which grows
            inner = (getattr(holder, name, None) for name in ("sampler", "batch_sampler"))
            found += [s for s in inner if s is not None and not any(s is known for known in found)]
        return found

    def _generators(self) -> list[torch.Generator]:
        found = dict.fromkeys(getattr(holder, "generator", None) for holder in self._holders())
        return [generator for generator in found if isinstance(generator, torch.Generator)]


def _is_stream(loader: Any) -> bool:
    return isinstance(getattr(loader, "dataset", None), IterableDataset)


def _checksum(targets: Tensor) -> int:
    """Return a number of 31 bits that other targets hardly have."""
    return zlib.crc32(targets.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()) >> 1
