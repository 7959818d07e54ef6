"""Losses by name, module or function, and the weight each has in a mean over samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics import _checks

Loss = Callable[[Tensor, Tensor], Tensor]

_BCE = nn.BCEWithLogitsLoss

LOSSES: dict[str, Loss] = {
    "cross_entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "smooth_l1": functional.smooth_l1_loss,
    "huber": functional.huber_loss,
    "bce": functional.binary_cross_entropy_with_logits,
    "nll": functional.nll_loss,
}


def make_loss(loss: object, targets: Tensor) -> Loss:
    """Return the loss function: None = cross-entropy for integer *targets*, mean squared error for floating ones.

    Raises:
        ValueError: no loss has this name, or it has ``reduction="none"``.
        TypeError: it is not callable, or a class instead of an instance.
    """
    if loss is None:
        return LOSSES["cross_entropy" if is_classes(targets) else "mse"]
    if isinstance(loss, str):
        return LOSSES[_checks.choice("loss", loss, LOSSES)]
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(f"loss must be a name, a module or a function (outputs, targets) -> loss, got {loss!r}")
    if getattr(loss, "reduction", "mean") == "none":
        raise ValueError(f"{loss!r} has reduction='none'; fit needs one number: use 'mean' or 'sum'")
    return loss


def is_classes(targets: Tensor) -> bool:
    """Whether *targets* are class numbers."""
    return not targets.is_floating_point() and not targets.is_complex() and targets.dtype != torch.bool


def ignores(loss: object, targets: Tensor) -> bool:
    """Whether *loss* leaves out some of *targets*, or weighs classes: then its mean has a denominator of its own."""
    if not _of_classes(loss) or not is_classes(targets):
        return False
    return getattr(loss, "weight", None) is not None or bool((targets == _ignored(loss)).any())


def weight(loss: Loss, targets: Tensor, size: int) -> float:
    """Return the denominator of a batch's mean loss, as torch defines it, in samples; see `ignores`."""
    counted = targets != _ignored(loss)
    weights: Tensor | None = getattr(loss, "weight", None)
    if weights is not None:
        return float(weights[targets[counted]].sum())
    return int(counted.sum()) * size / targets.numel()


def counted(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs (M, classes) and targets (M,) that the loss does not leave out, for the metrics."""
    kept = targets != _ignored(loss)
    return outputs.movedim(1, -1)[kept], targets[kept]


def check_targets(outputs: Any, targets: Tensor, all_targets: Tensor, loss: Loss) -> None:
    """Compare a model's *outputs* with the *targets* before torch's own crash does.

    Raises:
        TypeError: the outputs are no tensor, or the targets have the wrong type.
        ValueError: a label is no class of the model, or the shapes do not fit.
    """
    if not isinstance(outputs, Tensor):
        made = type(outputs).__name__
        raise TypeError(f"the model returned {made}, not a tensor; give step=... that makes a loss of it")
    if _of_classes(loss):
        _check_classes(outputs, targets, all_targets, loss)
    elif _elementwise(loss):
        if outputs.shape != targets.shape:
            way_out = ""
            lacking = [d for d in (targets.ndim, 1) if outputs.shape == (*targets.shape[:d], 1, *targets.shape[d:])]
            if lacking:
                way_out = f" (targets.unsqueeze({lacking[0]})?)"
            elif targets.shape == (*outputs.shape, 1):
                way_out = f" (targets.squeeze({outputs.ndim})?)"
            elif (
                outputs.ndim > 1
                and targets.is_floating_point()
                and targets.shape == (outputs.shape[0], *outputs.shape[2:])
            ):
                way_out = "; if they are class numbers, call targets.long(), for cross-entropy"
            shapes = f"outputs have shape {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            raise ValueError(f"{shapes}; they must be equal{way_out}")
        if not targets.is_floating_point() and not isinstance(loss, nn.PoissonNLLLoss):
            raise TypeError(f"targets are {targets.dtype}, but this loss needs floating ones; call targets.float()")


def _check_classes(outputs: Tensor, targets: Tensor, all_targets: Tensor, loss: Loss) -> None:
    if outputs.ndim < 2:
        raise ValueError(f"outputs have shape {tuple(outputs.shape)}, but cross-entropy needs (N, classes)")
    if not is_classes(targets):
        if outputs.shape != targets.shape:
            raise TypeError(
                f"targets are {targets.dtype} of shape {tuple(targets.shape)}, but cross-entropy needs class numbers "
                f"(int64) or a probability for each class, {tuple(outputs.shape)}"
            )
        return
    needed = (outputs.shape[0], *outputs.shape[2:])
    if targets.shape != needed:
        squeezed = "; call targets.squeeze(1)" if targets.shape == (*needed, 1) else ""
        raise ValueError(f"targets have shape {tuple(targets.shape)}, but cross-entropy needs {needed}{squeezed}")
    classes = outputs.shape[1]
    wrong = all_targets[(all_targets < 0) | (all_targets >= classes)]
    wrong = wrong[wrong != _ignored(loss)]
    if len(wrong):
        raise ValueError(f"target {int(wrong[0])} is out of range: the model has {classes} classes, 0 to {classes - 1}")


def _of_classes(loss: object) -> bool:
    return loss in (LOSSES["cross_entropy"], LOSSES["nll"]) or isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))


def _ignored(loss: object) -> int:
    return int(getattr(loss, "ignore_index", -100))  # torch's own default


def _elementwise(loss: Loss) -> bool:
    modules = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, _BCE, nn.BCELoss, nn.PoissonNLLLoss)
    names = ("mse", "l1", "smooth_l1", "huber", "bce")
    return loss in [LOSSES[name] for name in names] or isinstance(loss, modules)
