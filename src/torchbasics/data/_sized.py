"""Batches of data of known length, from any position on: tensors, images, datasets."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from torchbasics import _meeting
from torchbasics._files import tensors_digest
from torchbasics._world import ALONE, World
from torchbasics.data._batch import Batch, as_batch, as_inputs, as_tensor, each, leaves
from torchbasics.data._facts import DIGESTED, digest
from torchbasics.data._images import Images
from torchbasics.data._order import order
from torchbasics.data._seeded import Seeded, generators_kept, ignore_signals


class Batches:
    """A dataset of known length cut into batches; epoch *e* goes through ``order(n, seed, e)``.

    Subclasses say how a batch is put together (`gather`).
    """

    targets: Tensor | None = None  # all of them, where they lie in memory
    world: World = ALONE  # the processes that share each batch
    shared: bool = False  # whether each of them reads samples of its own

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
        return cut(self.samples or 0, self.batch_size)

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
        _meeting.before_fork()
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


def cut(samples: int, batch_size: int) -> set[int]:
    """Return the sizes of the batches that so many samples make."""
    return {min(samples, batch_size), samples % batch_size} - {0}
