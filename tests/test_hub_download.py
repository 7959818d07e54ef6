"""The published weights come over the network: whole or not at all, tried again, and the same ever after."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.gan_zoo import Zoo
from tests.helpers import equal
from tests.http_server import Answer, Server, give, hang_up, redirect, refuse, serving
from torchbasics import hub, io
from torchbasics.hub import _dcgan, _download

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def published(tmp_path: Path) -> bytes:
    """The content of the published file."""
    return Zoo(tmp_path / "made.pth").write().read_bytes()


@pytest.fixture
def cache(tmp_path: Path, server: Server, published: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file belongs; the server has it, and nobody waits between two attempts."""
    name = f"DCGAN-{hashlib.sha256(published).hexdigest()[:7]}.pth"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(_dcgan, "FASHIONGEN", f"{server.url}/gan_zoo/{name}")
    monkeypatch.setattr(_download, "PAUSES", (0.0, 0.0, 0.0))
    server.answers = [give(published)]
    return tmp_path / "hub/checkpoints" / name


def files(cache: Path) -> list[str]:
    """What lies in the cache, by endings."""
    return (
        sorted(path.name.replace(cache.name, "FILE") for path in cache.parent.glob("*"))
        if cache.parent.is_dir()
        else []
    )


def test_it_is_downloaded_once_and_recorded(cache: Path, server: Server, published: bytes, tmp_path: Path) -> None:
    """Into torch.hub's folder of checkpoints, its digest beside it in the form of sha256sum."""
    once, again = hub.load_dcgan(), hub.load_dcgan("fashiongen")

    assert equal(once, again)
    assert equal(once, hub.load_dcgan(tmp_path / "made.pth"))
    assert server.asked == [f"/gan_zoo/{cache.name}"]
    assert cache.read_bytes() == published
    assert (
        cache.with_name(f"{cache.name}.sha256").read_text()
        == f"{hashlib.sha256(published).hexdigest()}  {cache.name}\n"
    )
    assert files(cache) == ["FILE", "FILE.sha256"]


