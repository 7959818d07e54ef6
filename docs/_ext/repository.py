"""Links between the pages and the files of the repository, written as GitHub needs them.

A page may link to any file of the repository by its relative path. Where the site has a page for it, the link leads
there, otherwise to the file on GitHub. The same holds in README.md and other files that pages include; there, also
the tests that the table of promises names become links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "benchmarks": "benchmarks.md",
    "docs/weights/index.md": "zoo/index.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z+]+:|[#/<])([^)\s#]+)(?=(?:#[^)\s]*)?\))")
TEST = re.compile(r"(?<!\[)`(tests/[\w/.*]+)`")


def linked(text: str, folder: Path, page: Path, repository: str) -> str:
    """Return Markdown of a file in *folder*, with its links as they are right on *page*."""

    def replace(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[1]))
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[1]  # for the builder to complain of
        name = target.relative_to(ROOT).as_posix()
        if name in PAGES:
            target = DOCS / PAGES[name]
        if target.is_relative_to(DOCS) and (target.is_file() or name in PAGES):
            return Path(os.path.relpath(target, page.parent)).as_posix()
        return f"{repository}/{'tree' if target.is_dir() else 'blob'}/main/{name}"

    return LINK.sub(replace, text)


def test_links(text: str, repository: str) -> str:
    """Return *text* with links behind the names of tests; a pattern leads to its folder."""

    def replace(match: re.Match[str]) -> str:
        path = Path(match[1]) if "*" not in match[1] else Path(match[1]).parent
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{match[0]}]({repository}/{kind}/main/{path.as_posix()})" if (ROOT / path).exists() else match[0]

    return TEST.sub(replace, text)


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change the links of a page."""
    page = app.env.doc2path(docname)
    if page.suffix == ".md":
        source[0] = linked(source[0], page.parent, page, app.config.html_context["repository"])


def included(app: Sphinx, path: Path, docname: str, source: list[str]) -> None:
    """Change the links of a file that a page includes."""
    file, repository = (DOCS / path).resolve(), app.config.html_context["repository"]
    text = linked(source[0], file.parent, app.env.doc2path(app.env.docname), repository)
    source[0] = test_links(text, repository)


def setup(app: Sphinx) -> dict[str, bool]:
    """Hook in."""
    app.connect("source-read", read)
    app.connect("include-read", included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
