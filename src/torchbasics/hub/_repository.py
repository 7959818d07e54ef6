"""``torch.hub.load`` for any repository: pinned, isolated, and in plain words where it fails."""

from __future__ import annotations

import io
import re
import shutil
import uuid
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from torchbasics import _checks
from torchbasics.hub import _download
from torchbasics.hub._isolation import isolated

if TYPE_CHECKING:
    import os

GITHUB = "https://github.com"
COMMIT = ".torchbasics-commit"  # in the folder of a repository: the commit it was downloaded at
COMMIT_DIGITS = re.compile(r"[0-9a-f]{40}")


def load(
    repo: str | os.PathLike[str],
    entry: str,
    *args: Any,
    source: Literal["github", "local"] = "github",
    trust_repo: bool = False,
    force_reload: bool = False,
    **kwargs: Any,
) -> Any:
    """Return ``torch.hub.load(repo, entry, *args, **kwargs)``, run apart from the modules of this process.

    The repository's own ``models``, ``utils`` and the like neither meet yours nor stay: ``sys.modules`` and
    ``sys.path`` are as before. What was returned goes on working, with two limits that follow from this: an import
    inside one of its methods does not find the repository any more, and neither does ``pickle``, so keep its
    ``state_dict()`` rather than the object. The swap is the process's: let no other thread import meanwhile.

    Nothing is asked of GitHub but the archive itself, and that only once, so its limit of requests is not met; the
    folder is the one that torch.hub uses. A full commit is taken as it is, be it of a branch or of a fork.

    Args:
        repo: "owner/name:commit" with all 40 digits; a branch or a tag instead, or nothing, works with a warning. With
            source="local": a folder with a hubconf.py.
        entry: The name of a function in its hubconf.py.
        args: What the function takes.
        source: Where *repo* is.
        trust_repo: Whether its code may run here; not needed for folders, and where torch.hub was told so before.
        force_reload: Download again what is in the cache.
        kwargs: What the function takes by keyword.

    Raises:
        PermissionError: the repository is not trusted.
        FileNotFoundError: it is not in the cache and cannot be downloaded, or has no hubconf.py.
        ValueError: *repo* is no such name.

    Warns:
        UserWarning: *repo* is not pinned to a commit.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "hubconf.py").write_text("def double(x): return 2 * x")
    ...     load(folder, "double", 21, source="local")
    42
    """
    _checks.choice("source", source, ("github", "local"))
    folder = Path(repo) if source == "local" else _downloaded(str(repo), trust_repo, force_reload)
    if not (folder / "hubconf.py").is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no hubconf.py; give a repository made for torch.hub")
    with isolated(folder):
        return torch.hub.load(str(folder), entry, *args, source="local", **kwargs)  # type: ignore[no-untyped-call]


def _downloaded(repo: str, trusted: bool, force_reload: bool) -> Path:
    """Return the folder of *repo* in torch.hub's cache, downloading it where it is not there."""
    owner, name, ref = _parse(repo)
    cache = Path(torch.hub.get_dir())
    if not trusted and f"{owner}_{name}" not in _trusted(cache):
        text = f"{owner}/{name} is not trusted, and loading runs its code with all your rights"
        raise PermissionError(f"{text}; read it at {GITHUB}/{owner}/{name}, then load with trust_repo=True")
    refs = (ref,) if ref else ("HEAD", "main", "master")  # as torch.hub names a branch that is not given
    folders = [cache / f"{owner}_{name}_{r.replace('/', '_')}" for r in refs]
    folder = next((f for f in folders if f.is_dir() and not force_reload), folders[0])
    fresh = not folder.is_dir() or force_reload
    if fresh:
        _unpack(_fetched(owner, name, refs[0], folder), folder, refs[0])
    if not COMMIT_DIGITS.fullmatch(refs[0]):
        _say_unpinned(f"{owner}/{name}", ref, folder, fresh)
    return folder


def _parse(repo: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"([\w.-]+)/([\w.-]+)(?::([\w./-]+))?", repo)
    if not found:
        raise ValueError(f"repo must be 'owner/name:commit', got {repo!r}; a folder needs source='local'")
    owner, name, ref = found[1], found[2], found[3] or ""
    if re.fullmatch(r"[0-9a-f]{7,39}", ref) and not ref.isdecimal():  # digits alone may be a tag that is a date
        raise ValueError(f"{repo!r} names a commit by {len(ref)} digits; give all 40: fewer may mean a fork's")
    return owner, name, ref


def _trusted(cache: Path) -> list[str]:
    """Return what torch.hub was told to trust."""
    path = cache / "trusted_list"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def _fetched(owner: str, name: str, ref: str, folder: Path) -> bytes:
    url = f"{GITHUB}/{owner}/{name}/zipball/{ref}"
    try:
        return _download.download(url, progress=False)
    except OSError as e:
        words = _download.in_words(e)
        if getattr(e, "code", None) == 404:
            words = f"GitHub knows no such repository, or no branch, tag or commit {ref!r} in it"
        elif getattr(e, "code", None) == 300:
            words = f"{ref!r} is both a branch and a tag; write refs/heads/{ref} or refs/tags/{ref}"
        text = f"{owner}/{name} could not be downloaded from {url!r}: {words}"
        way_out = f"a copy of the repository works too, at {str(folder)!r}, or anywhere with source='local'"
        raise FileNotFoundError(f"{text}; {way_out}") from e


def _unpack(content: bytes, folder: Path, ref: str) -> None:
    """Put the one folder in the archive *content* in the place of *folder*, whole."""
    temporary = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            commit = archive.comment.decode("ascii", "ignore")  # GitHub's archives name theirs there
            archive.extractall(temporary)  # leaves out "..", drives and leading slashes
        tops = list(temporary.iterdir())
        if len(tops) != 1 or not tops[0].is_dir():
            raise ValueError(f"it is not one folder, but {len(tops)} files and folders")
        if COMMIT_DIGITS.fullmatch(ref) and commit not in ("", ref):
            raise ValueError(f"it is commit {commit}, not {ref}")
        (tops[0] / COMMIT).write_text(commit, encoding="ascii")
        _replace(folder, tops[0], aside=temporary / uuid.uuid4().hex)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise FileNotFoundError(f"what was downloaded for {folder.name!r} is not the repository ({e})") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, new: Path, aside: Path) -> None:
    if folder.is_dir():
        folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise


def _say_unpinned(repo: str, ref: str, folder: Path, fresh: bool) -> None:
    record = folder / COMMIT
    commit = record.read_text(encoding="ascii") if record.exists() else ""
    what = f"{repo}:{ref} is a branch or a tag, which" if ref else f"{repo} stands for its newest commit, which"
    copy = f"; the copy in the cache is used, of whatever day ({str(folder)!r}; force_reload=True renews it)"
    pin = f"{repo}:{commit}" if COMMIT_DIGITS.fullmatch(commit) else f"{repo}:<the 40 digits of a commit>"
    warnings.warn(
        f"{what} can change what it means{'' if fresh else copy}; write {pin!r} to pin it", UserWarning, stacklevel=4
    )
