"""hubconf.py: what ``torch.hub`` sees of a clone, with no torchbasics installed."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import torchbasics
from tests.helpers import equal
from torchbasics import _zoo, models

ROOT = Path(__file__).parents[1]
NAMES = list(_zoo.BUILT_IN)


# An environment with torch, safetensors, numpy and what these need; the user's own modules; and nothing else.
THERE = {
    *("torch", "torchgen", "functorch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy"),
    *("typing_extensions", "safetensors", "numpy", "torchbasics", "models", "utils"),
}
BARE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if path is None and name not in sys.stdlib_module_names | {THERE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
for name in list(sys.modules):  # what a start-up file has brought in
    if name.partition(".")[0] in ("PIL", "tqdm", "torchvision"):
        del sys.modules[name]
blocked = []
for name in ("tqdm", "PIL", "torchvision", "matplotlib", "pytest"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        blocked.append(name)
"""
CODE = f"""{BARE}
import json, torch
root, cache, other = sys.argv[1:]
if other:
    sys.path.insert(0, other)
    import models, utils
before, report = list(sys.path), {{}}
for name in {NAMES!r}:
    model = torch.hub.load(root, name, source="local")
    model(model.example_inputs(2))
    report[name] = [type(model).__name__, sys.modules[type(model).__module__].__file__]
torch.hub.set_dir(cache)
repo = "org/torchbasics:v0.1.0"
listed = torch.hub.list(repo, trust_repo=True, verbose=False)
helps = {{name: torch.hub.help(repo, name, trust_repo=True) for name in listed}}
kept = not other or (models.WHOSE, utils.WHOSE) == ("mine", "mine")
print(json.dumps({{"models": report, "clean": sys.path == before, "listed": listed, "helps": helps, "kept": kept, "blocked": blocked}}))
"""


def run(folder: Path, code: str, *arguments: object, warnings: str = "error") -> str:
    """Run *code* in a fresh process that is not told where torchbasics is; return what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-W", warnings, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module", params=["", "mine"], ids=["bare", "bare, with models and utils of one's own"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a fresh process sees in a bare environment: of the clone, and of a cache that holds it already."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "org_torchbasics_v0.1.0").symlink_to(ROOT)  # as torch.hub keeps what it has downloaded
    (folder / "mine/models").mkdir(parents=True)
    (folder / "mine/models/__init__.py").write_text("WHOSE = 'mine'")
    (folder / "mine/utils.py").write_text("WHOSE = 'mine'")
    return json.loads(run(folder, CODE, ROOT, folder, request.param and folder / "mine").split("\nUsing cache")[0])


def test_the_environment_is_bare(seen: Any) -> None:
    """Positive control: what is installed here beside torch, safetensors and numpy cannot be imported there."""
    assert seen["blocked"] == ["tqdm", "PIL", "torchvision", "matplotlib", "pytest"]


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


def test_ones_own_models_and_utils_are_as_before(seen: Any) -> None:
    """The entry points need no module of these names, and change none."""
    assert seen["kept"]


def test_the_hub_lists_the_models_and_nothing_else(seen: Any) -> None:
    """torch.hub.list, of a ref that the cache already holds, gives the library's own models."""
    assert seen["listed"] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_helps(name: str, seen: Any) -> None:
    """torch.hub.help shows the class's docstring, its arguments and the two keywords."""
    text = seen["helps"][name]
    assert text.startswith((inspect.getdoc(type(models.get_model(name))) or "?").splitlines()[0])
    assert "Args:" in text
    assert "pretrained: True is short for" in text


@pytest.mark.parametrize("name", NAMES)
def test_what_the_clone_gives_is_what_the_package_gives(name: str) -> None:
    """The entry point is get_model: the same parameters from the same seed."""
    torch.manual_seed(5)
    one = hub_load(name)
    torch.manual_seed(5)

    assert equal(one, models.get_model(name))


