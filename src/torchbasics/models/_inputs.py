"""The checks of what a model is given to run on, and their words."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor


def check_tensor(inputs: Tensor, weight: Tensor, *, name: str = "inputs") -> None:
    """Refuse what cannot be multiplied with *weight*: no tensor, or one of another dtype.

    Under autocast any floating dtype is fine, since torch converts it.

    Raises:
        TypeError: *inputs* is no tensor, or has another dtype than *weight*.

    >>> check_tensor(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(3))
    Traceback (most recent call last):
        ...
    TypeError: inputs have dtype torch.uint8, but the weights have torch.float32; give images as
    torchbasics.data.Images, which converts them, or as inputs.to(torch.float32) / 255
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(inputs).__name__}; torch.as_tensor(...) makes one")
    if inputs.dtype == weight.dtype:
        return
    if inputs.is_floating_point() and torch.is_autocast_enabled(inputs.device.type):
        return
    way_out = f"call {name}.to({weight.dtype})"
    if inputs.dtype == torch.uint8:  # 0 to 255: as numbers of that size they would give wrong outputs, and no error
        way_out = "give images as torchbasics.data.Images, which converts them, "
        way_out += f"or as {name}.to({weight.dtype}) / 255"
    raise TypeError(f"{_have(name)} dtype {inputs.dtype}, but the weights have {weight.dtype}; {way_out}")


def check_generator(generator: object) -> torch.Generator | None:
    """Return *generator* if it is one, or None.

    >>> check_generator(3)
    Traceback (most recent call last):
        ...
    TypeError: generator must be a torch.Generator or None, got 3; torch.Generator().manual_seed(3) makes one
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    seed = generator if isinstance(generator, Integral) else 0
    way_out = f"torch.Generator().manual_seed({seed}) makes one"
    raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}; {way_out}")


def wrong_shape(inputs: Tensor, model: str, needs: str, *, name: str = "inputs") -> ValueError:
    """Return the error for *inputs* whose shape does not fit *model*.

    >>> wrong_shape(torch.zeros(4, 5), "MLP(in_features=3)", "(N, 3)")
    ValueError('inputs have shape (4, 5), but MLP(in_features=3) needs (N, 3)')
    """
    return ValueError(f"{_have(name)} shape {tuple(inputs.shape)}, but {model} needs {needs}")


def _have(name: str) -> str:
    return f"{name} have" if name.endswith("s") else f"{name} has"
