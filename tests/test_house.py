"""What holds for the code as a whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchbasics

PACKAGE = Path(torchbasics.__file__).parent

# Who may import whom: a module may import those of lower rank, and its own package.
RANKS = {
    "__main__": 7, "cli": 6, "hub": 5, "io": 4, "training": 4, "plot": 4, "testing": 5, "_env": 3, "models": 3,
    "data": 3, "_weights": 2, "_model": 2, "_pickles": 2, "_zoo": 1, "_recipe": 1, "_transforms": 1, "_safetensors": 1,
    "_files": 0, "_meeting": 0, "_parts": 0, "_world": 1, "_checks": 0, "_third_party": 0, "__init__": 8,
}  # fmt: skip


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the package that a file imports, at the top or on use."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "torchbasics":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchbasics."):
            found.add((node.module or "").split(".")[1])
    return found & set(RANKS)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(PACKAGE)) for f in FILES])
def test_imports_point_down_only(path: Path) -> None:
    """A module imports only parts of a lower rank, or its own part."""
    here = part(path)
    wrong = [name for name in imported(path) if name != here and RANKS[name] >= RANKS[here]]

    assert not wrong, f"{path.name} may not import {wrong}"


def test_training_names_no_model_and_models_name_no_training() -> None:
    """Training knows models by protocol alone, and the other way round."""
    for path in FILES:
        if part(path) == "training":
            assert "models" not in imported(path)
        if part(path) in ("models", "data"):
            assert not {"training", "models" if part(path) == "data" else "training"} & imported(path)


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(PACKAGE)) for f in FILES])
def test_no_file_holds_two_ideas(path: Path) -> None:
    """Files have at most 400 lines; models under 200."""
    lines = len(path.read_text(encoding="utf-8").splitlines())

    assert lines <= (200 if part(path) == "models" else 400)


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running *code*."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_brings_in_nothing_heavy() -> None:
    """`import torchbasics` loads neither torch nor an extra."""
    assert not {"torch", "torchvision", "tensorboard", "matplotlib", "numpy", "PIL"} & modules_after(
        "import torchbasics"
    )


def test_importing_all_public_modules_brings_in_no_extra() -> None:
    """Extras are loaded on use."""
    loaded = modules_after("from torchbasics import data, hub, io, models, plot, testing, training")

    assert "torch" in loaded
    assert not {"torchvision", "tensorboard", "matplotlib", "torchmetrics", "tqdm.auto", "onnx"} & loaded


def test_the_public_names_are_these() -> None:
    """A new public name is a decision."""
    public = ["__version__", "data", "device", "hub", "info", "io", "models", "plot", "testing", "training"]
    assert dir(torchbasics) == public
    for name in dir(torchbasics):
        assert getattr(torchbasics, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy names do not swallow mistakes."""
    with pytest.raises(AttributeError, match="module 'torchbasics' has no attribute 'nets'"):
        torchbasics.nets  # noqa: B018


def test_the_changelog_tells_of_this_version() -> None:
    """The version is in the changelog."""
    changelog = Path(__file__).parents[1].joinpath("CHANGELOG.md").read_text(encoding="utf-8")

    assert f"## [{torchbasics.__version__}]" in changelog
