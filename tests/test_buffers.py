"""Buffers come back, however they were changed."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import blobs
from torchbasics import _model, training
from torchbasics.training import NonFiniteError, fit

if TYPE_CHECKING:
    from collections.abc import Callable

quiet = partial(fit, progress=False, lr=0.01)


def uncounted(buffer: Tensor) -> None:
    """Change a buffer such that torch does not count it."""
    version = buffer._version
    buffer.data += 1
    assert buffer._version == version


class Writes(nn.Linear):
    """Writes to its buffer in every forward pass, in a way that is given."""

    seen: Tensor

    def __init__(self, write: Callable[[Any], object], size: int = 3) -> None:
        super().__init__(6, 3)
        self.write = write
        self.register_buffer("seen", torch.zeros(size), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        self.write(self)
        return super().forward(inputs)


def add(module: Any) -> None:
    module.register_buffer("other", torch.ones(1), persistent=False)


def replace(module: Any) -> None:
    module.seen = module.seen + 1


def remove(module: Any) -> None:
    if "seen" in module._buffers:
        del module.seen


WRITES: dict[str, Callable[[Any], object]] = {
    "by .data": lambda module: uncounted(module.seen),
    "in place": lambda module: module.seen.add_(1),
    "anew": replace,
    "removed": remove,
    "added": add,
    "resized": lambda module: module.seen.resize_(len(module.seen) + 1).fill_(1),
}


def unchanged(model: Any, before: Tensor) -> bool:
    """Whether the model has the one buffer it began with, and keeps it out of its state as before."""
    same = list(model._buffers) == ["seen"] and model.seen is before and torch.equal(before, torch.zeros(before.shape))
    return same and model._non_persistent_buffers_set == {"seen"} and "seen" not in model.state_dict()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("what", ["evaluate", "predict", "check"])
@pytest.mark.parametrize("size", [3, 2**18 + 1], ids=["small", "large"])
def test_nothing_that_is_measured_leaves_a_trace_in_buffers(
    what: str, write: Callable[[Any], object], size: int
) -> None:
    """Replaced, added, removed, or written to past torch's count."""
    model = Writes(write, size)
    before, data = model.seen, blobs()
    calls: dict[str, Callable[[], object]] = {
        "evaluate": lambda: training.evaluate(model, data),
        "predict": lambda: training.predict(model, data[0]),
        "check": lambda: training.check(model, data),
    }

    calls[what]()

    assert before.shape == (size,)
    assert unchanged(model, before)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_stop_puts_back_buffers_however_they_were_changed(write: Callable[[Any], object]) -> None:
    """The update was the first: they are what they were before the run."""
    model = Writes(write)
    before = model.seen
    inputs, targets = blobs()

    with pytest.raises(NonFiniteError, match="at step 1"):
        quiet(model, [(inputs * math.nan, targets)], epochs=1)

    assert unchanged(model, before)


def test_without_the_copies_the_comparison_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: a write past torch's count stays where copies go by that count."""
    model = Writes(WRITES["by .data"])
    before = model.seen
    monkeypatch.setattr(_model.Buffers.__init__, "__defaults__", (0,))
    inputs, targets = blobs()

    with pytest.raises(NonFiniteError):
        quiet(model, [(inputs * math.nan, targets)], epochs=1)

    assert not unchanged(model, before)


def test_large_buffers_are_copied_when_they_are_known_to_change() -> None:
    """No step pays for a constant of many numbers; a counted change is put back all the same."""
    model = Writes(lambda module: None, 10)
    copies = _model.Buffers(model, limit=9)
    copies.keep()
    model.seen.data += 1
    copies.keep()

    model.seen += 1
    copies.restore()

    assert torch.equal(model.seen, torch.zeros(10))


class Odd(nn.Linear):
    """Buffers that cannot be written to, or have no strides."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("repeated", torch.ones(1, 5).expand(3, 5))
        self.register_buffer("numbers", torch.arange(5).expand(1, -1))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("eighth", torch.ones(3).to(torch.float8_e4m3fn))
        self.register_buffer("empty", torch.ones(0))
        with torch.inference_mode():
            self.register_buffer("frozen", torch.ones(3))


def lazy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Linear(5, 3))


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_buffers_without_values_yet_get_them_at_the_first_batch() -> None:
    """A lazy batch norm trains to the bits of one that was told its size."""
    torch.manual_seed(0)
    told, made = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), lazy()
    training.predict(made, blobs()[0])
    told.load_state_dict(made.state_dict())

    quiet(made, blobs(), epochs=2)
    quiet(told, blobs(), epochs=2)
    copies = _model.Buffers(other := lazy())
    copies.keep()
    copies.keep()
    other(blobs()[0])
    copies.keep()
    kept = copies.kept[2]["running_mean"]

    assert all(torch.equal(value, told.state_dict()[name]) for name, value in made.state_dict().items())
    assert kept is not None
    assert kept.copy is not kept.buffer


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("step", [None, "own"])
def test_a_stop_puts_back_buffers_that_a_stream_gave_their_size(step: str | None) -> None:
    """Nothing is known of a stream before its first batch; the statistics of the first step stay, the second's go."""
    inputs, targets = blobs()
    model, seen = lazy(), []

    class Own(training.Supervised):
        """One whose update may be anything."""

        def update(self, batch: Any) -> Any:
            return super().update(batch)

    class Keep:
        def on_step(self, state: training.State) -> None:
            seen.append(copy.deepcopy(model.state_dict()))

    batches = iter([(inputs, targets), (inputs * math.nan, targets)])
    with pytest.raises(NonFiniteError, match="at step 2"):
        quiet(model, batches, epochs=1, callbacks=[Keep()], step=Own() if step else None)

    assert len(seen) == 1
    assert all(torch.equal(value, seen[0][name]) for name, value in model.state_dict().items())


def test_buffers_of_odd_kinds_stop_nothing() -> None:
    """Repeated values, tensors of inference mode, sparse ones, eight bits."""
    model = Odd()
    before = dict(model.named_buffers())

    training.evaluate(model, blobs())
    quiet(model, blobs(), epochs=1)
    with torch.inference_mode():
        training.predict(model, blobs()[0])

    assert all(now is before[name] for name, now in model.named_buffers())
