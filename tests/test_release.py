"""scripts/release_check.py passes what can be published, and each of its checks can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import module_at

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
ORG = "org"  # so written, the placeholder is not found, and not replaced, in this file


@pytest.fixture(name="check", scope="module")
def load_check() -> Any:
    """The module scripts/release_check.py."""
    return module_at("scripts/release_check.py")


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def pack(root: Path, check: Any, leave_out: str = "", add: str = "") -> None:
    """Write a wheel and an sdist of what belongs in them, without *leave_out*, with *add*."""
    dist, name = root / "dist", "torchbasics-1.2.0"
    dist.mkdir(exist_ok=True)
    with zipfile.ZipFile(dist / f"{name}-py3-none-any.whl", "w") as wheel:
        for path in {*check.WHEEL_HAS, f"{name}.dist-info/METADATA", add} - {leave_out, ""}:
            wheel.writestr(path, "")
    with tarfile.open(dist / f"{name}.tar.gz", "w:gz") as sdist:
        for path in {*check.git(root, "ls-files", "-z").rstrip("\0").split("\0")} - {leave_out}:
            sdist.addfile(tarfile.TarInfo(f"{name}/{path}"))


@pytest.fixture(name="project")
def make_project(tmp_path: Path, check: Any) -> Path:
    """A repository with built packages, which can be published."""
    files = {
        "src/torchbasics/__init__.py": '__version__ = "1.2.0"\n',
        "tests/test_a.py": "",
        "hubconf.py": "",
        "CHANGELOG.md": "# Changelog\n\n## [1.2.0] - 2026-01-31\n\n## [1.1.0] - 2025-01-31\n",
        "CITATION.cff": "version: 1.2.0\n",
        "docs/hub/torchbasics.md": 'torch.hub.load("somebody/torchbasics:v1.2.0", "cnn")\n',
        "pyproject.toml": 'Source = "https://github.com/somebody/torchbasics"\n',
        ".gitignore": "/dist/\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    pack(tmp_path, check)
    return tmp_path


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "all")


def test_what_can_be_published_passes(project: Path, check: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Also once its own commit has the tag."""
    assert check.main(project) == 0
    git(project, "tag", "v1.2.0")
    assert check.main(project) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:8]] == [
        [name, "ok"] for name in ("tree", "changelog", "citation", "hub", "tag", "owner", "wheel", "sdist")
    ]


def rewrite(name: str, text: str) -> Callable[[Path, Any], None]:
    """Commit another text of a file, and pack again."""

    def change(root: Path, check: Any) -> None:
        (root / name).write_text(text, encoding="utf-8")
        commit(root)
        pack(root, check)

    return change


def tag_of_another(root: Path, _: Any) -> None:
    git(root, "tag", "v1.2.0")
    commit(root)


def large(root: Path, _: Any) -> None:
    with (root / "dist/torchbasics-1.2.0-py3-none-any.whl").open("ab") as file:
        file.truncate(12_000_001)


WRONG: dict[str, tuple[str, Callable[[Path, Any], None], str]] = {
    "not committed": ("tree", lambda root, _: (root / "new.py").touch(), "new.py"),
    "unreleased": ("changelog", rewrite("CHANGELOG.md", "## [1.2.0] - unreleased\n"), "'[1.2.0] - unreleased'"),
    "another version": ("changelog", rewrite("CHANGELOG.md", "## [1.3.0] - 2026-01-31\n"), "'[1.3.0] - 2026-01-31'"),
    "empty": ("changelog", rewrite("CHANGELOG.md", ""), "begins with None"),
    "of the future": ("changelog", rewrite("CHANGELOG.md", "## [1.2.0] - 9026-01-31\n"), "still to come"),
    "citation": ("citation", rewrite("CITATION.cff", "version: 1.1.0\n"), "not of version 1.2.0"),
    "hub": ("hub", rewrite("docs/hub/torchbasics.md", "somebody/torchbasics:v1.1.0"), "not of version 1.2.0"),
    "tagged elsewhere": ("tag", tag_of_another, "v1.2.0 is the tag of another commit"),
    "no owner": ("owner", rewrite("a b.md", f"https://github.com/{ORG}/torchbasics"), "still in a b.md; see"),
    "no hub": ("owner", rewrite("a.py", f'torch.hub.load("{ORG}/torchbasics")'), "still in a.py; see"),
    "no site": ("owner", rewrite("a.md", f"https://{ORG}.github.io/torchbasics"), "still in a.md; see"),
    "no address": ("owner", rewrite("pyproject.toml", f"torchbasics@example.{ORG}"), "still in pyproject.toml; see"),
    "large": ("wheel", large, "12.0 MB; at most 12 MB"),
    "no types": ("wheel", lambda root, check: pack(root, check, "torchbasics/py.typed"), "torchbasics/py.typed"),
    "with tests": ("wheel", lambda root, check: pack(root, check, add="tests/test_a.py"), "tests/test_a.py"),
    "no wheel": ("wheel", lambda root, _: next(root.glob("dist/*.whl")).unlink(), "nox -s build"),
    "no test": ("sdist", lambda root, check: pack(root, check, "tests/test_a.py"), "tests/test_a.py"),
    "no hubconf": ("sdist", lambda root, check: pack(root, check, "hubconf.py"), "hubconf.py"),
    "no sdist": ("sdist", lambda root, _: next(root.glob("dist/*.gz")).unlink(), "nox -s build"),
}


@pytest.mark.parametrize(("name", "change", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_by_its_check_alone(
    project: Path, check: Any, name: str, change: Callable[[Path, Any], None], said: str
) -> None:
    """One thing is broken, and one check turns red."""
    change(project, check)
    found = {each.__name__: each(project) for each in check.CHECKS}

    assert said in found.pop(name)
    assert not any(found.values()), found
    assert check.main(project) == 1


@pytest.mark.skipif(not shutil.which("perl"), reason="there is no perl")
def test_the_command_of_the_page_replaces_the_placeholder_everywhere(check: Any, tmp_path: Path) -> None:
    """In a copy of this tree, whether it was replaced here or not; a second time it finds nothing."""
    page = (ROOT / "RELEASING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    command = block.replace("NAME", "some-org").replace("MAIL", "us@somebody.net")
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".[!g]*", ".git", "__pycache__", "_vendor", "build", "dist", "runs")
    shutil.copytree(ROOT, copy, ignore=ignored)
    (copy / "new.md").write_text(
        f"https://{ORG}.github.io/torchbasics {ORG}/torchbasics a@example.{ORG}\n", encoding="utf-8"
    )
    git(copy, "init", "--quiet")
    commit(copy)
    assert "new.md" in check.owner(copy)

    for _ in range(2):
        subprocess.run(["bash", "-c", command], cwd=copy, check=True)
        commit(copy)
        assert check.owner(copy) is None
        said = "https://some-org.github.io/torchbasics some-org/torchbasics us@somebody.net\n"
        assert (copy / "new.md").read_text(encoding="utf-8") == said
