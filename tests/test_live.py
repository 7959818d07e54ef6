"""The live page in a real browser: what it shows is what PyTorch computes.

``TORCHBASICS_SITE`` is the folder of a built site; without it a site of this one page is built. What needs Chromium, Sphinx
or what scripts/make_live.py makes is skipped where they are not, and fails there with ``TORCHBASICS_BROWSER=required``.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.browser import Browser, browser, lacking, need_browser
from torchbasics import data, models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
DOCS, MADE = ROOT / "docs", ROOT / "docs/_vendor/live"
SITE = os.environ.get("TORCHBASICS_SITE")

CONF = f"""
import sys, pathlib
sys.path.insert(0, {str(DOCS / "_ext")!r})
import live
live.MADE = pathlib.Path("%s")
extensions = ["myst_parser", "live"]
html_theme = "basic"
root_doc = "live"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a site with the page in it."""
    if SITE is not None:
        return ROOT / SITE
    if not MADE.is_dir():
        pytest.skip("scripts/make_live.py has not made docs/_vendor/live")
    return build(tmp_path_factory.mktemp("site"))


def build(folder: Path, made: Path = MADE) -> Path:
    """Build the one page, with what was *made* and stand-ins for its pictures and for the pages it links to."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    source = folder / "source"
    for name in ("weights/index.md", "weights/cnn-fashion_mnist.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("---\norphan: true\n---\n\n# Elsewhere\n", encoding="utf-8")
    (source / "images").mkdir()
    for name in ("predictions.png", "predictions-dark.png", "dcgan-grid.png"):
        Image.new("L", (320, 160), 128).save(source / "images" / name)
    shutil.copy(DOCS / "live.md", source)
    (source / "conf.py").write_text(CONF % made, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(source), str(folder / "html")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder / "html"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, as ``python -m http.server`` does, and says nothing."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def root(site: Path) -> Iterator[str]:
    """The address at which the site is served, to a browser."""
    need_browser()
    if not (site / "_static/live").is_dir():
        lacking("result of scripts/make_live.py, which needs npm and a network")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def window(root: str) -> Iterator[Browser]:
    """A browser, the same for all tests that need nothing special of it."""
    with browser() as it:
        yield it


@pytest.fixture
def page(window: Browser, root: str) -> Browser:
    """The browser with the page in it, its models loaded."""
    assert state(window, root) == "ready"
    return window


def state(window: Browser, root: str) -> str:
    """Open the page and return what came of it: "ready" or "pictures"."""
    window.open(f"{root}live.html")
    return str(
        window.run("""
            const now = () => document.getElementById("live-status")?.dataset.state;  // it may not be there yet
            while (!["ready", "pictures"].includes(now())) await new Promise((r) => setTimeout(r, 20));
            return now();""")
    )


def eventually(read: Callable[[], Any], right: Callable[[Any], bool]) -> Any:
    """Return what *read* gives once it is *right*; after a minute, whatever it is."""
    end = time.monotonic() + 60
    while not right(value := read()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def shown(page: Browser) -> Tensor:
    """The probabilities that the bars show."""
    bars = page.run(
        "return [...document.querySelectorAll('.live-bars li')].map((li) => li.style.getPropertyValue('--p'))"
    )
    return torch.tensor([float(p) for p in bars], dtype=torch.float64)


def pixels(page: Browser, part: str) -> Tensor:
    """The grey levels of the large picture in *part* of the page, uint8 (1, 1, H, W)."""
    width, values = page.run(
        """const canvas = document.querySelector(`${arguments[0]} .live-board canvas`);
        const rgba = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, [...rgba].filter((_, i) => i % 4 === 0)];""",
        part,
    )
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 1, -1, width)


@torch.no_grad()
def probabilities(images: Tensor) -> Tensor:
    """What PyTorch says of uint8 images."""
    cnn, card = models.get_model("cnn", weights="DEFAULT"), models.get_weights("cnn")[0]
    return cnn(card.transforms()(images)).double().softmax(1)


def as_pytorch(page: Browser, images: Tensor) -> None:
    """Assert that the bars come to show what PyTorch says of one image."""
    (wanted,) = probabilities(images)
    # 1e-5 is what the page promises; float32 in another order of sums.
    got = eventually(lambda: shown(page), lambda p: torch.allclose(p, wanted, rtol=0, atol=1e-5))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def pressed_until(page: Browser, key: str, there: str, **options: str) -> None:
    """Press *key* until the focus is on what the selector *there* means."""
    for _ in range(80):
        if page.run(f"return document.activeElement.matches({there!r})"):
            return
        page.press(key, **options)
    pytest.fail(f"no {key} leads to {there}")


def test_the_classes_of_test_images_are_those_of_pytorch(page: Browser) -> None:
    """Each image that can be picked is a test image, and gets PyTorch's probabilities."""
    _, test = data.fashion_mnist_mini()
    count = page.run("return document.querySelectorAll('.live-samples input').length")
    labels = []

    assert count == 20
    for i in range(count):
        page.run("document.querySelectorAll('.live-samples input')[arguments[0]].click()", i)
        image = pixels(page, "#live-cnn")
        (where,) = (test.images == image).flatten(1).all(1).nonzero()[:1, 0].tolist()
        labels.append(test.classes[int(test.targets[where])])
        as_pytorch(page, image)
    assert labels == list(test.classes) * 2


def test_a_drawing_needs_the_keyboard_alone(page: Browser) -> None:
    """Tab leads to everything; arrows, space and Backspace draw; the result is PyTorch's."""
    pressed_until(page, "Tab", ".live-samples input")
    page.press("Right")
    assert page.run("return document.querySelector('.live-samples input:checked').value") == "1"
    pressed_until(page, "Tab", ".live-clear")
    page.press(" ")
    assert eventually(lambda: pixels(page, "#live-cnn"), lambda p: not p.any()).max() == 0
    pressed_until(page, "Tab", "#live-cnn .live-board canvas", hold="Shift")
    page.press(*["Up"] * 10, " ", *["Left"] * 3)
    page.press(*["Down"] * 20, hold="Shift")
    page.press(*["Right"] * 6)
    page.press(*["Up"] * 20, hold="Shift")
    drawn = pixels(page, "#live-cnn")

    assert (drawn > 0).sum() > 100
    as_pytorch(page, drawn)
    best = models.get_weights("cnn")[0].classes[int(probabilities(drawn).argmax())]
    assert page.run("return document.querySelector('#live-cnn .live-verdict').textContent").startswith(f"{best}, ")
    says = eventually(lambda: page.run("return document.getElementById('live-says').textContent"), lambda t: best in t)
    assert best in says
    page.press("Backspace")
    assert pixels(page, "#live-cnn").sum() < drawn.sum()


def test_a_drawing_by_mouse_is_no_test_image_any_more(page: Browser) -> None:
    """A line by mouse changes the picture there, and with it the pick and the bars."""
    left, top, side = page.run("""
        const canvas = document.querySelector("#live-cnn .live-board canvas");
        canvas.scrollIntoView({ block: "center", behavior: "instant" });
        const box = canvas.getBoundingClientRect();
        return [box.left, box.top, box.width];""")
    before = pixels(page, "#live-cnn")
    page.drag((int(left + side / 28), int(top + side / 2)), (int(left + side * 27 / 28), int(top + side / 2)))
    after = pixels(page, "#live-cnn")

    assert (after[0, 0, 14] >= 100).all()
    assert torch.equal(after[0, 0, :11], before[0, 0, :11])
    assert page.run("return document.querySelectorAll('.live-samples input:checked').length") == 0
    as_pytorch(page, after)


@torch.no_grad()
def test_the_images_are_those_of_pytorch(page: Browser, site: Path) -> None:
    """Garment k is row k of the noise of seed 0, and a slider moves it along its direction; what the cnn says fits."""
    dcgan, card = models.get_model("dcgan", weights="DEFAULT"), models.get_weights("cnn")[0]
    noise = dcgan.noise(256, generator=torch.Generator().manual_seed(0))
    stored = np.fromfile(site / "_static/live/directions.bin", "<f4").reshape(-1, dcgan.latent_dim)
    directions = torch.from_numpy(stored)

    def is_drawn(point: Tensor) -> None:
        wanted = (dcgan(point[None]) + 1) * 127.5
        # One grey level: the browser rounds to whole ones.
        got = eventually(lambda: pixels(page, "#live-dcgan"), lambda p: bool((p - wanted).abs().max() <= 1))
        assert (got - wanted).abs().max() <= 1
        name = card.classes[int(probabilities(got[:, :, 2:30, 2:30]).argmax())]
        verdict = "return document.querySelector('#live-dcgan .live-verdict').textContent"
        assert name in eventually(lambda: page.run(verdict), lambda text: name in text)

    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)), rtol=0, atol=1e-5)  # float32
    is_drawn(noise[0])
    pressed_until(page, "Tab", ".live-next")
    page.press(" ", " ")
    is_drawn(noise[2])
    pressed_until(page, "Tab", ".live-sliders label:nth-child(1) input")
    page.press(*["Right"] * 15)
    is_drawn(noise[2] + 1.5 * directions[0])
    pressed_until(page, "Tab", ".live-sliders label:last-child input")
    page.press(*["Left"] * 20)
    is_drawn(noise[2] + 1.5 * directions[0] - 2 * directions[-1])
    pressed_until(page, "Tab", ".live-zero", hold="Shift")
    page.press(" ")
    is_drawn(noise[2])


