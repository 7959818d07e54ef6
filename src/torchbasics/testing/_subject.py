"""The model under test: how a check makes it, runs it, and compares what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchbasics.training._random import forked

Loss = Callable[[Any, Tensor], Tensor]

# By which share of the largest output two ways to compute the same may differ. Rounding is 6e-8 in float32, 1e-16 in
# float64: a sum of a thousand terms in another order moves by some 1e-6 and 1e-15 of its largest term, and layers pass
# that on. The factor of a hundred above it is for depth; a mistake is far larger.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4}
# bfloat16 and float16 round by 2e-3 and 5e-4 in every layer; no more is asked than that the numbers are the same ones.
ROUGH = 0.1


def _default_device() -> torch.device | None:
    """Return what set_default_device was given; get_default_device tells of ``with torch.device(...)`` too."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


# What a model finds set for the whole process, and has to leave so: how to read it, and how to put it back.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (_default_device, torch.set_default_device),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "use of deterministic algorithms": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
}


class BrokenError(Exception):
    """A check has found that the model does not keep it; the message says what was wrong."""


class InapplicableError(Exception):
    """A check does not apply to this model, or not here; the message says why."""


@dataclass(frozen=True)
class Check:
    """One thing that a model is to keep.

    Attributes:
        name: What `check_model` calls it.
        run: Raises BrokenError, or any other error, where a model does not keep it; InapplicableError where that
            cannot be said.
        advice: What to do about a model that does not.
        needs: The check without which this one has nothing to say.
    """

    name: str
    run: Callable[[Subject], None]
    advice: str
    needs: str


