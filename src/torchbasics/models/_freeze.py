"""Layers that training leaves as they are."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from torchbasics._model import unwrapped
from torchbasics.models._layers import find_layer

M = TypeVar("M", bound=nn.Module)


def freeze(model: M, *layers: str) -> M:
    """Keep *layers* of *model*, by default all but its head, as they are in training, and return *model*.

    Their parameters get no gradient. Batch norm in them, and whatever else holds buffers, works in training as in
    evaluation: with running statistics that stay as they are. Dropout goes on. This holds in every training loop, and
    is not in a saved file. ``model.get_submodule(name).requires_grad_(True)`` lets a layer be trained again; what has
    buffers and no parameters, such as batch norm with ``affine=False``, stays as it is.

    Args:
        model: Any module.
        layers: Names as in ``model.named_modules()``, each with all that is inside. None: all that is registered before
            the head, the last layer with a weight of two or more dimensions.

    Raises:
        ValueError: *model* has no layer of that name; or none is given, and nothing is before the head.

    References:
        Keras does the same: https://keras.io/guides/transfer_learning, on batch norm with ``trainable = False``.

    >>> from torchbasics.models import CNNModel
    >>> [name for name, parameter in freeze(CNNModel()).named_parameters() if parameter.requires_grad]
    ['fc2.weight', 'fc2.bias']
    >>> [name for name, parameter in freeze(CNNModel(), "conv1").named_parameters() if not parameter.requires_grad]
    ['conv1.weight', 'conv1.bias']
    """
    bare = unwrapped(model)
    found = [part for name in layers for part in find_layer(bare, name).modules()] if layers else _before_head(bare)
    for part in found:
        for parameter in part.parameters(recurse=False):
            parameter.requires_grad_(False)
        if any(True for _ in part.buffers(recurse=False)) and _stay not in part._forward_pre_hooks.values():
            part.register_forward_pre_hook(_stay)
    return model


def _before_head(model: nn.Module) -> list[nn.Module]:
    parts = list(model.modules())
    heads = [i for i, part in enumerate(parts) if any(p.ndim > 1 for p in part.parameters(recurse=False))]
    before = parts[: heads[-1]] if heads else []
    if not any(True for part in before for _ in part.parameters(recurse=False)):
        raise ValueError(f"{type(model).__name__} has no layer before its head that could be frozen; name the layers")
    return before


def _stay(part: nn.Module, _inputs: Any) -> None:
    """Evaluate, whatever mode the loop has put *part* into, as long as its parameters are frozen."""
    if part.training and not any(parameter.requires_grad for parameter in part.parameters(recurse=False)):
        part.training = False
