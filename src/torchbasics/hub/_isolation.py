"""The modules of a repository, apart from one's own of the same name."""

from __future__ import annotations

import contextlib
import importlib
import sys
from importlib.machinery import all_suffixes
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
    found = _importable(folder)
    names = found - {name for name in found & SHARED if _imports(name)}
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for name in hidden:
        del sys.modules[name]
    before, path = set(sys.modules), list(sys.path)
    for name in names & sys.stdlib_module_names:  # of another system
        sys.modules[name] = None  # type: ignore[assignment]  # how Python writes that it cannot be imported
    try:
        yield
    finally:
        new = set(sys.modules) - before
        gone = {name for name in new if name.partition(".")[0] in names}
        try:
            gone |= {name for name in new - gone if _lies_in(sys.modules.get(name), folder)}
        finally:  # whatever becomes of looking at them
            for name in gone:
                sys.modules.pop(name, None)
            sys.modules.update(hidden)
            sys.path[:] = path


def _importable(folder: Path) -> set[str]:
    """Return the names that can be imported when *folder* is on ``sys.path``."""
    there = list(folder.iterdir())
    found = {path.name for path in there if path.is_dir()}
    found |= {path.name.removesuffix(end) for path in there for end in all_suffixes() if path.name.endswith(end)}
    return {name for name in found if name.isidentifier()}


def _imports(name: str) -> bool:
    """Import this process's own *name*, before another of that name is on the path, and tell whether there is one."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _lies_in(module: ModuleType | None, folder: Path) -> bool:
    """Tell whether *module* is of *folder*; one that makes its attributes only when it is asked for them is not asked.

    What is in ``sys.modules`` can be any object.
    """
    try:
        own = vars(module)
        places = [own.get("__file__"), *(own.get("__path__") or ())]
        return any(isinstance(p, str) and Path(p).resolve().is_relative_to(folder.resolve()) for p in places)
    except Exception:  # of an object of anybody's: no vars, or attributes and paths of any kind
        return False
