"""`hub.load`: torch.hub.load of any repository, apart from the modules of this process."""

from __future__ import annotations

import cmd
import copy
import importlib.util
import io
import pickle
import py_compile
import sys
import types
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.gan_zoo import Zoo
from tests.http_server import Server, give, hang_up, redirect, refuse, serving
from torchbasics import hub, models
from torchbasics.hub import _dcgan, _download, _repository

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT, OTHER = "a" * 40, "b" * 40
HUBCONF = """
import sys
from models.net import Net
from utils import NAME

dependencies = ["torch"]

def net(size=2, **keywords):
    "A linear layer."
    sys.path.append("left behind")
    made = Net(size)
    made.name, made.keywords = NAME, keywords
    return made
"""
NET = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, size):
        super().__init__(size, size)

    def later(self):
        from models import late
        return late.NUMBER
"""


def repository(folder: Path, name: str = "theirs") -> Path:
    """A repository for torch.hub with ``models`` and ``utils``, as so many have them."""
    (folder / "models").mkdir(parents=True)
    (folder / "hubconf.py").write_text(HUBCONF)
    (folder / "models/__init__.py").write_text("")
    (folder / "models/net.py").write_text(NET)
    (folder / "models/late.py").write_text("NUMBER = 3")
    (folder / "utils.py").write_text(f"NAME = {name!r}")
    return folder


def archive(folder: Path, commit: str) -> bytes:
    """The repository as GitHub packs it: in one folder, the commit as the comment."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for path in sorted(folder.rglob("*")):
            if "__pycache__" not in path.parts:
                made.write(path, Path("own-net-0123456") / path.relative_to(folder))
        made.comment = commit.encode()
    return content.getvalue()


