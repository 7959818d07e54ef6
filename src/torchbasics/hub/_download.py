"""Files from the network: whole or not at all, tried again, and the same ever after."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from torchbasics import _files

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSES = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt
TIMEOUT = 30.0  # seconds without a byte
LIMIT = 2**31  # bytes
PIECE = 2**18  # bytes between two looks at the progress

T = TypeVar("T")


class CutError(OSError):
    """The connection ended before the file did."""


def cached(url: str, read: Callable[[str, bytes], T], *, progress: bool) -> T:
    """Return what *read* makes of the file at *url*, which is downloaded once, to torch.hub's folder of checkpoints.

    Its SHA-256 is written beside it when it has been read for the first time, in the form of ``sha256sum``, and
    compared whenever it is read again. A file is put in place only after *read* has taken it.

    Args:
        url: Its last part is the file's name; digits after the last hyphen are those its SHA-256 begins with.
        read: Given the file's name for messages, and its content.
        progress: Whether a download shows how far it is, on stderr.

    Raises:
        FileNotFoundError: the file is not in the cache, and the download failed.
        CheckpointError: the content is not what it was at first use, or *read* refuses it; or the record is damaged.

    Warns:
        UserWarning: at first use, the digest does not begin with the digits in the name.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    record = path.with_name(f"{path.name}.sha256")
    known = _recorded(record) if record.exists() else None
    there = path.exists()
    if there and path.stat().st_size > LIMIT:
        raise _files.refuse(path, "too-large", f"has {path.stat().st_size:,} bytes; at most {LIMIT:,} are read")
    content = path.read_bytes() if there else _fetched(url, path, progress)
    if not there and path.exists():  # another process was faster
        return cached(url, read, progress=progress)
    digest = hashlib.sha256(content).hexdigest()
    if known is None:
        _compare_with_name(path, digest)
    elif digest != known:
        raise _changed(path if there else url, record, digest, known)
    try:
        value = read(str(path) if there else url, content)
    except _files.CheckpointError as e:
        way_out = f"delete {str(path)!r} and load again" if there else f"nothing was kept; {_by_hand(path)}"
        raise _files.CheckpointError(f"{e}; {way_out}", e.reason) from e
    if not there:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, content)
    if known is None and os.access(path.parent, os.W_OK):  # else it is a shared cache, which this user cannot change
        _write(record, f"{digest}  {path.name}\n".encode())
    return value


def download(url: str, *, progress: bool) -> bytes:
    """Return the file at *url*; what may pass, such as a cut connection, is tried four times in all.

    Raises:
        OSError: it cannot be had; `in_words` says why.
    """
    for pause in (*PAUSES, None):
        try:
            return _attempt(url, progress)
        except urllib.error.HTTPError as e:
            e.close()
            if pause is None or (e.code < 500 and e.code != 429):
                raise
        except (OSError, http.client.HTTPException) as e:
            cause = getattr(e, "reason", e)
            if pause is None or isinstance(cause, (socket.gaierror, ssl.SSLCertVerificationError)):
                raise e if isinstance(e, OSError) else CutError(f"the server spoke no HTTP ({e!r})") from e
        time.sleep(pause)
    raise AssertionError  # the last pause is None


def in_words(error: OSError) -> str:
    """Say in plain words why a download failed."""
    if isinstance(error, urllib.error.HTTPError):
        known = {
            403: "the server refuses it (403): too many requests from this address, or it is not for everyone",
            404: "the server does not have it (404): it was moved, withdrawn, or never there",
            429: "the server has had too many requests from this address (429); wait a while",
        }
        return known.get(error.code, f"the server answers {error.code} ({error.reason})")
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return f"there is no network, or no such host ({cause.strerror})"
    if isinstance(cause, TimeoutError):
        return "the server does not answer"
    return str(cause)


def _fetched(url: str, path: Path, progress: bool) -> bytes:
    try:
        return download(url, progress=progress)
    except OSError as e:
        text = f"{path.name!r} is not in the cache and could not be downloaded from {url!r}: {in_words(e)}"
        raise FileNotFoundError(f"{text}; {_by_hand(path)}") from e


def _recorded(record: Path) -> str:
    """Return the digest in *record*."""
    known = record.read_bytes().partition(b" ")[0]
    if not re.fullmatch(rb"[0-9a-f]{64}", known):
        text = f"is damaged: it does not begin with a SHA-256; delete it, and {record.stem!r} if you do not trust that"
        raise _files.refuse(record, "damaged", text)
    return known.decode()


def _by_hand(path: Path) -> str:
    return f"get the file in another way and put it at {str(path)!r}, or give the path where it is"


def _attempt(url: str, progress: bool) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "torchbasics"})
    parts, have = [], 0
    with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT) as answer:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        with _bar(total, progress) as bar:
            while part := answer.read(PIECE):
                parts.append(part)
                have += len(part)
                bar.update(len(part))
                if have > LIMIT:
                    raise urllib.error.URLError(f"it has more than {LIMIT} bytes")
    if total is not None and have < total:  # urllib itself takes this for the end of the file
        raise CutError(f"the connection was cut after {have} of {total} bytes")
    return b"".join(parts)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address, but not from one that nobody can listen to or alter to one that is open."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            text = f"it leads from https to {newurl[:200]!r}, which could be anybody's"
            raise urllib.error.HTTPError(req.full_url, code, text, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _bar(total: int | None, progress: bool) -> Any:
    bar = vars(torch.hub)["tqdm"]  # tqdm's, or torch's own where that is not installed
    return bar(total=total, disable=not progress, unit="B", unit_scale=True, unit_divisor=1024)


def _compare_with_name(path: Path, digest: str) -> None:
    named = re.search(r"-([0-9a-f]{6,64})$", path.stem)
    if named and not digest.startswith(named[1]):
        text = f"the SHA-256 of {path.name!r} begins with {digest[: len(named[1])]}, but its name says {named[1]}"
        warnings.warn(f"{text}: it may be cut, altered, or another file", UserWarning, stacklevel=5)


def _changed(where: Path | str, record: Path, digest: str, known: str) -> _files.CheckpointError:
    text = f"is not the file of its first use: its SHA-256 is {digest}, it was {known}"
    way_out = f"delete it and load again; if it is the one you want, delete {str(record)!r} too"
    return _files.refuse(where, "damaged", f"{text}; {way_out}")


def _write(path: Path, content: bytes) -> None:
    with _files.atomic_write(path) as file:
        file.write(content)