OTHER = """
import sys, torch, warnings
root, folder, first = sys.argv[1:]
sys.path.insert(0, folder)
if first: import torchbasics
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = torch.hub.load(root, "mlp", source="local")
print(*[s.message for s in said], sep="\\n")
print(sys.modules["torchbasics"].__version__, type(model).__module__)
"""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with an installed torchbasics 9.9, which differs in nothing else."""
    shutil.copytree(
        ROOT / "src/torchbasics", tmp_path / "site/torchbasics", ignore=shutil.ignore_patterns("mini", "__pycache__")
    )
    init = tmp_path / "site/torchbasics/__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{torchbasics.__version__}"', '__version__ = "9.9"'))
    (tmp_path / "site/torchbasics-9.9.dist-info").mkdir()
    (tmp_path / "site/torchbasics-9.9.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchbasics\nVersion: 9.9\n"
    )
    return tmp_path / "site"


@pytest.mark.slow
def test_another_version_that_was_imported_is_said(other: Path, tmp_path: Path) -> None:
    """A process has one torchbasics; the warning names both versions, both folders, and the way out."""
    said, used = run(tmp_path, OTHER, ROOT, other, "first").splitlines()

    assert said == (
        f"torchbasics 9.9 ({other / 'torchbasics'}), which was imported before, is used, not {torchbasics.__version__} of "
        f"torch.hub ({ROOT / 'src/torchbasics'}); load it in a new process, or update the other"
    )
    assert used == "9.9 torchbasics.models._mlp"


@pytest.mark.slow
def test_another_version_that_is_installed_is_said(other: Path, tmp_path: Path) -> None:
    """The clone's own is used from then on; the warning names both versions and both folders."""
    said, used = run(tmp_path, OTHER, ROOT, other, "").splitlines()

    assert said == (
        f"torchbasics {torchbasics.__version__} of torch.hub ({ROOT / 'src/torchbasics'}) is used from now on in this "
        f"process, not the installed 9.9 ({other / 'torchbasics'})"
    )
    assert used == f"{torchbasics.__version__} torchbasics.models._mlp"


@pytest.mark.slow
def test_the_same_version_is_not_worth_a_word(tmp_path: Path) -> None:
    """Positive control: with the clone's own imported before, nothing is said."""
    said, used = run(tmp_path, OTHER, ROOT, ROOT / "src", "first").splitlines()

    assert said == ""
    assert used == f"{torchbasics.__version__} torchbasics.models._mlp"


PAGE = ROOT / "docs/hub/torchbasics.md"
# What https://github.com/pytorch/hub asks of a page: scripts/sanity_check.py and docs/template.md there.
START = ["---", "layout: hub_detail", "background-class: hub-background", "body-class: hub"]


def front_matter() -> dict[str, str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines[1 : lines.index("---", 1)])


def test_the_listing_page_has_the_form_of_the_hub() -> None:
    """Its first lines, fields and sections are those that the hub's own check asks for."""
    fields, text = front_matter(), PAGE.read_text(encoding="utf-8")

    assert text.splitlines()[:4] == START
    assert {"title", "summary", "category", "image", "author", "tags", "github-link", "order"} <= fields.keys()
    assert fields["author"] == "The torchbasics developers"
    assert fields["category"] == "researchers"
    assert fields["image"] == "pytorch-logo.png"
    assert fields["github-link"] == "https://github.com/org/torchbasics"
    assert not any(":" in fields[name] for name in ("title", "summary", "author"))
    assert re.findall(r"^### (.*)$", text, re.M) == ["Example", "Model Description", "References"]


def test_the_listing_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks one after the other, against a cache that holds this clone; they print what their comments say."""
    text = PAGE.read_text(encoding="utf-8")
    (tmp_path / f"org_torchbasics_v{torchbasics.__version__}").symlink_to(ROOT)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}

    for block in blocks:
        exec(block, names)

    printed = capsys.readouterr().out
    wanted = re.findall(r"print\(.*\)  # (.*)", text)
    assert len(wanted) == 3
    assert all(line in printed.splitlines() for line in wanted)
    assert names["wide"].num_classes == 5


def test_the_listing_page_tells_of_every_model() -> None:
    """One row of its table each."""
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.M) == sorted(
        NAMES, key=["mlp", "cnn", "stacked_rnn", "rnn_classifier", "dcgan"].index
    )


def test_keywords_reach_the_model() -> None:
    """An entry point takes the constructor's arguments."""
    assert hub_load("mlp", hidden=(5,)).hidden == (5,)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"hiden_size": 3}, TypeError, "unknown argument 'hiden_size'; did you mean 'hidden_size'"),
        ({"weights": "nothing"}, ValueError, "'stacked_rnn' has no weights, got weights='nothing'"),
        ({"pretrained": True}, ValueError, "'stacked_rnn' has no weights, got weights='DEFAULT'"),
        ({"pretrained": True, "weights": "a"}, TypeError, "weights='a' and pretrained=True say the same; give one"),
        (
            {"pretrained": "yes"},
            TypeError,
            "pretrained must be True or False, got 'yes'; weights= takes a name, or 'DEFAULT'",
        ),
    ],
    ids=["unknown", "weights", "pretrained", "both", "text"],
)
def test_keywords_that_mean_nothing_are_refused(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    """No keyword is passed over in silence."""
    with pytest.raises(error, match=message):
        hub_load("stacked_rnn", **keywords)
