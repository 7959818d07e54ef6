"""The reference has all that is public, and what is public explains itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import torchbasics
from torchbasics import _zoo

PACKAGE = Path(torchbasics.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
MODULES = ("data", "hub", "io", "models", "plot", "testing", "training")

# Examples that the doctests leave out, and why.
NOT_RUN = {
    "data.fashion_mnist": "needs the official files",
    "data.mnist": "needs the official files",
    "hub.load_dcgan": "needs a download",
    "io.from_pretrained": "needs a network",
    "io.push_to_hub": "needs a network",
}
# No example of their own, and why.
NO_EXAMPLE = {
    "testing.kill_test": "runs a module's function in processes; the example is on its page",
    "testing.run_child": "the same",
    "testing.Report": "what kill_test returns",
    "testing.Outcome": "a part of it",
    "testing.Child": "what run_child returns",
    "training.DistributedError": "needs several processes",
}


def names_of(module: str) -> list[str]:
    """What a module gives away: what its `__init__` imports under its own name; of plot, its functions."""
    path = PACKAGE / module / "__init__.py"
    if not path.is_file():
        tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
        found = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        return [name for name in found if not name.startswith("_")]
    imports = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ImportFrom)]
    return [alias.name for n in imports for alias in n.names if alias.asname == alias.name]


NAMES = [f"{module}.{name}" for module in MODULES for name in names_of(module)] + ["device", "info"]


def find(name: str) -> Any:
    module, _, attribute = f"torchbasics.{name}".rpartition(".")
    return getattr(importlib.import_module(module), attribute)


EXPLAINED = [name for name in NAMES if inspect.isclass(find(name)) or inspect.isfunction(find(name))]


def entries(page: str) -> set[str]:
    """The names that a page of the reference has an entry for."""
    text = (DOCS / "api" / f"{page}.rst").read_text(encoding="utf-8")
    return set(re.findall(r"^\.\. auto(?:function|class|exception|data):: (\w+)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_its_entry(module: str) -> None:
    """The page of a module has the public names, all and no others."""
    assert entries(module) == set(names_of(module))


def test_the_package_itself_has_its_page() -> None:
    """What `torchbasics` has beside its modules is on the first page."""
    assert entries("torchbasics") == {"device", "info"} == set(dir(torchbasics)) - {*MODULES, "__version__"}


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_public_name_has_an_example(name: str) -> None:
    """A docstring of its own, and an example in it, unless there is a reason why it has none."""
    text = find(name).__doc__ or ""

    assert text.strip(), f"{name} has no docstring"
    assert (">>> " in text) == (name not in NO_EXAMPLE)


@pytest.mark.parametrize("name", EXPLAINED)
def test_examples_are_run(name: str) -> None:
    """Only those that need something from elsewhere are left out by the doctests."""
    assert ("+SKIP" in find(name).__doc__) == (name in NOT_RUN)


def test_every_model_has_its_page() -> None:
    """The zoo has a page for each of the library's models, with its facts, and lists it."""
    contents = (DOCS / "zoo/index.md").read_text(encoding="utf-8")
    for name in _zoo.BUILT_IN:
        page = (DOCS / f"zoo/{name}.md").read_text(encoding="utf-8")
        assert f"```{{model-facts}} {name}\n" in page
        assert f"```{{model-details}} {name}\n" in page
        assert f"\n{name}\n" in contents
