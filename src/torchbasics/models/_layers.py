"""Layers by their names in ``model.named_modules()``."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from torchbasics import _checks

if TYPE_CHECKING:
    from torch import nn


def find_layer(model: nn.Module, name: object) -> nn.Module:
    """Return the layer *name* of *model*.

    Raises:
        ValueError: there is none; the nearest is named, or, where none is near, the outermost are.
    """
    layers: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    del layers[""]  # the model itself
    kind = type(model).__name__
    if not layers:
        raise ValueError(f"{kind} has no layers inside, got {name!r}")
    if isinstance(name, str) and name in layers:
        return layers[name]
    near = difflib.get_close_matches(str(name), layers, n=1)  # of what can be hundreds
    return layers[_checks.choice(f"layer of {kind}", name, near or [outer for outer, _ in model.named_children()])]
