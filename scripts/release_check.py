"""Say what keeps this tree, and the packages in dist/, from being published; exit with 1 if anything does."""

from __future__ import annotations

import ast
import datetime
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = r"(?<![\w.-])org([/_]torchbasics|[.]github[.]io)|@example[.]org"  # does not match itself
WHEEL_LIMIT = 12_000_000  # bytes
WHEEL_HAS = (
    "torchbasics/py.typed",
    "torchbasics/data/mini/LICENSE",
    "torchbasics/weights/cnn-fashion_mnist.safetensors",
)


def git(root: Path, *arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def version(root: Path) -> str:
    """Return ``__version__``, read without importing the package."""
    for node in ast.parse((root / "src/torchbasics/__init__.py").read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str(found))):
                return found
    raise ValueError("src/torchbasics/__init__.py has no literal __version__")


def tree(root: Path) -> str | None:
    """All that is here is committed."""
    changed = git(root, "status", "--porcelain")
    return f"there are changes that are not committed:\n{changed}" if changed else None


def changelog(root: Path) -> str | None:
    """The top entry is of this version, and dated."""
    top = re.search(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    said = re.fullmatch(r"\[(.+)\] - (\d{4}-\d\d-\d\d)", top[1]) if top else None
    if said is None or said[1] != version(root):
        return f"CHANGELOG.md begins with {top and top[1]!r}, and not with '[{version(root)}] - YYYY-MM-DD'"
    if datetime.date.fromisoformat(said[2]) > datetime.datetime.now(datetime.UTC).date():
        return f"CHANGELOG.md is dated {said[2]}, which is still to come"
    return None


def citation(root: Path) -> str | None:
    """CITATION.cff is of this version."""
    said = re.search(r"^version: (.*)$", (root / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return None if said and said[1] == version(root) else f"CITATION.cff is not of version {version(root)}"


def hub(root: Path) -> str | None:
    """The page for PyTorch Hub loads this version."""
    said = re.findall(r"/torchbasics:v([\w.]+)", (root / "docs/hub/torchbasics.md").read_text(encoding="utf-8"))
    return None if set(said) == {version(root)} else f"docs/hub/torchbasics.md is not of version {version(root)}"


def tag(root: Path) -> str | None:
    """No other commit has this version's tag."""
    name = f"v{version(root)}"
    if not git(root, "tag", "--list", name) or git(root, "rev-list", "-n1", name) == git(root, "rev-parse", "HEAD"):
        return None
    return f"{name} is the tag of another commit; versions are not used twice"


def owner(root: Path) -> str | None:
    """The organisation is a placeholder in no file any more."""
    paths = [path for name in git(root, "ls-files", "-z").split("\0") if (path := root / name).is_file()]
    texts = {path: path.read_text(encoding="utf-8", errors="ignore") for path in paths}
    found = [str(path.relative_to(root)) for path, text in texts.items() if re.search(PLACEHOLDER, text)]
    return f"the placeholder of the organisation is still in {', '.join(found)}; see RELEASING.md" if found else None


def wheel(root: Path) -> str | None:
    """The wheel is this version's, small, and holds the package, its data and nothing else."""
    name = f"torchbasics-{version(root)}"
    path = root / "dist" / f"{name}-py3-none-any.whl"
    if not path.exists():
        return f"there is no {path.name} in dist/; nox -s build makes it"
    if path.stat().st_size > WHEEL_LIMIT:
        return f"the wheel has {path.stat().st_size / 1e6:.1f} MB; at most {WHEEL_LIMIT / 1e6:.0f} MB are allowed"
    names = zipfile.ZipFile(path).namelist()
    missing = [wanted for wanted in WHEEL_HAS if wanted not in names]
    foreign = [found for found in names if not found.startswith(("torchbasics/", f"{name}.dist-info/"))]
    return f"the wheel lacks {missing}, and should not have {foreign}" if missing or foreign else None


def sdist(root: Path) -> str | None:
    """The sdist is this version's, and has all that is tracked but the repository's own hidden files."""
    name = f"torchbasics-{version(root)}"
    path = root / "dist" / f"{name}.tar.gz"
    if not path.exists():
        return f"there is no {path.name} in dist/; nox -s build makes it"
    with tarfile.open(path) as tar:
        names = {found.removeprefix(f"{name}/") for found in tar.getnames()}
    tracked = git(root, "ls-files", "-z").rstrip("\0").split("\0")
    missing = [found for found in tracked if found not in names and not found.startswith(".")]
    return f"the sdist lacks {missing}" if missing else None


CHECKS: tuple[Callable[[Path], str | None], ...] = (tree, changelog, citation, hub, tag, owner, wheel, sdist)


def main(root: Path = ROOT) -> int:
    """Print each check and what it found."""
    found = {check.__name__: check(root) for check in CHECKS}
    for name, problem in found.items():
        print(f"{name:10} {'ok' if problem is None else problem}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