def test_no_other_host_is_asked(window: Browser, root: str) -> None:
    """All that the page loads comes from the site."""

    def elsewhere(urls: set[str]) -> list[str]:
        return [url for url in urls if not url.startswith((root, "data:", "blob:"))]

    window.requested()
    assert state(window, root) == "ready"
    requested = window.requested()

    assert {f"{root}live.html", f"{root}_static/live/cnn.onnx"} <= requested
    assert elsewhere(requested) == []

    window.run("await fetch('http://elsewhere.invalid/').catch(() => undefined)")  # it would be seen
    assert elsewhere(window.requested()) == ["http://elsewhere.invalid/"]


def pictures(window: Browser) -> list[bool]:
    """Whether each of the pictures, in the light, is loaded and seen."""
    seen: list[bool] = window.run("""
        const images = [...document.querySelectorAll("img.live-picture:not(.only-dark)")];
        return images.map((image) => image.checkVisibility() && image.complete && image.naturalWidth > 0);""")
    return seen


def test_pictures_give_way_to_models(page: Browser) -> None:
    """Where the models run, no picture stands in for them."""
    assert pictures(page) == [False, False]


def test_without_webassembly_there_are_pictures(root: str) -> None:
    """A browser without WebAssembly shows pictures, and says why."""
    with browser("--js-flags=--jitless") as window:
        assert state(window, root) == "pictures"
        assert pictures(window) == [True, True]
        assert "WebAssembly" in window.run("return document.getElementById('live-status').textContent")
        assert window.run("return document.querySelectorAll('.live canvas').length") == 0


