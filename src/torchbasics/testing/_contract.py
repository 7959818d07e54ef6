"""The contract that a good model keeps, whatever it computes: `check_model`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics.testing import _behaviour, _travel
from torchbasics.testing._subject import BrokenError, Check, InapplicableError, Loss, Subject, settings_kept
from torchbasics.training._random import forked

Outcome = Literal["passed", "failed", "skipped"]

_CHECKS: tuple[Check, ...] = (
    _behaviour.forward,
    _behaviour.shapes,
    _behaviour.finite,
    _behaviour.batch_of_one,
    _behaviour.empty_batch,
    _behaviour.independence,
    _behaviour.non_contiguous,
    _behaviour.channels_last,
    _behaviour.float64,
    _behaviour.autocast,
    _behaviour.repeatable,
    _behaviour.gradients,
    _behaviour.seed,
    _behaviour.inputs_untouched,
    _behaviour.rng_untouched,
    _behaviour.settings_untouched,
    _travel.pickle,
    _travel.deepcopy,
    _travel.functional_call,
    _travel.config,
    _travel.save,
    _travel.export,
    _travel.compile_,
    _travel.onnx,
    _travel.meta,
    _travel.keys,
)

CHECKS = tuple(check.name for check in _CHECKS)
"""The names of what `check_model` checks, in its order."""


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Attributes:
        name: One of `CHECKS`.
        outcome: "passed", "failed" or "skipped".
        reason: What was wrong and what to do about it, or why the check was skipped.

    >>> print(CheckResult("onnx", "skipped", "the extra is not installed"))
    skipped onnx: the extra is not installed
    """

    name: str
    outcome: Outcome
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.outcome} {self.name}: {self.reason}" if self.reason else f"{self.outcome} {self.name}"


@dataclass(frozen=True, repr=False)
class ContractReport:
    """What `check_model` found.

    Attributes:
        model: The name of the model's class.
        results: One of each check, in the order of `CHECKS`.

    >>> report = ContractReport("Net", (CheckResult("forward", "passed"), CheckResult("finite", "failed", "it is nan")))
    >>> report.passed, report.names("failed")
    (False, ['finite'])
    """

    model: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.names("failed")

    def names(self, outcome: Outcome) -> list[str]:
        """Return the names of the checks that ended so."""
        return [result.name for result in self.results if result.outcome == outcome]

    def __repr__(self) -> str:
        """Show how many passed, and all others with their reasons."""
        counts = ", ".join(f"{len(self.names(kind))} {kind}" for kind in ("passed", "failed", "skipped"))
        return "\n".join([f"{self.model}: {counts}", *(f"  {r}" for r in self.results if r.outcome != "passed")])


class ContractError(AssertionError):
    """A model does not keep the contract; the message has all checks that failed, and what to do about each.

    Attributes:
        report: The whole `ContractReport`.

    >>> try:
    ...     check_model(lambda: nn.Softmax(dim=0), (3,), skip=("export", "compile", "onnx"))
    ... except ContractError as e:
    ...     e.report.names("failed")
    ['independence']
    """

    def __init__(self, report: ContractReport) -> None:
        super().__init__(report)
        self.report: ContractReport = report

    def __str__(self) -> str:
        failed = [result for result in self.report.results if result.outcome == "failed"]
        ran = len(failed) + len(self.report.names("passed"))
        lines = (f"  {result.name}: {result.reason}" for result in failed)
        return "\n".join([f"{self.report.model} fails {len(failed)} of {ran} checks", *lines])