def check(advice: str, *, needs: str = "forward") -> Callable[[Callable[[Subject], None]], Check]:
    """Make a function a `Check` of its name, less an underscore that tells it from a name of Python's."""
    return lambda function: Check(function.__name__.rstrip("_"), function, advice, needs)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put back the `SETTINGS`, whatever the block did."""
    before = {name: get() for name, (get, _) in SETTINGS.items()}
    try:
        yield
    finally:
        for name, (get, put) in SETTINGS.items():
            if get() != before[name]:  # setting the default device, even to what it is, slows torch down
                put(before[name])


@dataclass(frozen=True)
class Subject:
    """What `check_model` was asked to check.

    Attributes:
        device: Where the model is.
        dtype: Of its first parameter.
    """

    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    batch_dim: int
    draw: Callable[[tuple[int, ...]], Tensor]
    loss: Loss | None
    keys: Sequence[str] | None
    tolerance: float | None
    device: torch.device
    dtype: torch.dtype

    def model(self, seed: int = 0) -> nn.Module:
        """Return a new model in eval mode, made from *seed*; lazy layers have their shapes."""
        with settings_kept(), forked(seed):
            model = self.make()
            if any(map(is_lazy, model.parameters())):
                model.eval()(self.inputs(2))
        return model.eval()

    def inputs(self, n: int, *, seed: int = 1) -> Tensor:
        """Return *n* samples drawn from *seed*, where the model is; floating ones in its dtype."""
        shape = (*self.input_shape[: self.batch_dim], n, *self.input_shape[self.batch_dim :])
        with settings_kept(), forked(seed):
            inputs = self.draw(shape)
        return inputs.to(self.device, self.dtype if inputs.is_floating_point() else inputs.dtype)

    def run(self, model: Callable[..., Any], inputs: Tensor, *, seed: int = 2) -> list[Tensor]:
        """Return all tensors in what *model* returns, in their order; global generators start from *seed*.

        It is given a copy: that it writes to its inputs is for one check to find, and would mislead all others.
        """
        with settings_kept(), forked(seed):
            return tensors(model(_copied(inputs)))

    def backward(self, model: nn.Module, inputs: Tensor) -> None:
        """Run *model* in training mode, and give its parameters the gradient of the loss.

        Raises:
            BrokenError: no output depends on a parameter.
        """
        model.train()
        with settings_kept(), forked(2):
            loss = _weighted(tensors(model(inputs))) if self.loss is None else self.loss(model, inputs)
            torch.autograd.backward(loss)

    @cached_property
    def batch_dims(self) -> list[int | None]:
        """Of each output the dimension that is as long as the batch; None where there is none."""
        model = self.model()
        three, five = (self.run(model, self.inputs(n)) for n in (3, 5))
        return [batch_dim(a.shape, b.shape) for a, b in zip(three, five, strict=False)]

    def samples(self, outputs: Sequence[Tensor], n: int) -> list[Tensor]:
        """Return the first *n* samples of those *outputs* that have samples.

        Raises:
            InapplicableError: none of them has any.
        """
        dims = self.batch_dims
        found = [t.narrow(d, 0, n) for t, d in zip(outputs, dims, strict=False) if d is not None]
        if not found:
            raise InapplicableError("no output has a dimension as long as the batch")
        return found

    def compare(self, got: Sequence[Tensor], expected: Sequence[Tensor], when: str, *, share: float | None = 0) -> None:
        """Check that outputs are the same.

        Args:
            got: The outputs to look at.
            expected: What they should be.
            when: For the message: how *got* came about.
            share: By how much of the largest value of *expected* they may differ; None = what rounding explains.

        Raises:
            BrokenError: they differ, in number, shape or value.
        """
        if share is None:
            share = TOLERANCES.get(self.dtype, ROUGH) if self.tolerance is None else self.tolerance
        if len(got) != len(expected):
            raise BrokenError(f"{when}, the model returns {len(got)} tensors, else {len(expected)}")
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            if a.shape != b.shape:
                raise BrokenError(f"{when}, output {i} has shape {tuple(a.shape)}, else {tuple(b.shape)}")
            apart = difference(a, b)
            if apart > (share if b.is_floating_point() or b.is_complex() else 0):
                allowed = f"by at most {share:g}" if share else "not at all"
                raise BrokenError(f"{when}, output {i} differs by {apart:.2g} of its largest value, and may {allowed}")


def _weighted(outputs: Sequence[Tensor]) -> Tensor:
    """Return the sum of all outputs, each value with a random weight: no direction of them is without a gradient.

    (A sum of squares has none where outputs are zero, as with a last layer that starts with zeros, or normalised.)
    """
    parts = [(t * torch.randn_like(t)).sum() for t in outputs if t.requires_grad]
    if not parts:
        raise BrokenError("no output depends on a parameter")
    return torch.stack(parts).sum()


def moved(model: nn.Module) -> nn.Module:
    """Move each trained parameter of *model* a little at random, and return the model."""
    with torch.no_grad(), forked(3):
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.01)
    return model


def _copied(inputs: Tensor) -> Tensor:
    """Return a copy in the same layout of memory; one in which values share memory is not kept."""
    source = inputs.detach()
    if 0 in inputs.stride():
        return source.clone().requires_grad_(inputs.requires_grad)
    copy = torch.empty_strided(inputs.shape, inputs.stride(), dtype=inputs.dtype, device=inputs.device)
    return copy.copy_(source).requires_grad_(inputs.requires_grad)


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and mappings, in their order.

    >>> tensors((torch.tensor(1), {"hidden": [torch.tensor(2)], "steps": 3}))
    [tensor(1), tensor(2)]
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, (list, tuple)) else []


def batch_dim(three: Sequence[int], five: Sequence[int]) -> int | None:
    """Return the one dimension that grows from 3 to 5 between the shapes of two outputs, or None.

    >>> batch_dim((2, 3, 8), (2, 5, 8))
    1
    """
    grown = [d for d, sizes in enumerate(zip(three, five, strict=False)) if sizes[0] != sizes[1]]
    one = len(three) == len(five) and len(grown) == 1 and (three[grown[0]], five[grown[0]]) == (3, 5)
    return grown[0] if one else None


def difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference between two tensors of a shape, as a share of the largest value of *expected*.

    Equal infinities, and NaN in the same places, are no difference.

    >>> difference(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 4.0]))
    0.25
    """
    exact = torch.complex128 if expected.is_complex() else torch.float64
    a, b = (t.detach().to("cpu", exact) for t in (got, expected))
    apart = (a != b) & ~(a.isnan() & b.isnan())
    if not apart.any():
        return 0.0
    largest = b[b.isfinite()].abs().amax().item() if b.isfinite().any() else 0.0
    worst = (a - b)[apart].abs().amax().item()  # of NaN, NaN
    return worst / largest if largest and worst == worst else float("inf")  # noqa: PLR0124  # not NaN


def other_state(model: nn.Module, expected: nn.Module) -> list[str]:
    """Return the names in the two models' states whose tensors differ, or that one of them does not have."""
    a, b = model.state_dict(), expected.state_dict()
    return [key for key in {**a, **b} if key not in a or key not in b or not same(a[key], b[key])]


def same(a: Any, b: Any) -> bool:
    """Whether two entries of a state are equal; tensors in shape, dtype and value."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return bool(a == b)
    return (a.shape, a.dtype) == (b.shape, b.dtype) and difference(a, b) == 0


def named(names: Sequence[str]) -> str:
    """Return up to five of *names*, and how many more there are; the model itself has no name.

    >>> named(["", "a", "b", "c", "d", "e", "f"])
    "the model, 'a', 'b', 'c', 'd' and 2 more"
    """
    shown = ", ".join(repr(name) if name else "the model" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
