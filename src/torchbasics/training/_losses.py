"""Losses by name, module or function, and the weight each has in a mean over samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics import _checks

Loss = Callable[[Tensor, Tensor], Tensor]

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
        TypeError: it is not callable.
    """
    if loss is None:
        return LOSSES["cross_entropy" if is_classes(targets) else "mse"]
    if isinstance(loss, str):
        return LOSSES[_checks.choice("loss", loss, LOSSES)]
    if not callable(loss):
        raise TypeError(f"loss must be a name, a module or a function (outputs, targets) -> loss, got {loss!r}")
    if getattr(loss, "reduction", "mean") == "none":
        raise ValueError(f"{loss!r} has reduction='none'; fit needs one number: use 'mean' or 'sum'")
    return loss


def is_classes(targets: Tensor) -> bool:
    """Whether *targets* are class numbers."""
    return not targets.is_floating_point() and not targets.is_complex() and targets.dtype != torch.bool


def weight(loss: Loss, targets: Tensor, size: int) -> float:
    """Return what a batch's loss is a mean over: samples, or torch's own denominator where class weights count."""
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and is_classes(targets):
        counted = targets != loss.ignore_index
        if loss.weight is not None:
            return float(loss.weight[targets[counted]].sum())
        if not counted.all():
            return int(counted.sum()) / max(1, targets.numel() // size)
    return size


def check_targets(outputs: Any, targets: Tensor, all_targets: Tensor, loss: Loss) -> None:
    """Compare a model's *outputs* with the *targets* before torch's own crash does.

    Raises:
        TypeError: the outputs are no tensor.
        ValueError: a label is no class of the model, or the shapes do not fit.
    """
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"the model returned {type(outputs).__name__}, not a tensor; give step=... that makes a loss of it"
        )
    of_torch = loss in LOSSES.values() or type(loss).__module__.startswith("torch.nn")
    if is_classes(targets) and of_torch and getattr(loss, "__name__", "cross_entropy") in ("cross_entropy", "nll_loss"):
        if outputs.ndim < 2:
            raise ValueError(f"outputs have shape {tuple(outputs.shape)}, but cross-entropy needs (N, classes)")
        classes = outputs.shape[1]
        wrong = all_targets[(all_targets < 0) | (all_targets >= classes)]
        wrong = wrong[wrong != getattr(loss, "ignore_index", -100)]
        if len(wrong):
            raise ValueError(
                f"target {int(wrong[0])} is out of range: the model has {classes} classes, 0 to {classes - 1}"
            )
    elif targets.is_floating_point() and of_torch and outputs.shape != targets.shape and _elementwise(loss):
        raise ValueError(
            f"outputs have shape {tuple(outputs.shape)} and targets {tuple(targets.shape)}; "
            "they must be equal (targets.unsqueeze(1)?)"
        )


def _elementwise(loss: Loss) -> bool:
    names = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits"}
    modules = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss, nn.BCELoss)
    return getattr(loss, "__name__", "") in names or isinstance(loss, modules)
