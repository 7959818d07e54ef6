"""The models for ``torch.hub.load("org/torchbasics", name)``; an entry point for each of ``models.list_models()``."""

import inspect as _inspect
import sys as _sys
from pathlib import Path as _Path
from typing import TYPE_CHECKING
from typing import Any as _Any

if TYPE_CHECKING:
    from collections.abc import Callable as _Callable

    from torch import nn as _nn

dependencies = ["torch", "safetensors", "numpy"]

_KEYWORDS = """Besides the arguments above, by keyword:
    weights: None for an untrained model, "DEFAULT", or the name of the weights to load.
    pretrained: True is short for ``weights="DEFAULT"``."""

# The package lies beside this file; the path is only needed to find it, and must not shadow anything afterwards.
_src = str(_Path(__file__).resolve().with_name("src"))
_sys.path.insert(0, _src)
try:
    from torchbasics import _zoo
    from torchbasics import models as _models
finally:
    _sys.path.remove(_src)


def _entry_point(name: str) -> "_Callable[..., _nn.Module]":
    def load(*, weights: str | None = None, pretrained: bool = False, **config: _Any) -> "_nn.Module":
        if pretrained and weights is not None:
            raise TypeError(f"weights={weights!r} and pretrained=True say the same; give one of them")
        return _models.get_model(name, weights="DEFAULT" if pretrained else weights, **config)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{_inspect.getdoc(_zoo.entry(name).cls)}\n\n{_KEYWORDS}"
    return load


# torch.hub lists every callable whose name does not begin with an underscore: these and no others.
globals().update({_name: _entry_point(_name) for _name in _models.list_models()})
