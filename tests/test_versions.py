"""What is tested is written once, in noxfile.py; pyproject.toml, GitHub and the docs say the same."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import torchbasics
from tests.helpers import module_at

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))

needs_nox = pytest.mark.skipif(importlib.util.find_spec("nox") is None, reason="nox is not installed")
needs_workflows = pytest.mark.skipif(not WORKFLOWS, reason="the sdist has no .github")


@pytest.fixture(name="noxfile")
def load_noxfile(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module noxfile.py, imported once: it registers its sessions."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("noxfile")


def floors() -> dict[str, str]:
    """The oldest version of each dependency that pyproject.toml allows."""
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    return dict(r.split(">=") for r in PROJECT["dependencies"] + extras if ">=" in r)


@needs_nox
def test_the_floor_is_what_pyproject_promises(noxfile: Any) -> None:
    """The oldest torch, torchvision and Python that may be installed are those of a leg that is always run."""
    floor = noxfile.MATRIX["floor"]

    assert "floor" in noxfile.ALWAYS
    assert floor.torch == f"{floors()['torch']}.0"
    assert floor.vision == f"{floors()['torchvision']}.0"
    assert f">={floor.python}" == PROJECT["requires-python"]


@needs_nox
def test_each_python_of_the_classifiers_is_tested(noxfile: Any) -> None:
    """And no other is."""
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))

    assert set(named) == {leg.python for leg in noxfile.MATRIX.values() if leg.python}


@needs_nox
def test_nox_runs_each_leg_of_the_table_and_no_other(noxfile: Any) -> None:
    """What the first job on GitHub lists is the table, with its Pythons."""
    command = [sys.executable, "-m", "nox", "--list", "--json", "-s", "tests", "matrix"]
    listed = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    legs = {leg["call_spec"]["leg"]: leg["python"] for leg in listed}

    assert len(listed) == len(legs)
    assert legs == {name: leg.python for name, leg in noxfile.MATRIX.items()}


@needs_workflows
def test_github_takes_its_jobs_from_nox() -> None:
    """The workflow asks nox for the legs, and names no version of torch and no Python of a leg itself."""
    text = ROOT.joinpath(".github/workflows/tests.yml").read_text(encoding="utf-8")

    assert re.search(r"nox --list --json -s [\w ]*\btests matrix\b", text)
    assert "python-version: ${{ matrix.leg.python || " in text
    assert not re.search(r"(?<!py)torch", text)


@needs_workflows
@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_actions_are_pinned_by_hash_with_their_version_beside_it(path: Path) -> None:
    """A tag can be moved to other code, a hash cannot."""
    used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))

    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


@needs_nox
def test_the_page_shows_the_table(noxfile: Any) -> None:
    """`python scripts/versions.py` writes it."""
    assert module_at("scripts/versions.py").main(["--check"]) == 0
    assert all((leg.torch or "") in ROOT.joinpath("docs/versions.md").read_text() for leg in noxfile.MATRIX.values())


@needs_nox
def test_a_stale_page_is_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Positive control: what stands between the marks is replaced, the rest stays."""
    main, page = module_at("scripts/versions.py").main, tmp_path / "versions.md"
    page.write_text("# V\n\n<!-- matrix -->\nold\n<!-- /matrix -->\nrest\n", encoding="utf-8")

    assert main(["--check"], page) == 1
    assert main([], page) == 0
    assert main(["--check"], page) == 0
    assert capsys.readouterr().out == "stale: versions.md\nwritten: versions.md\n"
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert "| 2.6.0 | 0.21.0 | 3.11 |" in text
    assert text.endswith("<!-- /matrix -->\nrest\n")


def test_the_citation_is_of_this_version() -> None:
    """CITATION.cff and __version__ move together."""
    text = ROOT.joinpath("CITATION.cff").read_text(encoding="utf-8")

    assert f"\nversion: {torchbasics.__version__}\n" in text