def test_progress_is_shown_or_not(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On stderr, and only if asked for."""
    hub.load_dcgan(progress=False)
    assert capfd.readouterr() == ("", "")
    cache.unlink()
    hub.load_dcgan()
    assert "\r100" in capfd.readouterr().err  # by tqdm, or by torch's own where that is not installed


@pytest.mark.parametrize(
    "trouble",
    [
        lambda content: give(content[: len(content) // 2], of=len(content)),
        lambda content: give(b"", of=len(content)),
        lambda content: hang_up,
        lambda content: refuse(503),
        lambda content: refuse(429),
    ],
    ids=["cut in the middle", "cut at the start", "no answer", "503", "429"],
)
def test_what_passes_is_tried_again(trouble: Any, cache: Path, server: Server, published: bytes) -> None:
    """Three failures and a success are a success; what was cut is kept nowhere."""
    server.answers = [trouble(published)] * 3 + [give(published)]

    hub.load_dcgan()

    assert len(server.asked) == 4
    assert cache.read_bytes() == published
    assert files(cache) == ["FILE", "FILE.sha256"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe0\n", b"abc  FILE\n"], ids=["empty", "other", "short"])
def test_a_damaged_record_is_told(content: bytes, cache: Path, server: Server) -> None:
    """It is said which file is meant, and what to do; nothing is asked of the server."""
    hub.load_dcgan()
    record = cache.with_name(f"{cache.name}.sha256")
    record.write_bytes(content)

    with pytest.raises(
        io.CheckpointError, match=r"sha256' is damaged: it does not begin with a SHA-256; delete it"
    ) as e:
        hub.load_dcgan()

    assert e.value.reason == "damaged"
    assert len(server.asked) == 1


def test_torch_hubs_own_download_takes_a_cut_file(cache: Path, server: Server, published: bytes) -> None:
    """Positive control: without the comparison of lengths, half a file is kept as if it were whole."""
    server.answers = [give(published[:1000], of=len(published))]
    cache.parent.mkdir(parents=True)
    torch.hub.download_url_to_file(_dcgan.FASHIONGEN, str(cache), progress=False)

    assert cache.read_bytes() == published[:1000]


@pytest.mark.parametrize(
    ("answer", "attempts", "message"),
    [
        (refuse(403), 1, r"the server refuses it \(403\): too many requests from this address, or it is not for every"),
        (refuse(404), 1, r"the server does not have it \(404\): it was moved, withdrawn, or never there"),
        (refuse(410), 1, r"the server answers 410 \(Gone\)"),
        (refuse(429), 4, r"the server has had too many requests from this address \(429\); wait a while"),
        (refuse(500), 4, r"the server answers 500 \(Internal Server Error\)"),
        (give(b"half", of=8), 4, "the connection was cut after 4 of 8 bytes"),
        (hang_up, 4, "Remote end closed connection without response|Connection reset by peer"),
        (
            lambda handler: handler.wfile.write(b"hello\r\n\r\n") and None,
            4,
            r"the server spoke no HTTP \(BadStatusLine",
        ),
        (redirect("/elsewhere"), 1, r"the server answers 302 \(.*infinite loop"),
        (redirect("file:///etc/hostname"), 1, r"the server answers 302 \(.*is not allowed"),
    ],
    ids=["403", "404", "410", "429", "500", "cut", "no answer", "no HTTP", "redirects for ever", "redirect to a file"],
)
def test_what_does_not_pass_is_told(answer: Answer, attempts: int, message: str, cache: Path, server: Server) -> None:
    """In plain words, with the way out: where to put the file by hand. Nothing is kept."""
    server.answers = [answer]

    with pytest.raises(FileNotFoundError, match=message) as e:
        hub.load_dcgan(progress=False)

    assert str(e.value).startswith(
        f"{cache.name!r} is not in the cache and could not be downloaded from '{server.url}/"
    )
    assert str(e.value).endswith(
        f"; get the file in another way and put it at {str(cache)!r}, or give the path where it is"
    )
    assert "loop" in message or len(server.asked) == attempts
    assert files(cache) == []


class Plain(urllib.request.HTTPSHandler):
    """Stands for https where the server has no certificate."""

    def https_open(self, req: Any) -> Any:
        return self.do_open(http.client.HTTPConnection, req)


@pytest.mark.parametrize("scheme", ["http", "https", "ftp"])
def test_no_redirect_leads_out_of_https(
    scheme: str, cache: Path, server: Server, published: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can alter an open connection would choose the file of the first use; to https, it is followed."""
    monkeypatch.setattr(urllib.request, "HTTPSHandler", Plain)
    monkeypatch.setattr(_dcgan, "FASHIONGEN", _dcgan.FASHIONGEN.replace("http:", "https:"))
    there = f"{scheme}{server.url.removeprefix('http')}/mirror"
    server.answers = [redirect(there), give(published)]

    if scheme == "https":
        hub.load_dcgan()
        assert cache.read_bytes() == published
    else:
        with pytest.raises(FileNotFoundError, match=rf"answers 302 \(it leads from https to '{there}', which could be"):
            hub.load_dcgan()
        assert files(cache) == []
        assert len(server.asked) == 1


def test_redirects_are_followed(cache: Path, server: Server, published: bytes) -> None:
    """To the file, whose name stays that of the first address."""
    server.answers = [redirect("/mirror/a"), redirect("b"), give(published)]

    hub.load_dcgan()

    assert server.asked[1:] == ["/mirror/a", "/mirror/b"]
    assert cache.read_bytes() == published


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"<html>please log in</html>", "not-a-checkpoint"), (b"", "truncated")],
    ids=["a page", "nothing"],
)
def test_wrong_content_is_refused_and_not_kept(content: bytes, reason: str, cache: Path, server: Server) -> None:
    """The server answers 200 with something else: the digits in the name are warned about, reading refuses it."""
    server.answers = [give(content)]

    with (
        pytest.warns(UserWarning, match=r"begins with [0-9a-f]{7}, but its name says [0-9a-f]{7}: it may be cut"),
        pytest.raises(io.CheckpointError, match=f"'{server.url}.* is .*; nothing was kept; get") as e,
    ):
        hub.load_dcgan()

    assert e.value.reason == reason
    assert files(cache) == []


