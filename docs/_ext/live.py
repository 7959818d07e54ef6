"""Brings the live page's programs and models into the site; where there are none, the page keeps its pictures.

``scripts/make_live.py`` makes the models and gets onnxruntime-web; this only copies.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.errors import ExtensionError

from torchbasics import _weights

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parents[1]
SOURCES, MADE = HERE / "live", HERE / "_vendor/live"


def copy(app: Sphinx) -> None:
    """Copy sources and what was made to ``_static/live``.

    Raises:
        ExtensionError: the models were made of other weights than those of today.
    """
    target = app.outdir / "_static/live"
    shutil.rmtree(target, ignore_errors=True)
    if app.builder.name not in ("html", "dirhtml") or not MADE.is_dir():
        return
    facts = json.loads((MADE / "live.json").read_bytes())
    if any(facts[name]["sha256"] != _weights.get_weights(name)[0].sha256 for name in ("cnn", "dcgan")):
        raise ExtensionError(f"{MADE} was made of other weights; run scripts/make_live.py again")
    for folder in (SOURCES, MADE):
        shutil.copytree(folder, target, dirs_exist_ok=True)


def load(app: Sphinx, page: str, _template: str, _context: dict[str, Any], _tree: object) -> None:
    """Load the programs on the one page that has them."""
    if page == "live" and (app.outdir / "_static/live").is_dir():
        app.add_css_file("live/app.css")
        app.add_js_file("live/app.js", type="module")


def setup(app: Sphinx) -> dict[str, Any]:
    """Hook in."""
    app.connect("builder-inited", copy)
    app.connect("html-page-context", load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
