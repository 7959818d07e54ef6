"""Chromium without a window, by chromedriver's HTTP protocol (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# GitHub's runners have both, and a driver of Chrome; Debian's driver is of Chromium, and Chrome is not in Debian.
CHROMIUM, DRIVER = shutil.which("google-chrome") or shutil.which("chromium"), shutil.which("chromedriver")

# The protocol's letters for keys that have no character.
NAMES = ("Backspace", "Tab", "Shift", "Left", "Up", "Right", "Down")
KEYS = dict(zip(NAMES, "\ue003\ue004\ue008\ue012\ue013\ue014\ue015", strict=True))

OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1000"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Browser:
    """A session of one window."""

    def __init__(self, url: str, *options: str) -> None:
        self._url = url
        chrome = {"binary": CHROMIUM, "args": [*OPTIONS, *options]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": {"performance": "ALL"}}
        session = self._ask("POST", "/session", capabilities={"alwaysMatch": wanted})
        self._url += f"/session/{session['sessionId']}"
        self._ask("POST", "/timeouts", script=240_000, pageLoad=240_000)

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        content = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self._url + path, content, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            raise RuntimeError(json.load(e)["value"]["message"]) from None

    def open(self, url: str) -> None:
        """Go to *url*."""
        self._ask("POST", "/url", url=url)

    def run(self, body: str, *arguments: Any) -> Any:
        """Return what the body of an async function returns in the page; *arguments* are its ``arguments``."""
        done = "const done = arguments[arguments.length - 1];"
        script = f"{done} (async function () {{ {body} }}).apply(null, arguments).then(done, (e) => done({{error: `${{e}}`}}))"
        value = self._ask("POST", "/execute/async", script=script, args=list(arguments))
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(value["error"])
        return value

    def press(self, *keys: str, hold: str | None = None) -> None:
        """Press keys of the keyboard one after the other, *hold* being down meanwhile."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        if hold is not None:
            held = KEYS[hold]
            strokes = [{"type": "keyDown", "value": held}, *strokes, {"type": "keyUp", "value": held}]
        self._ask("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def drag(self, *points: tuple[int, int]) -> None:
        """Draw with the mouse from point to point of the window."""
        moves: list[dict[str, Any]] = [{"type": "pointerMove", "x": x, "y": y, "duration": 0} for x, y in points]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        self._ask("POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Return the answer to a command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def requested(self) -> set[str]:
        """Return the URLs that were asked for since the last call."""
        log = [json.loads(entry["message"])["message"] for entry in self._ask("POST", "/se/log", type="performance")]
        return {e["params"]["request"]["url"] for e in log if e["method"] == "Network.requestWillBeSent"}

    def screenshot(self) -> bytes:
        """Return the window as PNG."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def close(self) -> None:
        """End the session, and with it the browser."""
        self._ask("DELETE", "")


def lacking(what: str) -> None:
    """Skip the test that lacks *what*, or fail it where ``TORCHBASICS_BROWSER=required`` says that all is there."""
    (pytest.fail if os.environ.get("TORCHBASICS_BROWSER") == "required" else pytest.skip)(f"there is no {what}")


def need_browser() -> None:
    """Skip or fail the test if there is no browser."""
    if CHROMIUM is None or DRIVER is None:
        lacking("chromium, or no chromedriver")


@contextmanager
def browser(*options: str) -> Iterator[Browser]:
    """Start a driver and a browser with command line *options*; both end with the block."""
    if DRIVER is None or CHROMIUM is None:
        raise FileNotFoundError("there is no chromium, or no chromedriver")
    with (
        tempfile.TemporaryDirectory(prefix="browser_", ignore_cleanup_errors=True) as scratch,  # 20 MB are left in it
        subprocess.Popen(
            [DRIVER, "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TMPDIR": scratch},
        ) as driver,
    ):
        try:
            assert driver.stdout is not None
            port = next(m[1] for line in driver.stdout if (m := re.search(r"successfully on port (\d+)", line)))
            window = Browser(f"http://127.0.0.1:{port}", *options)
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()
