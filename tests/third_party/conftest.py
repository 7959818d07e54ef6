"""Packages that pip has installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.third_party.packages import BAD, GOOD, ODD, install
from torchbasics import _zoo

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where pip has installed packages, good and bad."""
    return install(tmp_path_factory.mktemp("site"), GOOD | BAD)


@pytest.fixture(scope="session")
def odd_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where pip has installed packages with names that they cannot have."""
    return install(tmp_path_factory.mktemp("odd"), ODD)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let this process find other packages; afterwards it knows nothing of them."""
    names = [*GOOD, *BAD, *ODD]
    _zoo.declared.cache_clear()
    try:
        yield monkeypatch
    finally:
        for name in set(_zoo.list_models()) - set(_zoo.BUILT_IN):
            _zoo.forget(name)
        for name in names:
            sys.modules.pop(name, None)
        monkeypatch.undo()
        _zoo.declared.cache_clear()


@pytest.fixture
def installed(path: pytest.MonkeyPatch, site: Path) -> Path:
    """Have the packages of *site* installed in this process."""
    path.syspath_prepend(site)
    return site