def check_model(
    make: Callable[[], nn.Module],
    input_shape: Sequence[int],
    *,
    batch_dim: int = 0,
    draw: Callable[[tuple[int, ...]], Tensor] = torch.randn,
    loss: Loss | None = None,
    keys: Sequence[str] | None = None,
    tolerance: float | None = None,
    skip: Collection[str] = (),
) -> ContractReport:
    """Check that a model, anyone's, does what the code around models takes for granted.

    Each check has a name:

    - what it computes: ``forward`` runs in both modes; ``shapes``: each output grows with the batch in one dimension;
      ``finite``; ``batch_of_one``; ``empty_batch``; ``independence``: in eval mode, of the rest of the batch;
      ``non_contiguous`` and ``channels_last`` memory; ``float64``; ``autocast`` to bfloat16; ``repeatable``: the same
      bits again in eval mode; ``gradients`` reach every parameter; ``seed``: equal seeds make equal models;
    - what it leaves alone: ``inputs_untouched``; ``rng_untouched``, the global random generators; and
      ``settings_untouched``: default dtype and device, grad mode, threads, determinism;
    - where it goes: ``pickle`` and ``deepcopy``; ``functional_call``; ``config``, through JSON, makes the model again;
      ``save`` and load give the same bits; ``export``, ``compile`` (traced as one graph, and run by the backend
      "eager": no compiler is needed) and ``onnx``, where it is installed; the device ``meta``; ``keys`` of the
      state_dict as they were.

    What does not apply is skipped, and the report says why. Random generators, default dtype, grad mode and the like
    are afterwards as they were, whatever the model does to them.

    Args:
        make: Makes the model, a new one at each of some forty calls: a class, or a function without arguments.
        input_shape: The shape of one sample, without the batch.
        batch_dim: Where the batch stands among the dimensions of the inputs.
        draw: Makes inputs of a shape, from global random generators; for tokens, say,
            ``lambda shape: torch.randint(1000, shape)``. Floating ones take the dtype and device of the model.
        loss: Takes the model and inputs, and returns the number whose gradient is to reach every parameter; None = the
            sum of all outputs with random weights. A model whose call does not use all of its parameters needs one.
        keys: The names in the state_dict, as they were stored when the first files were written.
        tolerance: By which share of the largest value two ways to compute the same outputs may differ; None = 1e-4 in
            float32, 1e-12 in float64, 0.1 in shorter ones.
        skip: Names of checks to leave out.

    Raises:
        ContractError: a check failed; the error lists all that did.
        TypeError: *make* returns no module, or an argument has the wrong type.
        ValueError: *make* returns the same module again, a size is below 1, *batch_dim* is no place in the inputs, or
            no check has a name in *skip*.

    >>> check_model(lambda: nn.Linear(3, 2), (3,), skip=("export", "compile", "onnx"))
    Linear: 20 passed, 0 failed, 6 skipped
      skipped channels_last: neither inputs nor parameters have 4 or 5 dimensions
      skipped config: Linear is not registered, and has no mapping .config
      skipped export: left out by skip=
      skipped compile: left out by skip=
      skipped onnx: left out by skip=
      skipped keys: no keys= are given
    """
    if isinstance(skip, str):
        raise TypeError(f"skip must be a tuple of names, such as ({skip!r},), got {skip!r}")
    for name in skip:
        _checks.choice("check", name, CHECKS)
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(
            f"input_shape must be a tuple, the shape of one sample, such as (1, 28, 28), got {input_shape!r}"
        )
    sizes = tuple(_checks.positive_ints("input_shape", list(input_shape)))
    if _checks.positive_int("batch_dim", batch_dim, least=0) > len(sizes):
        raise ValueError(f"batch_dim must be at most {len(sizes)} for samples of shape {sizes}, got {batch_dim!r}")
    results: list[CheckResult] = []
    errors: list[Exception] = []
    with settings_kept(), forked(0), torch.inference_mode(False), torch.enable_grad():
        model = _first(make)
        like = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), torch.empty(0))
        subject = Subject(make, sizes, batch_dim, draw, loss, keys, tolerance, like.device, like.dtype)
        for check in _CHECKS:
            failed = [r.name for r in results if r.outcome == "failed" and r.name in ("forward", check.needs)]
            if check.name in skip or failed:
                reason = "left out by skip=" if check.name in skip else f"{failed[0]} failed"
                results.append(CheckResult(check.name, "skipped", reason))
            else:
                results.append(_result(check, subject, errors))
    report = ContractReport(type(model).__name__, tuple(results))
    if not report.passed:
        raise ContractError(report) from errors[0]
    return report


def _first(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a model of *make*, having seen that it makes models.

    Raises:
        TypeError: it makes something else.
        ValueError: it returns one model again and again.
    """
    given: Any = make
    if isinstance(given, nn.Module) or not callable(given):
        told = f"a {type(given).__name__}" if isinstance(given, nn.Module) else repr(given)
        raise TypeError(f"make must be a class, or a function without arguments, that makes models, got {told}")
    with settings_kept():
        model, other = make(), make()
    if not isinstance(model, nn.Module):
        raise TypeError(f"make must return a module, got {type(model).__name__}")
    if model is other:
        raise ValueError(f"make must return a new module at each call, and returns one {type(model).__name__} again")
    return model


def _result(check: Check, subject: Subject, errors: list[Exception]) -> CheckResult:
    try:
        with settings_kept(), forked(0):  # what one check leaves behind is not for the next to find
            check.run(subject)
    except InapplicableError as e:
        return CheckResult(check.name, "skipped", str(e))
    except Exception as e:  # whatever a model, or what looks into it, makes of a case it does not know
        errors.append(e)
        return CheckResult(check.name, "failed", f"{_told(e)}; {check.advice}")
    return CheckResult(check.name, "passed")


def _told(error: Exception) -> str:
    """Return the message of *error* in one line that is not too long; of others than our own, also the kind."""
    text = "".join(c for c in " ".join(str(error).split()) if c.isprintable())
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return text if isinstance(error, BrokenError) else f"{type(error).__name__}: {text}"
