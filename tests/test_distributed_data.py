"""Data of every kind on several processes: each sample once, and the gradient of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchbasics
from tests import distributed_data as child
from torchbasics._world import ALONE, World
from torchbasics.data._batches import make_batches

Found = list[dict[str, Any]]  # by process
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("worlds")]

TOLERANCE = 1e-10  # sums of float64 in another order


@pytest.fixture(scope="module", params=[2, 3], ids=["2 processes", "3 processes"])
def found(request: pytest.FixtureRequest, results: Callable[[str, int], Found]) -> Found:
    """What each of the processes found, started by torchrun."""
    return results("data", request.param)


def joined(found: Found, kind: str) -> child.Read:
    """The batches of all processes together."""
    epochs = zip(*(one[kind]["read"] for one in found), strict=True)
    return [[torch.cat(parts) for parts in zip(*epoch, strict=True)] for epoch in epochs]


def by_hand(batches: list[list[Tensor]], *, weighted: bool = True) -> Tensor:
    """The parameters after stochastic gradient descent on these parts of batches, in a single process."""
    inputs, targets = child.samples()
    model = child.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for parts in batches:
        optimizer.zero_grad()
        losses = [functional.mse_loss(model(inputs[part]), targets[part]) for part in parts if len(part)]
        sizes = [len(part) if weighted else 1 for part in parts if len(part)]
        total = torch.stack([loss * size for loss, size in zip(losses, sizes, strict=True)]).sum()
        torch.autograd.backward(total / sum(sizes))
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("kind", [*child.WHOLE, *child.OWN])
def test_each_sample_is_read_once_an_epoch(found: Found, kind: str) -> None:
    """By one process alone, whatever holds the samples."""
    for epoch in joined(found, kind):
        numbers = torch.cat(epoch).sort().values

        assert torch.equal(numbers, torch.arange(child.EVEN if kind == "sampler" else child.N))


@pytest.mark.parametrize("kind", child.WHOLE)
def test_the_batches_are_those_of_a_single_process(found: Found, kind: str) -> None:
    """The order is a function of seed and epoch: the processes' parts, put together, are the batch."""
    alone = child.read(kind, ALONE)

    for epoch, expected in zip(joined(found, kind), alone, strict=True):
        assert all(torch.equal(batch, whole) for batch, whole in zip(epoch, expected, strict=True))
    shuffled = kind in ("pair", "dataset", "workers", "loader")
    assert torch.equal(alone[0][0], alone[-1][0]) != shuffled


@pytest.mark.parametrize("kind", child.WHOLE)
def test_training_is_that_of_a_single_process(found: Found, kind: str) -> None:
    """Parameters and losses, to the last digits of float64; bits are the same in all processes."""
    parameters, losses = child.train(kind, 0, 1)

    for one in found:
        assert torch.allclose(one[kind]["trained"][0], parameters, rtol=0, atol=TOLERANCE)
        assert one[kind]["trained"][1] == pytest.approx(losses, rel=0, abs=TOLERANCE)
        assert torch.equal(one[kind]["trained"][0], found[0][kind]["trained"][0])


