"""Layers that training leaves as they are."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

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
        ValueError: *model* has no layer of that name; or none is given, and nothing is before the head, or something
            that shares its parameters, or *model* is a GAN.

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
    if hasattr(model, "generator") and hasattr(model, "discriminator"):
        raise ValueError(f"{type(model).__name__} is two networks, each with a head; name the layers")
    parts = list(model.modules())
    inside = {inner for part in parts if is_parametrized(part) for inner in part.parametrizations.modules()}  # type: ignore[union-attr]  # it has them
    heads = [i for i, part in enumerate(parts) if part not in inside and any(map(_is_weight, _own(part)))]
    before = parts[: heads[-1]] if heads else []
    held = {parameter for part in before for parameter in part.parameters(recurse=False)}
    if not held:
        raise ValueError(f"{type(model).__name__} has no layer before its head that could be frozen; name the layers")
    if held & set(_own(parts[heads[-1]])):
        raise ValueError(
            f"the head of {type(model).__name__} shares a parameter with a layer before it; name the layers"
        )
    return before


def _own(part: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of *part* itself, and those that a parametrization, such as weight norm, has taken over."""
    taken = part.parametrizations.parameters() if is_parametrized(part) else ()  # type: ignore[union-attr]  # it has them
    return [*part.parameters(recurse=False), *taken]


def _is_weight(parameter: Any) -> bool:
    return bool(is_lazy(parameter) or parameter.ndim > 1)


def _stay(part: nn.Module, _inputs: Any) -> None:
    """Evaluate, whatever mode the loop has put *part* into, as long as its parameters are frozen."""
    if part.training and not any(parameter.requires_grad for parameter in part.parameters(recurse=False)):
        part.training = False
