"""Batches of anything that holds samples: what an epoch iterates over, from any position on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from torchbasics import _checks
from torchbasics._files import tensors_digest
from torchbasics._world import ALONE, World
from torchbasics.data._batch import Batch, as_batch, as_inputs, as_tensor, each, leaves, part
from torchbasics.data._facts import DIGESTED, digest, loader_facts
from torchbasics.data._images import Images
from torchbasics.data._order import order, split
from torchbasics.data._seeded import Seeded, generators_kept, ignore_signals


class Batches:
    """A dataset of known length cut into batches; epoch *e* goes through ``order(n, seed, e)``.

    Subclasses say how a batch is put together (`gather`).
    """

    targets: Tensor | None = None  # all of them, where they lie in memory
    world: World = ALONE  # the processes that share each batch

    def __init__(self, samples: int, *, batch_size: int, shuffle: bool, seed: int) -> None:
        if samples == 0:
            raise ValueError("the data is empty: it has 0 samples")
        self.samples: int | None = samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed

    def steps(self) -> int | None:
        """Number of batches in an epoch, None where nobody knows."""
        return None if self.samples is None else -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """Yield the batches of *epoch*, leaving out its first *start* samples."""
        for index, whole, idle in self._plan(epoch, start):
            batch = self.gather(index, epoch)
            yield batch._replace(whole=whole, idle=idle) if whole else batch

    def first(self, n: int) -> Batch | None:
        """Return the first *n* samples, None where looking at them would use them up."""
        return self.gather(torch.arange(min(n, self.samples or 0)), 0)

    def sizes(self) -> set[int]:
        """Return the sizes that batches have, as far as they are known."""
        return _sizes(self.samples or 0, self.batch_size)

    def own_generators_kept(self) -> AbstractContextManager[None]:
        """Leave generators that are the data's own as they were."""
        return nullcontext()

    def gather(self, index: Tensor, epoch: int) -> Batch:
        """Put the samples *index* together."""
        raise NotImplementedError

    def digest(self) -> str | None:
        """Return a digest of the data where it lies in memory, else None."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return how a loader of the user's makes its batches, as plain data."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what the next epoch depends on beside its number: nothing, but for a loader of the user's."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""

    def _plan(self, epoch: int, start: int) -> Iterable[tuple[Tensor, int, bool]]:
        """Return for each batch the samples of this process, how many all have, and whether its own do not count."""
        samples, rank, size = self.samples or 0, self.world.rank, self.world.size
        index = order(samples, self.seed, epoch) if self.shuffle else torch.arange(samples)
        wholes = torch.split(index[start:], self.batch_size) if start < samples else ()
        if size == 1:
            return [(whole, 0, False) for whole in wholes]
        parts = [(whole, whole.tensor_split(size)[rank]) for whole in wholes]
        return [(own if len(own) else whole[:1], len(whole), not len(own)) for whole, own in parts]


class PairBatches(Batches):
    """Batches of tensors that lie in memory: a batch is one gather, with no Python per sample."""

    def __init__(self, inputs: Any, targets: Any, **options: Any) -> None:
        self.inputs = as_inputs(inputs)
        self.targets = None if targets is None else as_tensor("targets", targets)
        lengths = [len(t) for t in leaves(self.inputs)] + ([] if self.targets is None else [len(self.targets)])
        if len(set(lengths)) > 1:
            raise ValueError(f"inputs and targets must have equal lengths, got {lengths[0]} and {lengths[-1]}")
        super().__init__(lengths[0], **options)

    def named(self) -> list[tuple[str, Tensor]]:
        """Return the tensors with the names a user knows them by."""
        return [("inputs", t) for t in leaves(self.inputs)] + (
            [] if self.targets is None else [("targets", self.targets)]
        )

    def digest(self) -> str:
        """Digest all values, or a part of the rows where that would take seconds."""
        return tensors_digest(self.named(), limit=DIGESTED)

    def gather(self, index: Tensor, epoch: int) -> Batch:
        """Gather rows: a copy, since a model may write to its inputs."""
        if self.shuffle:
            inputs = each(self.inputs, lambda t: t.index_select(0, index.to(t.device)))
            targets = None if self.targets is None else self.targets.index_select(0, index.to(self.targets.device))
        else:
            rows = slice(int(index[0]), int(index[-1]) + 1)
            inputs = each(self.inputs, lambda t: t[rows].clone())
            targets = None if self.targets is None else self.targets[rows]
        return Batch(inputs, targets, len(index), index)


class ImagesBatches(Batches):
    """Batches of `torchbasics.data.Images`, which gathers and converts a whole batch at once."""

    def __init__(self, dataset: Images, **options: Any) -> None:
        self.dataset = dataset
        self.targets = dataset.targets
        super().__init__(len(dataset), **options)

    def digest(self) -> str:
        """Digest all images, or a part of them where that would take seconds."""
        return tensors_digest([("images", self.dataset.images), ("targets", self.targets)], limit=DIGESTED)

    def gather(self, index: Tensor, epoch: int) -> Batch:
        """Ask the dataset."""
        inputs, targets = self.dataset.batch(index)
        return Batch(inputs, targets, len(index), index)


class DatasetBatches(Batches):
    """Batches of a map-style dataset, sample by sample, in this process or in *workers* others.

    The random numbers that a sample draws depend on (seed, epoch, index) alone: not on workers or on the start.
    """

    def __init__(self, dataset: Any, *, workers: int, **options: Any) -> None:
        self.workers = workers
        super().__init__(len(dataset), **options)
        self._seeded = Seeded(dataset, self.seed)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """Yield the batches of *epoch* from *start* on."""
        if not self.workers:
            yield from super().epoch(epoch, start)
            return
        plan = list(self._plan(epoch, start))
        keys = [[(epoch, i) for i in index.tolist()] for index, _, _ in plan]
        generator = torch.Generator()  # so that the loader draws its base seed from no global generator
        ended = multiprocessing.RawValue("b", 0)
        loader: DataLoader[Any] = DataLoader(
            Seeded(self._seeded.dataset, self.seed, ended, draws=self._seeded.draws),
            batch_sampler=keys,
            num_workers=self.workers,
            generator=generator,
            worker_init_fn=ignore_signals,
        )
        batches: Any = iter(loader)
        workers = list(batches._workers)  # no public name
        try:
            for (index, whole, idle), batch in zip(plan, batches, strict=True):
                yield as_batch(batch)._replace(indices=index, whole=whole, idle=idle)
        finally:
            ended.value = 1  # no worker reads its batch to the end
            # At most a few seconds. Not left to garbage collection: after an error the traceback holds the iterator.
            batches._shutdown_workers()  # no public name
            for worker in workers:
                worker.kill()  # one that hangs does not hear SIGTERM

    def digest(self) -> str | None:
        """Digest a dataset of tensors, or a part of one; others are known by their length."""
        return digest(self._seeded.dataset)

    def gather(self, index: Tensor, epoch: int) -> Batch:
        """Read the samples one by one and collate them, as torch's DataLoader does."""
        with generators_kept():
            samples = self._seeded.__getitems__([(epoch, i) for i in index.tolist()])
        return as_batch(default_collate(samples))._replace(indices=index)


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

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """Yield the loader's batches; with *start*, those that are left of an epoch that was begun."""
        if not start:
            self.given = 0
        elif self.given == self._steps:
            return
        with generators_kept() if start else nullcontext():  # they stand where the epoch was left
            batches = iter(self.loader)
            for _ in range(0 if self.stateful else self.given):
                next(batches, None)
        read = map(as_batch, batches)
        for batch in self._own(read) if self.shared else self._parts(read):
            self.given += 1
            yield batch
        if self.given == 0:
            raise ValueError("the data is empty: it gave no batch")

    def _parts(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Take this process's part of each: all processes read the same."""
        for batch in batches:
            yield batch if self.world.size == 1 else part(batch, self.world.rank, self.world.size)

    def _own(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Take all, until no process has any more: each reads samples of its own."""
        last: Batch | None = None
        while True:
            batch = next(batches, None)
            whole = int(self.world.total(0 if batch is None else batch.size))
            last = batch or last
            if not whole:
                return
            if last is None:
                raise ValueError(
                    f"process {self.world.rank} got no batch at all, and others did; give each at least one"
                )
            yield last._replace(whole=whole, idle=batch is None)

    def first(self, n: int) -> Batch | None:
        """Return the first samples of the dataset beneath, in its order, or the first batch of a list.

        None where looking would use them up, or draw from a stream.
        """
        if isinstance(self.loader, list):
            return as_batch(self.loader[0])
        dataset: Any = getattr(self.loader, "dataset", None)
        if not isinstance(self.loader, DataLoader) or not hasattr(dataset, "__getitem__") or _is_stream(self.loader):
            return None
        cut = self.loader.batch_sampler is not None  # else each item is a batch
        sampler = getattr(self.loader.batch_sampler, "sampler", None) if cut else self.loader.sampler
        # Another sampler may yield keys of any kind, and the dataset take no others.
        allowed = () if type(sampler) in (SequentialSampler, RandomSampler, WeightedRandomSampler) else (Exception,)
        with generators_kept(), suppress(*allowed):
            items = [dataset[i] for i in range(min(n, len(dataset)))] if cut else dataset[0]
            return as_batch(self.loader.collate_fn(items))
        return None

    def sizes(self) -> set[int]:
        """Return those of a DataLoader that cuts its samples itself."""
        loader = self.loader
        if not isinstance(loader, DataLoader) or loader.batch_size is None or not isinstance(loader.sampler, Sized):
            return set()
        sizes = _sizes(len(loader.sampler), loader.batch_size)
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


def make_batches(
    data: Any,
    targets: Any = None,
    *,
    batch_size: int | None,
    default_batch_size: int = 100,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    set_by_user: tuple[str, ...] = (),
    world: World = ALONE,
) -> Batches:
    """Make batches of what the contract takes as data, and let this process have its part of each.

    Args:
        data: An (inputs, targets) pair, inputs alone, a Dataset, a DataLoader or another iterable of batches.
        targets: The targets, where *data* is inputs alone.
        batch_size: None = *default_batch_size*, or what a loader brings.
        default_batch_size: See *batch_size*; of all processes together.
        shuffle: Whether epochs go through `order`.
        seed: Of the order and of the samples' own randomness.
        workers: Processes that read the samples of a Dataset.
        set_by_user: Which of batch_size, shuffle and workers were asked for: an error with a loader.
        world: The processes that share each batch.

    Raises:
        TypeError: *data* is none of these.
        ValueError: it is empty, its parts differ in length, or an option contradicts it.
    """
    options = {"batch_size": batch_size or default_batch_size, "shuffle": shuffle, "seed": seed}
    made = _make(data, targets, options, workers, set_by_user)
    made.world = world
    return made


def _make(data: Any, targets: Any, options: Any, workers: int, set_by_user: tuple[str, ...]) -> Batches:
    if isinstance(data, tuple) and targets is None:
        if len(data) != 2:
            raise TypeError(f"a tuple of data is (inputs, targets), got one of {len(data)} parts")
        data, targets = data
        if isinstance(data, Dataset) or isinstance(targets, Dataset):
            raise TypeError("data is a pair of datasets, such as (train, test); give one of them")
    if targets is not None or isinstance(data, (Tensor, np.ndarray, dict, tuple)):
        return PairBatches(data, targets, **options)
    if type(data) is TensorDataset and len(data.tensors) == 2:
        return PairBatches(*data.tensors, **options)
    if isinstance(data, Images):
        return ImagesBatches(data, **options)
    if isinstance(data, IterableDataset):
        if workers or "shuffle" in set_by_user:
            option = "workers" if workers else "shuffle"
            raise ValueError(f"{option} does not go with a stream, whose samples come as they come; leave it out")
        own = torch.Generator()
        return LoaderBatches(DataLoader(data, batch_size=options["batch_size"], generator=own))
    if isinstance(data, (DataLoader, list)) or not hasattr(data, "__getitem__") or isinstance(data, str):
        if not isinstance(data, Iterable) or isinstance(data, str):
            raise TypeError(f"data must be (inputs, targets), a Dataset or an iterable of batches, got {data!r}")
        if set_by_user:
            raise ValueError(f"{type(data).__name__} brings its own batches; leave out {', '.join(set_by_user)}")
        return LoaderBatches(data)
    return DatasetBatches(data, workers=_checks.positive_int("workers", workers, least=0), **options)


def split_data(data: Any, targets: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Cut *data* at random into a training part and a validation part of *share* of the samples."""
    if isinstance(data, tuple) and len(data) == 2 and targets is None:
        data, targets = data
    if targets is not None or isinstance(data, (Tensor, np.ndarray, dict)):
        inputs, labels = as_inputs(data), None if targets is None else as_tensor("targets", targets)
        parts = split(len(leaves(inputs)[0]), share, seed)
        pairs = [(each(inputs, lambda t, i=i: t[i]), None if labels is None else labels[i]) for i in parts]
        return (pairs[0], pairs[1]) if labels is not None else (pairs[0][0], pairs[1][0])
    if isinstance(data, (DataLoader, list, IterableDataset)) or not hasattr(data, "__len__"):
        raise ValueError(f"validation={share!r} needs data with indices, not {type(data).__name__}; give it as data")
    train, held_out = split(len(data), share, seed)
    if isinstance(data, Images):
        return data[train], data[held_out]
    return Subset(data, train.tolist()), Subset(data, held_out.tolist())


def _sizes(samples: int, batch_size: int) -> set[int]:
    return {min(samples, batch_size), samples % batch_size} - {0}


def _is_stream(loader: Any) -> bool:
    return isinstance(getattr(loader, "dataset", None), IterableDataset)
