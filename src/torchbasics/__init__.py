"""torchbasics: a typed model zoo for PyTorch, one fit, one evaluate, one save and load.

>>> import torchbasics as tb
>>> tb.models.list_models()
['cnn', 'dcgan', 'mlp', 'rnn_classifier', 'stacked_rnn']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Imported on first use, so that `import torchbasics` costs nothing: neither torch nor any extra is loaded by it.
_MODULES = ("data", "hub", "io", "models", "plot", "testing", "training")
_NAMES = {"device": "torchbasics._env", "info": "torchbasics._env"}

if TYPE_CHECKING:
    from torchbasics import data as data
    from torchbasics import hub as hub
    from torchbasics import io as io
    from torchbasics import models as models
    from torchbasics import testing as testing
    from torchbasics import training as training
    from torchbasics._env import device as device
    from torchbasics._env import info as info

    from . import plot as plot


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"torchbasics.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'torchbasics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_MODULES, *_NAMES, "__version__"])
