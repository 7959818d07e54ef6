"""The modules of a repository, apart from one's own of the same name."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# What a process can load only once: the standard library, and packages that register compiled code.
SHARED = sys.stdlib_module_names | {"numpy", "torch", "torchaudio", "torchvision"}


@contextlib.contextmanager
def isolated(folder: Path) -> Iterator[None]:
    """Let the block import from *folder* as a fresh process would, and forget what it has imported from there.

    Modules of this process that have the name of one in *folder*, such as ``models`` or ``utils``, are out of sight in
    the block and back after it; ``sys.path`` is as before. Of what is in `SHARED`, this process's own is used.
    """
    names = _importable(folder) - SHARED
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for name in hidden:
        del sys.modules[name]
    before, path = set(sys.modules), list(sys.path)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in names or _lies_in(sys.modules[name], folder):
                del sys.modules[name]
        sys.modules.update(hidden)
        sys.path[:] = path


def _importable(folder: Path) -> set[str]:
    """Return the names that can be imported when *folder* is on ``sys.path``."""
    found = {p.stem if p.suffix == ".py" else p.name for p in folder.iterdir() if p.is_dir() or p.suffix == ".py"}
    return {name for name in found if name.isidentifier()}


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(isinstance(place, str) and Path(place).resolve().is_relative_to(folder.resolve()) for place in places)
