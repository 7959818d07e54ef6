"""hubconf.py: what ``torch.hub`` sees of a clone, with no torchbasics installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchbasics import models

ROOT = Path(__file__).parents[1]
NAMES = models.list_models()


def run(code: str, *, folder: Path) -> str:
    """Run *code* in a fresh process that is not told where torchbasics is, and return what it printed."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def hub_load(name: str, **keywords: Any) -> Any:
    return torch.hub.load(str(ROOT), name, source="local", **keywords)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_process_loads_each_model_from_a_clone(name: str, tmp_path: Path) -> None:
    """The clone's package is used, and its folder does not stay on the path."""
    code = f"""if True:
        import sys, torch
        before = list(sys.path)
        model = torch.hub.load({str(ROOT)!r}, {name!r}, source="local")
        module = sys.modules[type(model).__module__]
        model.eval()(model.example_inputs(2))
        print(type(model).__name__, module.__file__.startswith({str(ROOT / "src")!r}), sys.path == before)
    """
    kind = type(models.get_model(name)).__name__
    assert run(code, folder=tmp_path) == f"{kind} True True"


def test_the_hub_lists_the_models_and_nothing_else(tmp_path: Path) -> None:
    """torch.hub.list, on a cache that already holds the clone, gives list_models()."""
    (tmp_path / "org_torchbasics_main").symlink_to(ROOT)
    code = f"""if True:
        import torch
        torch.hub.set_dir({str(tmp_path)!r})
        names = torch.hub.list("org/torchbasics:main", trust_repo=True, skip_validation=True, verbose=False)
        print(*sorted(names))
    """
    assert run(code, folder=tmp_path).splitlines()[-1] == " ".join(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_points_help_is_the_classs(name: str) -> None:
    """torch.hub.help shows the class's docstring and the two keywords."""
    text = entry_point(name).__doc__
    assert text is not None
    assert text.startswith((type(models.get_model(name)).__doc__ or "?").splitlines()[0])
    assert "pretrained: True is short for" in text


def entry_point(name: str) -> Any:
    """Return the entry point itself."""
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_keywords_reach_the_model() -> None:
    """An entry point takes the constructor's arguments."""
    assert hub_load("mlp", hidden=(5,)).hidden == (5,)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"hiden": 3}, TypeError, "unknown argument 'hiden'; did you mean 'hidden'"),
        ({"weights": "nothing"}, ValueError, "has no weights yet, got weights='nothing'"),
        ({"pretrained": True}, ValueError, "has no weights yet, got weights='DEFAULT'"),
        ({"pretrained": True, "weights": "a"}, TypeError, "weights='a' and pretrained=True say the same; give one"),
    ],
    ids=["unknown", "weights", "pretrained", "both"],
)
def test_keywords_that_mean_nothing_are_refused(
    keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    """No keyword is passed over in silence."""
    with pytest.raises(error, match=message):
        hub_load("mlp", **keywords)
