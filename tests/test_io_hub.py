"""Models on a hub: a server on this machine plays its part, in a process with a cache of its own."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from torchbasics import io, models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Hub(http.server.BaseHTTPRequestHandler):
    """The few calls of the hub that one upload and one download need."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    asked: list[str]

    def log_message(self, *args: object) -> None: ...

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        self.asked.append(path)
        if path == "/api/repos/create":
            self._json({"url": f"http://{self.headers['Host']}/me/net"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/models/me/net/preupload/main":
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif path == "/api/models/me/net/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json({"commitUrl": f"http://{self.headers['Host']}/me/net/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._send(404)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.asked.append(path)
        content = self.files.get(path.removeprefix("/me/net/resolve/main/").removeprefix(f"/me/net/resolve/{COMMIT}/"))
        if content is None:
            self._send(404, X_Error_Code="EntryNotFound")
        else:
            self._send(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub() -> Iterator[http.server.ThreadingHTTPServer]:
    """A hub that is empty."""
    Hub.files, Hub.asked = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(code: str, hub: http.server.ThreadingHTTPServer, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a fresh process whose hub is the server."""
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(folder / "home")}
    settings |= {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    settings |= {"HF_HUB_ETAG_TIMEOUT": "300", "HF_HUB_DOWNLOAD_TIMEOUT": "300"}
    return subprocess.run(
        [sys.executable, "-c", f"from torchbasics import io, models\n{code}"],
        env={**os.environ, **settings, **more}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_a_model_goes_to_the_hub_and_comes_back(hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    """File, arguments and card are there; the model comes back with its bits, by commit too, and offline once cached."""
    pytest.importorskip("huggingface_hub")
    io.save(models.get_model("mlp", hidden=(4,)), tmp_path / "m.safetensors")
    push = run(f"print(io.push_to_hub(io.load({str(tmp_path / 'm.safetensors')!r}), 'me/net'))", hub, tmp_path)
    assert push.returncode == 0, push.stderr
    assert push.stdout.strip().endswith(f"/me/net/commit/{COMMIT}")
    assert sorted(Hub.files) == ["README.md", "config.json", "model.safetensors"]
    assert Hub.files["model.safetensors"] == (tmp_path / "m.safetensors").read_bytes()
    assert json.loads(Hub.files["config.json"])["config"]["hidden"] == [4]
    assert b'io.from_pretrained("me/net")' in Hub.files["README.md"]
    fetch = "model = io.from_pretrained('me/net'{}); io.save(model, {!r})"
    for i, (how, more) in enumerate(
        [("", {}), (f", revision={COMMIT!r}", {}), ("", {"HF_HUB_OFFLINE": "1"})]
    ):  # newest, by commit, offline
        back = tmp_path / f"{i}.safetensors"
        done = run(fetch.format(how, str(back)), hub, tmp_path, **more)
        assert done.returncode == 0, done.stderr
        assert back.read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_what_the_hub_has_is_not_trusted(hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    """A file that was altered there is refused, and one that is not there is an OSError."""
    pytest.importorskip("huggingface_hub")
    io.save(models.get_model("mlp", hidden=()), tmp_path / "m.safetensors")
    content = bytearray((tmp_path / "m.safetensors").read_bytes())
    content[-1] ^= 1
    Hub.files["model.safetensors"] = bytes(content)
    code = "try: io.from_pretrained('me/net')\nexcept {} as e: print({})"
    done = run(code.format("io.CheckpointError", "e.reason"), hub, tmp_path)
    assert done.stdout == "damaged\n", done.stderr
    Hub.files.clear()
    done = run(code.format("OSError", "'not there'"), hub, tmp_path, HF_HOME=str(tmp_path / "other"))
    assert done.stdout == "not there\n", done.stderr


@pytest.mark.parametrize("call", ["push_to_hub", "from_pretrained"])
def test_without_the_extra_the_error_is_the_line_to_type(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error, before anything is done."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    arguments = ["me/net"] if call == "from_pretrained" else [models.get_model("mlp"), "me/net"]
    with pytest.raises(ImportError, match=r"^huggingface_hub is not installed; pip install 'torchbasics\[hub\]'$"):
        getattr(io, call)(*arguments)