def damaged(compression: int) -> bytes:
    """An archive with one wrong byte in its one file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as made:
        made.writestr("own-net-0123456/hubconf.py", "dependencies = []\n" * 9)
        start = 30 + len("own-net-0123456/hubconf.py")  # after its header
    return content.getvalue()[:start] + b"\xff" + content.getvalue()[start + 1 :]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, types.ModuleType]]:
    """The user's own ``models`` and ``utils``: on sys.path, and imported."""
    (tmp_path / "mine/models").mkdir(parents=True)
    (tmp_path / "mine/models/__init__.py").write_text("WHOSE = 'mine'")
    (tmp_path / "mine/utils.py").write_text("NAME = 'mine'")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    import models  # type: ignore[import-not-found]
    import utils  # type: ignore[import-not-found]

    yield {"models": models, "utils": utils}
    for name in ("models", "utils"):
        sys.modules.pop(name, None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return torch.hub's folder; nobody waits between two attempts, and GitHub is nowhere."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(_download, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(_repository, "GITHUB", "http://no-such-host.invalid")
    return tmp_path / "hub"


@pytest.fixture
def github(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server that stands for GitHub, and has the repository at COMMIT."""
    with serving() as server:
        monkeypatch.setattr(_repository, "GITHUB", server.url)
        server.answers = [give(archive(repository(tmp_path / "origin"), COMMIT))]
        yield server


def test_ones_own_modules_are_not_met_and_not_replaced(tmp_path: Path, mine: dict[str, types.ModuleType]) -> None:
    """The repository gets its ``models`` and ``utils``; sys.modules and sys.path are as before, object by object."""
    folder = repository(tmp_path / "theirs")
    modules, path = dict(sys.modules), list(sys.path)

    made = hub.load(folder, "net", 3, source="local", extra=1)

    assert (made.name, made.keywords, made.in_features) == ("theirs", {"extra": 1}, 3)
    assert sys.modules == modules
    assert all(sys.modules[name] is module for name, module in mine.items())
    assert sys.path == path


def test_torch_hub_itself_fails_with_ones_own_models(tmp_path: Path, mine: dict[str, types.ModuleType]) -> None:
    """Positive control: the same call of torch.hub.load finds the wrong ``models``."""
    folder = repository(tmp_path / "theirs")

    with pytest.raises(ModuleNotFoundError, match=r"No module named 'models\.net'"):
        torch.hub.load(str(folder), "net", source="local")  # type: ignore[no-untyped-call]


def test_two_repositories_with_the_same_names_live_side_by_side(tmp_path: Path) -> None:
    """Each has its own ``utils``; torch.hub.load would give the first's to both."""
    one, two = (hub.load(repository(tmp_path / n, n), "net", source="local") for n in ("one", "two"))

    assert (one.name, two.name) == ("one", "two")
    assert type(one) is not type(two)


def test_what_was_loaded_goes_on_working(tmp_path: Path, mine: dict[str, types.ModuleType]) -> None:
    """It runs, trains, is copied, and gives its state_dict."""
    made = hub.load(repository(tmp_path / "theirs"), "net", source="local")
    made(torch.zeros(1, 2)).sum().backward()

    assert made.weight.grad is not None
    assert torch.equal(copy.deepcopy(made).weight, made.weight)
    assert list(made.state_dict()) == ["weight", "bias"]


def test_the_two_limits_of_what_was_loaded(tmp_path: Path, mine: dict[str, types.ModuleType]) -> None:
    """A later import does not find the repository, nor does pickle; both as documented."""
    made = hub.load(repository(tmp_path / "theirs"), "net", source="local")

    with pytest.raises(ImportError, match="cannot import name 'late' from 'models'"):
        made.later()
    with pytest.raises(pickle.PicklingError, match=r"models\.net"):
        pickle.dumps(made)


LAZY = "def __getattr__(name):\n    raise ImportError(name)\n"
ODD = """
import sys

class Odd:
    def __getattribute__(self, name):
        raise RuntimeError(name)

sys.modules["odd_thing"] = Odd()
sys.modules["nothing"] = None
"""


@pytest.mark.parametrize("code", [LAZY, ODD], ids=["lazy", "odd"])
def test_a_module_that_raises_when_it_is_asked_is_not_asked(
    code: str, tmp_path: Path, mine: dict[str, types.ModuleType]
) -> None:
    """One that the repository imports from elsewhere does not keep one's own from coming back."""
    folder = repository(tmp_path / "theirs")
    (tmp_path / "mine/odd_module.py").write_text(code)
    (folder / "hubconf.py").write_text("import odd_module\n" + HUBCONF)
    path = list(sys.path)

    try:
        assert hub.load(folder, "net", source="local").name == "theirs"

        assert all(sys.modules[name] is module for name, module in mine.items())
        assert sys.path == path
        assert "odd_module" in sys.modules  # it is of the process, not of the repository
    finally:
        for name in ("odd_module", "odd_thing", "nothing"):
            sys.modules.pop(name, None)


def test_sys_modules_is_as_before_after_an_error_too(tmp_path: Path, mine: dict[str, types.ModuleType]) -> None:
    """What the repository raises comes through unchanged."""
    folder = repository(tmp_path / "theirs")
    (folder / "utils.py").write_text("raise KeyError('theirs')")
    modules, path = dict(sys.modules), list(sys.path)

    with pytest.raises(KeyError, match="theirs"):
        hub.load(folder, "net", source="local")

    assert sys.modules == modules
    assert sys.path == path


def test_what_a_process_loads_only_once_is_shared(tmp_path: Path) -> None:
    """A repository with a ``torch`` or ``json`` of its own gets this process's."""
    folder = repository(tmp_path / "theirs")
    for name in ("torch", "json"):
        (folder / f"{name}.py").write_text("raise AssertionError")

    assert isinstance(hub.load(folder, "net", source="local"), torch.nn.Linear)


@pytest.mark.parametrize("form", ["cmd.py", "cmd.pyc", "cmd/__init__.py"])
def test_the_standard_library_never_comes_from_the_folder(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what this process has not imported before; nor does a module of it keep one of the folder's."""
    folder = repository(tmp_path / "theirs")
    (folder / form).parent.mkdir(exist_ok=True)
    (folder / "own.py").write_text("class Cmd: ...")
    py_compile.compile(str(folder / "own.py"), str(folder / form)) if form.endswith("c") else (
        folder / form
    ).write_text("class Cmd: ...")
    (folder / "hubconf.py").write_text("import cmd, pdb\ndef net(): return cmd.__file__, pdb.cmd.__file__")
    for name in ("cmd", "pdb"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    assert hub.load(folder, "net", source="local") == (cmd.__file__, cmd.__file__)

    assert "theirs" not in str(sys.modules["cmd"].__file__)
    assert sys.modules["pdb"].cmd is sys.modules["cmd"]


def test_torch_hub_itself_takes_the_standard_library_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control: with torch.hub.load, ``pdb`` keeps the repository's ``cmd``."""
    folder = repository(tmp_path / "theirs")
    (folder / "cmd.py").write_text("class Cmd: ...")
    (folder / "hubconf.py").write_text("import cmd, pdb\ndef net(): return pdb.cmd.__file__")
    for name in ("cmd", "pdb"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    assert "theirs" in torch.hub.load(str(folder), "net", source="local")  # type: ignore[no-untyped-call]


def test_a_standard_module_of_another_system_is_not_there(tmp_path: Path) -> None:
    """Programs ask for one to see where they are; the folder's own answers no such question."""
    other = next(n for n in ("winreg", "fcntl") if importlib.util.find_spec(n) is None)
    folder = repository(tmp_path / "theirs")
    (folder / f"{other}.py").write_text("")
    (folder / "hubconf.py").write_text(f"import {other}\ndef net(): ...")
    modules = dict(sys.modules)

    with pytest.raises(ModuleNotFoundError, match=f"import of {other} halted"):
        hub.load(folder, "net", source="local")

    assert sys.modules == modules


def test_a_pinned_repository_is_downloaded_once(github: Server, cache: Path, recwarn: pytest.WarningsRecorder) -> None:
    """To torch.hub's folder; the second time, nothing is asked. No warning: the commit says it all."""
    for _ in range(2):
        assert hub.load(f"own/net:{COMMIT}", "net", trust_repo=True).name == "theirs"

    assert github.asked == [f"/own/net/zipball/{COMMIT}"]
    assert [path.name for path in cache.iterdir()] == [f"own_net_{COMMIT}"]
    assert not recwarn.list


def test_torch_hub_finds_what_was_downloaded(github: Server, cache: Path) -> None:
    """The folder is the one it uses."""
    with pytest.warns(UserWarning, match="to pin it"):
        hub.load("own/net:v1", "net", trust_repo=True)

    assert torch.hub.list("own/net:v1", trust_repo=True, verbose=False) == ["Net", "net"]  # type: ignore[no-untyped-call]
    for name in ("models", "models.net", "utils"):
        del sys.modules[name]  # which torch.hub leaves behind


def test_what_is_not_pinned_is_said(github: Server, cache: Path) -> None:
    """With the commit that it was, and for a copy in the cache, with the way to renew it."""
    pin = f"write 'own/net:{COMMIT}' to pin it"
    with pytest.warns(
        UserWarning, match=f"own/net:feature/x is a branch or a tag, which can change what it means; {pin}"
    ):
        hub.load("own/net:feature/x", "net", trust_repo=True)
    with pytest.warns(
        UserWarning, match=f"; the copy in the cache is used, .*_feature_x'; force_reload=True renews it.; {pin}"
    ):
        hub.load("own/net:feature/x", "net", trust_repo=True)
    with pytest.warns(
        UserWarning, match=f"own/net stands for its newest commit, which can change what it means; {pin}"
    ):
        hub.load("own/net", "net", trust_repo=True)
    assert github.asked == ["/own/net/zipball/feature/x", "/own/net/zipball/HEAD"]


def test_force_reload_brings_what_is_new(github: Server, cache: Path, tmp_path: Path) -> None:
    """The old copy is gone, nothing else is left."""
    with pytest.warns(UserWarning, match="to pin it"):
        assert hub.load("own/net:v1", "net", trust_repo=True).name == "theirs"
    github.answers = [give(archive(repository(tmp_path / "new", "new"), OTHER))]
    with pytest.warns(
        UserWarning, match=f"v1 is a branch or a tag, which can change what it means; write 'own/net:{OTHER}'"
    ):
        assert hub.load("own/net:v1", "net", trust_repo=True, force_reload=True).name == "new"
    assert [path.name for path in cache.iterdir()] == ["own_net_v1"]


@pytest.mark.parametrize("branch", ["main", "master"])
def test_offline_a_copy_that_torch_hub_left_is_used(branch: str, cache: Path) -> None:
    """Without a branch given, main or master is taken; the commit is not known."""
    repository(cache / f"own_net_{branch}")

    with pytest.warns(UserWarning, match="write 'own/net:<the 40 digits of a commit>' to pin it"):
        assert hub.load("own/net", "net", trust_repo=True).name == "theirs"


def test_trust_is_asked_for(cache: Path) -> None:
    """Not by a prompt, which no script can answer, and before anything is downloaded; torch.hub's list counts."""
    with pytest.raises(PermissionError, match=r"own/net is not trusted, and loading runs its code .*trust_repo=True"):
        hub.load(f"own/net:{COMMIT}", "net")
    repository(cache / f"own_net_{COMMIT}")
    with pytest.raises(PermissionError, match="own/net is not trusted"):
        hub.load(f"own/net:{COMMIT}", "net")
    (cache / "trusted_list").write_text("a_b\nown_net\n")

    assert hub.load(f"own/net:{COMMIT}", "net").name == "theirs"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refuse(403), r"the server refuses it \(403\): too many requests from this address"),
        (refuse(404), "GitHub knows no such repository, or no branch, tag or commit 'v1' in it"),
        (refuse(300), "'v1' is both a branch and a tag; write refs/heads/v1 or refs/tags/v1"),
        (give(b"half", of=8), "the connection was cut after 4 of 8 bytes"),
        (hang_up, "closed connection|reset by peer"),
        (give(b"no archive"), r"what was downloaded for 'own_net_v1' is not the repository \(File is not a zip file\)"),
        (give(damaged(zipfile.ZIP_STORED)), r"is not the repository \(Bad CRC-32"),
        (give(damaged(zipfile.ZIP_DEFLATED)), r"is not the repository \(.*invalid block type"),
        (redirect("/x"), "infinite loop"),
    ],
    ids=["403", "404", "300", "cut", "no answer", "no archive", "damaged", "damaged and packed", "redirects"],
)
def test_a_failed_download_is_told(answer: Any, message: str, github: Server, cache: Path) -> None:
    """In plain words; nothing is left in the cache."""
    github.answers = [answer]

    with pytest.raises(FileNotFoundError, match=message):
        hub.load("own/net:v1", "net", trust_repo=True)

    assert not cache.exists() or not list(cache.iterdir())


def test_offline_without_a_copy_it_is_told(cache: Path) -> None:
    """With where a copy may be put."""
    message = (
        r"own/net could not be downloaded from .*: there is no network, or no such host .*; a copy of the repository"
    )
    with pytest.raises(
        FileNotFoundError, match=f"{message} works too, at '.*own_net_v1', or anywhere with source='local'"
    ):
        hub.load("own/net:v1", "net", trust_repo=True)


def test_a_failed_reload_keeps_the_old_copy(github: Server, cache: Path) -> None:
    """Neither a refusal nor a damaged archive takes it away."""
    hub.load(f"own/net:{COMMIT}", "net", trust_repo=True)
    for answer in (refuse(403), give(b"PK damaged"), give(archive(cache, OTHER))):
        github.answers = [answer]
        with pytest.raises(FileNotFoundError, match=r"refuses it|is not the repository"):
            hub.load(f"own/net:{COMMIT}", "net", trust_repo=True, force_reload=True)

    assert hub.load(f"own/net:{COMMIT}", "net", trust_repo=True).name == "theirs"
    assert [path.name for path in cache.iterdir()] == [f"own_net_{COMMIT}"]


@pytest.mark.parametrize("there", [True, False], ids=["it is there then", "it is not"])
def test_a_process_that_comes_second_takes_the_folder_of_the_first(
    there: bool, github: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that fails is no error if the folder has come meanwhile."""

    def rename(path: Path, target: Path) -> None:
        if there:
            repository(target, "first")
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(Path, "rename", rename)
    if there:
        assert hub.load(f"own/net:{COMMIT}", "net", trust_repo=True).name == "first"
    else:
        with pytest.raises(OSError, match="Directory not empty"):
            hub.load(f"own/net:{COMMIT}", "net", trust_repo=True)


def test_another_commit_than_asked_for_is_refused(github: Server, cache: Path) -> None:
    """The archive says which it is."""
    with pytest.raises(FileNotFoundError, match=f"is not the repository .it is commit {COMMIT}, not {OTHER}."):
        hub.load(f"own/net:{OTHER}", "net", trust_repo=True)
    assert not list(cache.iterdir())


def test_an_archive_stays_in_its_folder(github: Server, cache: Path, tmp_path: Path) -> None:
    """Names with dots and slashes do not lead out of it."""
    content = io.BytesIO(archive(tmp_path / "origin", COMMIT))
    with zipfile.ZipFile(content, "a") as made:
        made.writestr("own-net-0123456/../../../escaped.py", "")
        made.writestr("/escaped.py", "")
    github.answers = [give(content.getvalue())]

    with pytest.raises(FileNotFoundError, match=r"is not the repository \(it is not one folder, but 2 files"):
        hub.load(f"own/net:{COMMIT}", "net", trust_repo=True)

    assert not list(tmp_path.rglob("escaped.py"))


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("net", "repo must be 'owner/name:commit', got 'net'; a folder needs source='local'"),
        ("/a/folder", "repo must be 'owner/name:commit', got '/a/folder'"),
        ("own/net:0123abc", "'own/net:0123abc' names a commit by 7 digits; give all 40: fewer may mean a fork's"),
    ],
)
def test_a_name_that_is_none_is_told(repo: str, message: str) -> None:
    """With the form it has."""
    with pytest.raises(ValueError, match=message):
        hub.load(repo, "net", trust_repo=True)


def test_a_folder_without_hubconf_is_told(tmp_path: Path) -> None:
    """And an unknown source."""
    with pytest.raises(FileNotFoundError, match=r"has no hubconf\.py; give a repository made for torch\.hub"):
        hub.load(tmp_path, "net", source="local")
    with pytest.raises(ValueError, match="unknown source 'lokal'; did you mean 'local'"):
        hub.load(tmp_path, "net", source="lokal")  # type: ignore[arg-type]


def test_this_library_loads_so_too(cache: Path) -> None:
    """From a clone: its models are those of this process."""
    root = Path(__file__).parents[1]

    assert type(hub.load(root, "cnn", source="local", num_classes=3)) is models.CNNModel


UPSTREAM = """
from models.utils import config

def DCGAN(pretrained=False, useGPU=True):
    import models.DCGAN
    return models.DCGAN.DCGAN(pretrained, useGPU, config.BaseConfig())
"""


def test_upstream_is_run_literally_and_apart(cache: Path, tmp_path: Path, mine: dict[str, types.ModuleType]) -> None:
    """Its own object by its own code, from the pinned commit, with the user's ``models`` as before."""
    owner, _, commit = _dcgan.UPSTREAM.partition(":")
    folder = cache / f"{owner.replace('/', '_')}_{commit}"
    (folder / "models/utils").mkdir(parents=True)
    (folder / "hubconf.py").write_text(UPSTREAM)
    (folder / "models/__init__.py").write_text("")
    (folder / "models/utils/__init__.py").write_text("")
    (folder / "models/utils/config.py").write_text("class BaseConfig: ...")
    (folder / "models/DCGAN.py").write_text("class DCGAN:\n    def __init__(self, *given): self.given = given")
    modules, path = dict(sys.modules), list(sys.path)

    theirs = hub.load_dcgan(source="upstream")

    assert type(theirs).__module__ == "models.DCGAN"
    assert theirs.given[:2] == (True, torch.cuda.is_available())
    assert sys.modules == modules
    assert sys.path == path
    own = hub.load_dcgan(Zoo(tmp_path / "own.pth").write())  # no stub of it is left behind
    assert own.sample(2).shape == (2, 3, 32, 32)