def test_without_a_model_there_are_pictures(window: Browser, root: str) -> None:
    """Where a file cannot be had, the pictures are shown."""
    window.devtools("Network.enable")
    window.devtools("Network.setBlockedURLs", urls=["*dcgan.onnx"])
    try:
        assert state(window, root) == "pictures"
    finally:
        window.devtools("Network.setBlockedURLs", urls=[])
    assert pictures(window) == [True, True]
    assert window.run("return document.querySelectorAll('.live canvas').length") == 0


def test_it_speaks_chinese_on_a_chinese_page(window: Browser, root: str) -> None:
    """The programs use the language of the page."""
    script = "document.addEventListener('readystatechange', () => (document.documentElement.lang = 'zh-CN'))"
    added = window.devtools("Page.addScriptToEvaluateOnNewDocument", source=script)
    assert state(window, root) == "ready"
    window.devtools("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])
    names = window.run(
        "return [...document.querySelectorAll('.live-bars li')].map((li) => li.firstElementChild.textContent)"
    )

    assert names[0] == "T恤/上衣"
    assert all(not name.isascii() for name in names)
    assert "裤子" in window.run("return document.querySelectorAll('.live-samples input')[1].ariaLabel")


def test_every_control_has_a_name(page: Browser) -> None:
    """What can be used has a name for screen readers."""
    page.devtools("Accessibility.enable")
    nodes = page.devtools("Accessibility.getFullAXTree")["nodes"]
    roles = ("radio", "slider", "button", "spinbutton", "application", "image")
    named = [
        (n["role"]["value"], n["name"]["value"]) for n in nodes if not n["ignored"] and n["role"]["value"] in roles
    ]

    assert sum(role == "slider" for role, _ in named) == 9
    assert [role for role, name in named if not name] == []


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(window: Browser, root: str, width: int) -> None:
    """On a phone, too, nothing of it sticks out."""
    window.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    assert state(window, root) == "ready"
    right = window.run(
        "return Math.max(...[...document.querySelectorAll('.live, .live *')].map((e) => e.getBoundingClientRect().right))"
    )
    window.devtools("Emulation.clearDeviceMetricsOverride")

    assert right <= width


def test_a_site_without_models_has_pictures_alone(tmp_path: Path) -> None:
    """Where nothing was made, the page builds without a warning, and names no file that is not there."""
    html = (build(tmp_path, made=tmp_path / "nothing") / "live.html").read_text(encoding="utf-8")

    assert "_static/live" not in html
    assert html.count("live-picture") == 3


def test_models_of_other_weights_are_not_served(tmp_path: Path) -> None:
    """A site is not built with models made of the weights of another day."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "live.json").write_text('{"cnn": {"sha256": "0"}, "dcgan": {"sha256": "0"}}')
    with pytest.raises(AssertionError, match=r"was made of other weights; run scripts/make_live.py again"):
        build(tmp_path, made=made)
