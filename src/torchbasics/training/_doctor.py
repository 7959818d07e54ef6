"""`check`: common mistakes in model and data, found in seconds and told in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics._model import check_module
from torchbasics._recipe import Recipe
from torchbasics.data._batch import Batch
from torchbasics.data._batches import Batches, make_batches
from torchbasics.training._doctor_data import look_at_inputs, look_at_labels, look_at_targets, missing_classes
from torchbasics.training._doctor_model import (
    look_at_parameters,
    look_at_samples,
    look_at_shapes,
    look_at_values,
    loss_name,
    rows,
)
from torchbasics.training._doctor_training import look_at_training
from torchbasics.training._evaluate import check as check_data
from torchbasics.training._evaluate import evaluating
from torchbasics.training._finding import Finding
from torchbasics.training._losses import is_classes
from torchbasics.training._step import Step, call
from torchbasics.training._steps import Supervised, make_step
from torchbasics.training._trial import copies, without_trace

if TYPE_CHECKING:
    from collections.abc import Iterator


def check(
    model: nn.Module,
    data: Any,
    targets: Any = None,
    *,
    loss: Any = None,
    step: Any = None,
    samples: int = 32,
    steps: int = 100,
    seed: int = 0,
) -> list[Finding]:
    """Look for common mistakes in *model* and *data* before training; what is probably wrong is told in plain words.

    It looks at values, scales, labels and their order; at shapes, at a softmax before cross-entropy, at the loss
    before training; for frozen, unused, dead and unregistered parameters, for samples that see each other, for
    differences between train and eval mode; and whether the model can learn one batch by heart. All of it happens on
    copies: model, modes, gradients and all random generators are left as they are, to the bit.

    Args:
        model: Any module.
        data: As for `fit`, but not an iterator.
        targets: The targets, where *data* is inputs alone.
        loss: As for `fit`.
        step: As for `fit`; with another step than the supervised one fewer things can be looked at.
        samples: How many are looked at; of a DataLoader no more than its first batch.
        steps: Updates on one batch, at each of three learning rates: the time it takes.
        seed: Of the choice of samples, dropout and all else that is drawn.

    Returns:
        The findings, most basic first; empty where nothing was found.

    Raises:
        ValueError, TypeError: an argument cannot be used, or the model cannot be copied.

    >>> x, y = torch.randn(300, 4), torch.arange(300) % 3
    >>> for finding in check(nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3), nn.Softmax(1)), x, y):
    ...     print(finding.name)
    softmax-before-cross-entropy
    cannot-learn-one-batch
    """
    check_module(model)
    for name, value in {"samples": samples, "steps": steps}.items():
        _checks.positive_int(name, value)
    batches = make_batches(data, targets, batch_size=None, default_batch_size=samples, shuffle=True, seed=seed)
    bound = make_step(step, model)
    recipe = Recipe(loss=loss, step=step)
    with without_trace(batches, seed), torch.enable_grad():
        copied, bound = copies(model, bound)
        bound.bind(copied, recipe)
        device = next((p.device for p in copied.parameters()), torch.device("cpu"))
        batch = next(iter(batches.epoch(0))).to(device)
        batch = rows(batch, torch.arange(min(samples, batch.size)))
        labels, findings = look_at_labels(batches)
        findings = [*look_at_inputs(batches, batch), *findings, *look_at_parameters(copied)]
        if any(finding.name.endswith("not-finite") for finding in findings):
            return findings
        return findings + list(_look_at_model(copied, bound, batches, batch, labels, recipe, steps))


def _look_at_model(
    model: nn.Module, step: Step, batches: Batches, batch: Batch, labels: Tensor | None, recipe: Recipe, steps: int
) -> Iterator[Finding]:
    """Run the model as far as it goes; what it cannot get past is the last finding."""
    plain = isinstance(step, Supervised) and step.function is None
    refused = _first_error(step, batches, batch)
    outputs = _outputs(model, batch) if plain else None
    if isinstance(outputs, Tensor):
        wrong = list(look_at_shapes(outputs, batch, recipe.loss))
        yield from wrong
        if wrong:
            return
    if refused is not None:
        yield Finding("error", refused)
        return
    if isinstance(outputs, Tensor) and batch.targets is not None:
        used: Any = getattr(step, "loss", None)

        def run(batch: Batch) -> Tensor:
            made: Tensor = call(model, batch.inputs)
            return made

        yield from look_at_targets(batch.targets)
        if is_classes(batch.targets) and loss_name(used) in ("cross_entropy", "nll"):
            yield from missing_classes(labels, outputs.shape[1])
        yield from look_at_samples(run, batch, model)
        with evaluating(model):
            yield from list(look_at_values(run, batch, used))
    try:
        yield from look_at_training(model, step, batch, recipe, steps)
    except (RuntimeError, ValueError) as e:
        if "does not require grad" in str(e):
            message = (
                "no gradient reaches the parameters: is there a detach(), .data, argmax or torch.no_grad in forward?"
            )
            yield Finding("no-gradient", message)
        else:
            yield Finding("error", f"in train mode: {e}")


def _first_error(step: Step, batches: Batches, batch: Batch) -> str | None:
    """Try what `fit` tries before training, and measure the batch; return what stops it."""
    try:
        device = next((p.device for p in step.model.parameters()), torch.device("cpu"))
        check_data(step, batches, device)
        with evaluating(step.model):
            step.evaluate(batch)
    except Exception as e:  # the model's own code may raise anything
        return str(e) if isinstance(e, (ValueError, TypeError)) else f"{type(e).__name__}: {e}"
    return None


def _outputs(model: nn.Module, batch: Batch) -> Any:
    try:
        with evaluating(model):
            return call(model, batch.inputs)
    except Exception:  # told by _first_error
        return None
