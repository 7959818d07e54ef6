"""A generator whose batch norms are part of its convolutions."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

GeneratorT = TypeVar("GeneratorT", bound=nn.Module)


def folded(generator: GeneratorT) -> GeneratorT:
    """Return a copy of a `DCGAN`'s generator, in eval mode and channels_last, that computes the same with less work."""
    made: Any = copy.deepcopy(generator).eval()
    layers: list[Any] = [made.formatLayer]
    for layer in made.main:
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer, transpose=True)
        else:
            layers.append(layer)
    made.formatLayer, made.main = layers[0], nn.Sequential(*layers[1:])
    return made.to(memory_format=torch.channels_last)  # type: ignore[no-any-return]  # a module
