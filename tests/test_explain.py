"""What docs/explain names is there: files, and the tests of each promise, each after the file that it is in."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/explain/*.md"))
NAMED = re.compile(r"`(?:((?:tests|scripts|examples|benchmarks)/[\w/]+\.(?:py|md))|(test_\w+))`")


@cache
def functions(path: Path) -> set[str]:
    """The names of the functions at the top of a file."""
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def gone(text: str) -> list[str]:
    """What *text* names and the tree does not have."""
    found, file = [], ""
    for path, name in NAMED.findall(text):
        file = path or file
        if not (ROOT / file).is_file() or (name and (not file or name not in functions(ROOT / file))):
            found.append(path or name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    """File and function, so that no promise is said to be tested that is not."""
    assert not gone(page.read_text(encoding="utf-8"))


def test_the_promises_name_tests() -> None:
    """At least two for each of the nine; the pattern finds them."""
    text = ROOT.joinpath("docs/explain/promises.md").read_text(encoding="utf-8")

    assert len([name for _, name in NAMED.findall(text) if name]) >= 18


def test_a_test_that_is_gone_is_found() -> None:
    """Positive control: one before any file, one that is in no file, a function that is no test of it, a file."""
    text = "`test_first`, `tests/test_fit.py`: `test_nothing` and `test_early_stopping_can_watch_what_is_to_rise`"

    assert gone(f"{text}, `tests/test_gone.py`") == ["test_first", "test_nothing", "tests/test_gone.py"]
