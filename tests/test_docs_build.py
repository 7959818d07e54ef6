"""The site is built without a warning and without a network, and loads nothing from other hosts."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow]

for needed in ("sphinx", "myst_parser", "pydata_sphinx_theme", "sphinx_design", "sphinx_llms_txt"):
    pytest.importorskip(needed, reason="the dependency group docs is not installed")

# What a browser fetches by itself, from another host.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*?\ssrc="((?:https?:)?//[^"]*)"""
    r"""|<link\b(?=[^>]*rel="(?:stylesheet|preload|icon|preconnect))[^>]*?href="((?:https?:)?//[^"]*)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The English site, built once; a warning is an error. One that is there already can be named."""
    if built := os.environ.get("TORCHBASICS_SITE"):
        return ROOT / built
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-b", "html", "-d", str(out / "trees")]
    run = subprocess.run([*command, "docs", str(out / "html")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return out / "html"


@pytest.mark.parametrize("name", ["index.html", "search.html", "searchindex.js", "objects.inv", "404.html"])
def test_the_site_has_its_parts(site: Path, name: str) -> None:
    """Home, search and its index, the inventory for other projects, the page for what is not there."""
    assert site.joinpath(name).stat().st_size > 500


def test_machines_find_the_pages(site: Path) -> None:
    """The sitemap and llms.txt list pages by their public address; texts of pages are in llms-full.txt."""
    home = "https://org.github.io/torchbasics/"
    assert f"<loc>{home}api/training.html</loc>" in site.joinpath("sitemap.xml").read_text(encoding="utf-8")
    assert f"({home}start.html)" in site.joinpath("llms.txt").read_text(encoding="utf-8")
    assert "# Start here" in site.joinpath("llms-full.txt").read_text(encoding="utf-8")


def test_pictures_for_the_dark_stay_on_it(site: Path) -> None:
    """The theme puts a light ground behind pictures in dark mode, unless they say that they are made for it."""
    pages = [*site.glob("zoo/*.html"), *site.glob("basics/*.html"), site / "start.html"]
    tags = {
        tag for page in pages for tag in re.findall(r"<img\b[^>]*-dark\.(?:png|svg)[^>]*>", page.read_text("utf-8"))
    }

    assert any("arch-cnn-dark" in tag for tag in tags)
    assert not {tag for tag in tags if "only-dark" not in tag}


@pytest.mark.parametrize(("page", "other"), [("index", "zh/index"), ("api/io", "../zh/api/io")])
def test_each_page_leads_to_itself_in_the_other_language(site: Path, page: str, other: str) -> None:
    """The header has a link to the same page in Chinese."""
    text = site.joinpath(f"{page}.html").read_text(encoding="utf-8")

    assert re.search(rf'<a class="language-link[^>]*href="{re.escape(other)}\.html">简体中文</a>', text)


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    """Scripts, styles, fonts and pictures all come with the site."""
    pages = list(site.rglob("*.html"))
    found = {str(page.relative_to(site)): LOADED.findall(page.read_text(encoding="utf-8")) for page in pages}
    styles = {str(css): re.findall(r"url\(['\"]?(?:https?:)?//", css.read_text("utf-8")) for css in site.rglob("*.css")}

    assert len(pages) > 30
    assert not {name: urls for name, urls in (found | styles).items() if urls}


@pytest.mark.parametrize(
    "tag",
    ['<script defer src="https://a.b/c.js">', '<link href="//a.b/c.css" rel="stylesheet">', '<img src="http://a.b/c">'],
)
def test_what_would_be_loaded_is_seen(tag: str) -> None:
    """The positive control: the pattern finds a script, a style and a picture of another host."""
    assert LOADED.findall(tag)


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    """The page of the command is made of its parser: each flag of each command is there to be linked to."""
    from torchbasics.cli import make_parser

    text = site.joinpath("cli.html").read_text(encoding="utf-8")
    commands: Any = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        for flag in (
            flag for action in command._actions for flag in action.option_strings if flag not in ("-h", "--help")
        ):
            assert f'id="cmdoption-torchbasics-{name}-{flag.lstrip("-")}"' in text


def test_the_inventories_of_other_projects_are_fresh() -> None:
    """docs/_inv has what its script writes."""
    run = subprocess.run([sys.executable, "scripts/make_inventories.py", "--check"], cwd=ROOT, check=False)

    assert run.returncode == 0


@pytest.fixture(scope="module")
def chinese(site: Path) -> Path:
    """The Chinese site, where nox has built both."""
    if not (site / "zh/index.html").is_file():
        pytest.skip("the Chinese site is not built; nox -s docs builds it")
    return site / "zh"


@pytest.mark.parametrize(("page", "other"), [("index", "../index"), ("api/io", "../../api/io")])
def test_each_chinese_page_leads_to_itself_in_english(chinese: Path, page: str, other: str) -> None:
    """The way back."""
    text = chinese.joinpath(f"{page}.html").read_text(encoding="utf-8")

    assert re.search(rf'<a class="language-link[^>]*href="{re.escape(other)}\.html">English</a>', text)


def test_chinese_search_has_what_it_calls(chinese: Path) -> None:
    """The script of the Chinese search cuts what is typed into words, and defines the stemmer that it names."""
    text = chinese.joinpath("_static/language_data.js").read_text(encoding="utf-8")
    stemmer = re.search(r"window\.Stemmer = (\w+);", text)

    assert stemmer is not None
    assert f"{stemmer[1]}=function" in text
    assert "Intl.Segmenter" in text
