"""The models that installed packages declare: what their metadata says, without importing one of them."""

from __future__ import annotations

import contextlib
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container
    from importlib.metadata import EntryPoint

    from torch import nn

GROUP = "torchbasics.models"  # of entry points, as in [project.entry-points."torchbasics.models"]


class Declared(NamedTuple):
    """A model that a package declares: ``name = "module:Class"``."""

    entry_point: EntryPoint
    package: str
    version: str

    @property
    def path(self) -> str:
        """Where the class is: "module:Class"."""
        return self.entry_point.value

    def __str__(self) -> str:
        return f"{self.path} of the package {self.package} {self.version}"

    def is_home_of(self, cls: type) -> bool:
        """Whether *cls* is of the same top-level package: where it is defined, the path need not say."""
        return cls.__module__.partition(".")[0] == self.path.partition(":")[0].partition(".")[0].strip()

    def names(self, cls: type) -> bool:
        """Whether it is *cls* that is declared; nothing is imported to see it."""
        module, _, attribute = self.path.partition(":")
        return getattr(sys.modules.get(module.strip()), attribute.strip(), None) is cls

    def load(self) -> type[nn.Module]:
        """Import the class.

        Raises:
            ImportError: it cannot be imported, or is no module of torch.
        """
        from torch import nn

        try:
            cls = self.entry_point.load()
        except Exception as e:  # whatever the code of a stranger raises
            raise self.broken(f"importing it gave {type(e).__name__}: {e}") from e
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise self.broken(f"it is {cls!r}, not a class of torch.nn.Module")
        return cls

    def broken(self, text: str) -> ImportError:
        """Return the error that says what is wrong, whose fault it is, and the way out."""
        name = f"the model {self.entry_point.name!r}, {self}, cannot be used"
        return ImportError(f"{name}: {text}; update the package, or pip uninstall {self.package}")


def read(reserved: Container[str]) -> dict[str, tuple[Declared, ...]]:
    """Return the models that installed packages declare, by name; a name has several where several packages declare it.

    What cannot be used is left out, with a warning.

    Args:
        reserved: The names that no package can have.
    """
    found: dict[str, tuple[Declared, ...]] = {}
    for made in _declared():
        name = made.entry_point.name
        if name in reserved:
            _warn(f"{name!r} is a model of torchbasics itself, which is used, and not {made}")
        elif not name.isidentifier():
            _warn(f"a model's name must be an identifier, got {name!r}: {made} is left out")
        else:
            found[name] = (*found.get(name, ()), made)
    return found


def _declared() -> list[Declared]:
    """Return all that is declared, by the names of the packages."""
    if "importlib.metadata" not in sys.modules and not _mentioned():
        return []
    from importlib import metadata

    found: dict[str, list[Declared]] = {}
    for package in metadata.distributions():
        ours, name = False, "?"
        try:
            ours = GROUP in (package.read_text("entry_points.txt") or "")  # not parsed, as there can be hundreds
            if ours:
                name = package.name
                first = metadata.distribution(name)  # of several on the path, the one that an import finds
                points = first.entry_points.select(group=GROUP)
                found[first.name] = [Declared(point, first.name, first.version) for point in points]
        except Exception as e:  # a damaged installation of one package must not keep the others from use
            if ours:
                place = f"the package {name} in {str(package.locate_file(''))!r}"
                _warn(f"the models that {place} declares cannot be read, and are left out: {type(e).__name__}: {e}")
    return [made for _, several in sorted(found.items()) for made in several]


def _mentioned() -> bool:
    """Whether a package on the path may declare a model: 3 ms, where to import importlib.metadata takes 40."""
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return True
    for folder in sys.path:
        try:
            infos = [path for path in Path(folder).iterdir() if path.name.lower().endswith("-info")]
        except FileNotFoundError:
            continue
        except OSError:  # an archive, which importlib.metadata can look into
            return True
        for info in infos:
            with contextlib.suppress(OSError):  # most packages have no entry points
                if GROUP.encode() in (info / "entry_points.txt").read_bytes():
                    return True
    return False


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)