def test_training_in_parts_is_that_of_a_single_process(found: Found) -> None:
    """accumulate= cuts each process's part of the batch, not the batch."""
    parameters, losses = child.train("pair", 0, 1)

    assert torch.allclose(found[-1]["accumulated"][0], parameters, rtol=0, atol=TOLERANCE)
    assert found[-1]["accumulated"][1] == pytest.approx(losses, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("kind", child.OWN)
def test_samples_of_their_own_weigh_as_those_of_one_batch(found: Found, kind: str) -> None:
    """Streams of unlike length end together, and each sample counts the same; a mean of means would be seen."""
    epochs = zip(*(one[kind]["read"] for one in found), strict=True)
    batches = [list(parts) for epoch in epochs for parts in zip(*epoch, strict=True)]
    expected = by_hand(batches)

    for one in found:
        assert torch.allclose(one[kind]["trained"][0], expected, rtol=0, atol=TOLERANCE)
    if kind != "sampler":
        assert {0} < {len(part) for parts in batches for part in parts}  # some process had no more
        assert not torch.allclose(by_hand(batches, weighted=False), expected, rtol=0, atol=1e-4)


def test_a_stream_is_gone_on_with_when_most_processes_have_no_more_of_it(found: Found) -> None:
    """From a checkpoint of the middle of an epoch, in whose rest they repeat a batch that does not count."""
    for one in found:
        assert torch.equal(one["in parts"][0], one["own stream"]["trained"][0])
        assert one["in parts"][1] == one["own stream"]["trained"][1]


@pytest.mark.parametrize("kind", ["first ends", "sampler"])
def test_statistics_of_batch_norm_are_of_the_first_process_that_reads(found: Found, kind: str) -> None:
    """Not of a batch that process 0 repeats when its stream has ended; each process ends with them."""
    norm = child.normed()[0]
    for parts in zip(*(one[kind]["read"][0] for one in found), strict=True):
        norm(child.samples()[0][next(part for part in parts if len(part))])

    assert (not len(found[0][kind]["read"][0][-1])) == (kind == "first ends")
    for one in found:
        for name, buffer in norm.named_buffers():
            assert torch.allclose(one["statistics"][kind][name], buffer, rtol=0, atol=TOLERANCE)


def test_a_sampler_has_another_order_each_epoch(found: Found) -> None:
    """A `DistributedSampler` is told the epoch."""
    first, second = joined(found, "sampler")

    assert not torch.equal(torch.cat(first), torch.cat(second))


@pytest.mark.parametrize("kind", [*child.WHOLE, *child.OWN])
def test_evaluation_counts_each_sample_once(found: Found, kind: str) -> None:
    """The loss of a single process, in every process."""
    whole = tuple(tensor[: child.EVEN] for tensor in child.samples()) if kind == "sampler" else child.samples()
    expected = torchbasics.training.evaluate(child.network(), whole)

    for one in found:
        assert one[kind]["measured"]["samples"] == expected["samples"]
        assert one[kind]["measured"]["loss"] == pytest.approx(expected["loss"], rel=1e-12)


def test_the_processes_draw_random_numbers_of_their_own(found: Found) -> None:
    """So a shuffled loader read by them alike is no matter of course."""
    assert not torch.equal(found[0]["random"], found[1]["random"])


def test_a_stream_that_differs_has_to_say_so(found: Found) -> None:
    """Unmarked, each process would drop the others' part of its own samples: all of them refuse."""
    for one in found:
        assert "the processes read different batches" in one["told"]
        assert "sharded = True" in one["told"]


def test_a_batch_that_is_too_small_for_all_is_refused() -> None:
    """A stream of their own is cut into each one's part of the batch."""
    message = "batch_size=1 is too small for 2 processes that read their own samples"

    with pytest.raises(ValueError, match=message):
        make_batches(child.Stream(range(3), sharded=True), batch_size=1, world=World(0, 2))


def test_a_process_without_any_batch_is_named() -> None:
    """It has nothing to do the others' steps with."""

    class Others(World):
        def exchange(self, value: Any) -> list[Any]:
            return [value] * self.size

        def largest(self, values: list[int]) -> list[int]:
            return [4, *values[1:]]

    batches = make_batches(child.Stream(range(0), sharded=True), batch_size=8, world=Others(1, 2))
    with pytest.raises(ValueError, match="process 1 got no batch at all, and others did; give each at least one"):
        next(batches.epoch(0))


def test_what_orders_by_the_epoch_is_told_it() -> None:
    """`set_epoch` of a sampler, or of the dataset in a loader, is called in a single process, too."""

    class Told(child.Stream):
        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    stream = Told(range(3))
    batches = make_batches(stream, batch_size=2)
    for epoch in (0, 4):
        list(batches.epoch(epoch))
        assert stream.epoch == epoch
