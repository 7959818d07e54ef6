"""The models for ``torch.hub.load("org/torchbasics", name)``; an entry point for each of the library's own."""

import inspect as _inspect
import re as _re
import sys as _sys
import warnings as _warnings
from importlib import metadata as _metadata
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
_src = _Path(__file__).resolve().with_name("src")
_sys.path.insert(0, str(_src))
try:
    import torchbasics as _torchbasics
    from torchbasics import _zoo
    from torchbasics import models as _models
finally:
    _sys.path.remove(str(_src))


def _warn_of_another_version() -> None:
    """Say which torchbasics the models come from, if this process or its environment has one of another version."""
    ours = _re.findall(r'^__version__ = "(.*)"', (_src / "torchbasics/__init__.py").read_text(encoding="utf-8"), _re.M)
    folder, used = _src / "torchbasics", _Path(_torchbasics.__file__).resolve().parent
    if _torchbasics.__version__ not in ours:  # imported before; a process has one
        text = f"torchbasics {_torchbasics.__version__} ({used}), which was imported before, is used, not "
        text += f"{ours[0] if ours else '?'} of torch.hub ({folder}); load it in a new process, or update the other"
        _warnings.warn(text, UserWarning, stacklevel=2)
    for found in _metadata.distributions(name="torchbasics"):
        if found.version not in ours and used == folder:
            text = f"torchbasics {ours[0]} of torch.hub ({folder}) is used from now on in this process, not the "
            text += f"installed {found.version} ({found.locate_file('torchbasics')})"
            _warnings.warn(text, UserWarning, stacklevel=2)
            break


def _entry_point(name: str) -> "_Callable[..., _nn.Module]":
    def load(*, weights: str | None = None, pretrained: bool = False, **config: _Any) -> "_nn.Module":
        if not isinstance(pretrained, bool):
            raise TypeError(
                f"pretrained must be True or False, got {pretrained!r}; weights= takes a name, or 'DEFAULT'"
            )
        if pretrained and weights is not None:
            raise TypeError(f"weights={weights!r} and pretrained=True say the same; give one of them")
        return _models.get_model(name, weights="DEFAULT" if pretrained else weights, **config)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{_inspect.getdoc(_zoo.entry(name).cls)}\n\n{_KEYWORDS}"
    return load


_warn_of_another_version()
# torch.hub lists every callable whose name does not begin with an underscore: these and no others. What installed
# packages declare is theirs, and differs from machine to machine.
globals().update({_name: _entry_point(_name) for _name in _zoo.BUILT_IN})