def test_another_checkpoint_than_the_name_says_is_warned_about_once(
    cache: Path, server: Server, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """At first use; from then on its recorded digest is what counts."""
    other = Zoo(tmp_path / "other.pth", loss="WGANGP").write().read_bytes()
    server.answers = [give(other)]
    with pytest.warns(UserWarning, match="it may be cut, altered, or another file") as said:
        first = hub.load_dcgan()
    assert said[0].filename == __file__
    recwarn.clear()

    assert equal(hub.load_dcgan(), first)
    assert not recwarn.list


@pytest.mark.parametrize("content", [b"else", b""], ids=["else", "nothing"])
def test_a_file_that_changed_is_refused_ever_after(cache: Path, content: bytes) -> None:
    """One byte is enough; both digests are named, and the ways out."""
    hub.load_dcgan()
    cache.write_bytes(content)

    for _ in range(2):
        with pytest.raises(
            io.CheckpointError, match=r"is not the file of its first use: its SHA-256 is .*, it was"
        ) as e:
            hub.load_dcgan()
        assert e.value.reason == "damaged"
        assert f"delete it and load again; if it is the one you want, delete '{cache}.sha256' too" in str(e.value)


def test_a_flipped_bit_in_the_weights_is_found_by_the_record_alone(cache: Path) -> None:
    """Positive control: without the record, torch reads the file, and the weights are others."""
    good = hub.load_dcgan(device="cpu")
    content = bytearray(cache.read_bytes())
    content[content.index(good.netG.formatLayer.weight.detach().numpy().tobytes()) + 3] ^= 64
    cache.write_bytes(content)
    with pytest.raises(io.CheckpointError, match="is not the file of its first use"):
        hub.load_dcgan()

    cache.with_name(f"{cache.name}.sha256").unlink()
    with pytest.warns(UserWarning, match="but its name says"):
        assert not equal(hub.load_dcgan(device="cpu"), good)


def test_a_deleted_file_must_come_back_the_same(cache: Path, server: Server, tmp_path: Path) -> None:
    """The record outlives the file: what the server has changed is refused, and not kept."""
    hub.load_dcgan()
    cache.unlink()
    server.answers = [give(Zoo(tmp_path / "other.pth", loss="MSE").write().read_bytes())]

    with pytest.raises(io.CheckpointError, match=f"'{server.url}.*is not the file of its first use"):
        hub.load_dcgan()
    assert files(cache) == ["FILE.sha256"]


def test_offline_the_cache_is_enough(cache: Path, monkeypatch: pytest.MonkeyPatch, published: bytes) -> None:
    """Also with a file placed by hand: nothing is asked of the network."""
    monkeypatch.setattr("urllib.request.build_opener", None)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(published)

    assert equal(hub.load_dcgan(), hub.load_dcgan())
    assert files(cache) == ["FILE", "FILE.sha256"]


def test_a_cache_that_may_only_be_read_is_enough(
    cache: Path, published: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that several people share: nothing is written there."""
    cache.parent.mkdir(parents=True)
    cache.write_bytes(published)
    monkeypatch.setattr(os, "access", lambda *_: False)

    hub.load_dcgan()

    assert files(cache) == ["FILE"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://no-such-host.invalid/a-0123456.pth", r"there is no network, or no such host \("),
        ("http://127.0.0.1:9/a-0123456.pth", "Connection refused"),
    ],
    ids=["no name", "no server"],
)
def test_offline_without_cache_it_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    """In plain words, with the place for the file."""
    monkeypatch.setattr(_dcgan, "FASHIONGEN", url)

    with pytest.raises(
        FileNotFoundError, match=f"'a-0123456.pth' is not in the cache .*{message}.*a-0123456.pth', or give"
    ):
        hub.load_dcgan()


def test_a_silent_server_is_given_up(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for ever."""
    done = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        done.wait(10)

    server.answers = [silent]
    monkeypatch.setattr(_download, "TIMEOUT", 0.05)

    with pytest.raises(FileNotFoundError, match="the server does not answer"):
        hub.load_dcgan()
    done.set()


def test_leftovers_of_a_killed_download_are_not_read(cache: Path, published: bytes) -> None:
    """Neither torch.hub's partial file nor our own temporary one."""
    cache.parent.mkdir(parents=True)
    leftovers = [cache.with_name(f"{cache.name}.0123abcd.partial"), cache.with_name(".0123abcd.tmp")]
    for path in leftovers:
        path.write_bytes(published[:500])

    hub.load_dcgan()

    assert cache.read_bytes() == published
    assert all(path.read_bytes() == published[:500] for path in leftovers)


@pytest.mark.parametrize("keep", [0, 1, 1000, -1], ids=str)
def test_half_a_file_that_another_program_left_is_refused(cache: Path, published: bytes, keep: int) -> None:
    """Under the file's own name, without record: warned about, refused, and not recorded."""
    cache.parent.mkdir(parents=True)
    cache.write_bytes(published[:keep])

    for _ in range(2):
        with (
            pytest.warns(UserWarning, match="but its name says"),
            pytest.raises(io.CheckpointError, match=re.escape(f"; delete {str(cache)!r} and load again")),
        ):
            hub.load_dcgan()
    assert files(cache) == ["FILE"]


CHILD = """
import sys, torch
from torchbasics import hub
from torchbasics.hub import _dcgan, _download
_download.TIMEOUT = 300.0  # one waits for the other to have started
torch.hub.set_dir(sys.argv[1])
_dcgan.FASHIONGEN = sys.argv[2]
print(hub.load_dcgan(progress=False).netG.formatLayer.weight.sum().item())
"""


@pytest.mark.slow
def test_two_processes_at_once_get_the_same_whole_file(cache: Path, server: Server, published: bytes) -> None:
    """Both ask at once, are answered at once, and end with one file and one record."""
    together = threading.Barrier(2, timeout=300)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        give(published[:1000], of=len(published))(handler)
        together.wait()
        handler.wfile.write(published[1000:])

    server.answers = [answer]
    command = [sys.executable, "-c", CHILD, str(cache.parents[1]), _dcgan.FASHIONGEN]
    variables = {**os.environ, "PYTHONPATH": str(Path(hub.__file__).parents[2])}
    children = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [child.communicate(timeout=600)[0] for child in children]

    assert [child.returncode for child in children] == [0, 0]
    assert printed[0] == printed[1] != ""
    assert len(server.asked) == 2
    assert cache.read_bytes() == published
    assert files(cache) == ["FILE", "FILE.sha256"]


def test_a_process_that_comes_second_takes_what_the_first_has_put_there(
    cache: Path, server: Server, published: bytes, tmp_path: Path
) -> None:
    """Even if it was sent something else meanwhile."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        cache.parent.mkdir(parents=True)
        cache.write_bytes(published)
        give(Zoo(tmp_path / "other.pth", loss="MSE").write().read_bytes())(handler)

    server.answers = [answer]

    assert hub.load_dcgan().loss == "DCGAN"
    assert cache.read_bytes() == published


def test_a_file_in_the_cache_beyond_the_limit_is_not_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one given by its path."""
    cache.parent.mkdir(parents=True)
    cache.write_bytes(bytes(1001))
    monkeypatch.setattr(_download, "LIMIT", 1000)

    for weights in ("fashiongen", cache):
        with pytest.raises(io.CheckpointError, match="has 1,001 bytes; at most 1,000 are read") as e:
            hub.load_dcgan(weights)
        assert e.value.reason == "too-large"


def test_more_than_the_limit_is_not_taken(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never ends does not fill the memory."""
    monkeypatch.setattr(_download, "LIMIT", 1000)
    monkeypatch.setattr(_download, "PIECE", 100)

    with pytest.raises(FileNotFoundError, match="it has more than 1000 bytes"):
        hub.load_dcgan()
