"""hubconf.py: what ``torch.hub`` sees of a clone, with no torchbasics installed."""

from __future__ import annotations

import importlib.util
import json
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


CODE = f"""
import json, sys, torch
root, cache = sys.argv[1:]
before, report = list(sys.path), {{}}
for name in {NAMES!r}:
    model = torch.hub.load(root, name, source="local")
    model(model.example_inputs(2))
    report[name] = [type(model).__name__, sys.modules[type(model).__module__].__file__]
torch.hub.set_dir(cache)
listed = torch.hub.list("org/torchbasics:main", trust_repo=True, skip_validation=True, verbose=False)
print(json.dumps({{"models": report, "clean": sys.path == before, "listed": listed}}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a fresh process sees that is not told where torchbasics is."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "org_torchbasics_main").symlink_to(ROOT)  # as torch.hub keeps what it has downloaded
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-W", "error", "-c", CODE, str(ROOT), str(folder)]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def hub_load(name: str, **keywords: Any) -> Any:
    return torch.hub.load(str(ROOT), name, source="local", **keywords)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", NAMES)
def test_each_model_loads_from_a_clone(name: str, seen: Any) -> None:
    """The model comes from the clone's own package, and runs."""
    kind, file = seen["models"][name]
    assert kind == type(models.get_model(name)).__name__
    assert Path(file).is_relative_to(ROOT / "src")


def test_the_path_is_as_before(seen: Any) -> None:
    """The clone's folder does not stay on sys.path."""
    assert seen["clean"]


def test_the_hub_lists_the_models_and_nothing_else(seen: Any) -> None:
    """torch.hub.list, on a cache that already holds the clone, gives list_models()."""
    assert sorted(seen["listed"]) == NAMES


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
def test_keywords_that_mean_nothing_are_refused(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    """No keyword is passed over in silence."""
    with pytest.raises(error, match=message):
        hub_load("mlp", **keywords)
