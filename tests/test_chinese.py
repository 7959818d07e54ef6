"""The guide is whole in Chinese, says what the English says, and can be searched."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.pages import kept

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow]

for needed in ("sphinx", "babel", "myst_parser", "pydata_sphinx_theme", "jieba", "sphinx_llms_txt"):
    pytest.importorskip(needed, reason="the dependency group docs is not installed")

from babel.messages.catalog import Catalog  # noqa: E402  # of the group docs

TRANSLATE = runpy.run_path(str(ROOT / "scripts/translate.py"))
PAGES = [
    path.relative_to(ROOT / "docs").with_suffix("").as_posix()
    for name in TRANSLATE["GUIDE"]
    for path in sorted(ROOT.joinpath("docs").glob(f"{name}/*.md" if "." not in name else name))
]
HAN = r"[\u4e00-\u9fff]"


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Catalog]:
    """What Sphinx finds to translate, by page."""
    found: dict[str, Catalog] = TRANSLATE["english"](tmp_path_factory.mktemp("english"))
    return found


@pytest.fixture(scope="module")
def chinese() -> dict[str, Catalog]:
    """The translations in the repository, by page."""
    found: dict[str, Catalog] = TRANSLATE["catalogs"](TRANSLATE["LOCALE"])
    return found


def problems(page: str, english: Catalog, chinese: Catalog) -> list[str]:
    """What is wrong with the Chinese of *page*, each with the page and the text."""
    found = [
        f"{page}: gone from the page: {m.id}"
        for m in [*chinese, *chinese.obsolete.values()]
        if m.id and m.id not in english
    ]
    for message in english:
        there = chinese.get(message.id)
        if not there or not there.string:
            what = "not translated"
        elif there.fuzzy:
            what = "fuzzy"
        elif kept(str(there.string)) != kept(str(message.id)):
            what = "other code or numbers"
        else:
            continue
        found += [f"{page}: {what}: {message.id}"] * bool(message.id)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_the_guide_is_translated(page: str, english: dict[str, Catalog], chinese: dict[str, Catalog]) -> None:
    """All of it, nothing of what it said once, and with the same code, links and numbers."""
    assert problems(page, english[page], chinese.get(page, Catalog())) == []


@pytest.mark.parametrize(
    ("string", "flags", "what"),
    [
        ("", (), "not translated"),
        ("见 `fit` 的 3 行。", ("fuzzy",), "fuzzy"),
        ("见 `fit` 的 2 行。", (), "other code or numbers"),
        ("见 `Fit` 的 3 行。", (), "other code or numbers"),
        ("**见** `fit` 的 3 行。", (), "other code or numbers"),
        ("[见](a.md) `fit` 的 3 行。", (), "other code or numbers"),
    ],
    ids=["none", "fuzzy", "number", "code", "bold", "link"],
)
def test_a_fault_is_told_by_page_and_text(string: str, flags: tuple[str, ...], what: str) -> None:
    """The positive control."""
    text = "See the 3 lines of `fit`."
    english, right, wrong = Catalog(), Catalog(), Catalog()
    english.add(text)
    right.add(text, "见 `fit` 的 3 行。")
    wrong.add(text, string, flags=flags)

    assert not problems("page", english, right)
    assert problems("page", english, wrong) == [f"page: {what}: {text}"]


def test_what_a_page_says_no_more_is_told() -> None:
    """Also a positive control: a translation that is left over."""
    chinese = Catalog()
    chinese.add("Old.", "旧。")

    assert problems("page", Catalog(), chinese) == ["page: gone from the page: Old."]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Chinese site: what is built already, or else the guide and a few pages in English."""
    if built := os.environ.get("TORCHBASICS_SITE"):
        return ROOT / built / "zh"
    out = tmp_path_factory.mktemp("chinese")
    pages = (*TRANSLATE["GUIDE"], "versions.md", "weights")
    others = ",".join(path.name for path in ROOT.joinpath("docs").iterdir() if path.name not in pages)
    options = ("-Q", "-d", out / "trees", "-D", "language=zh_CN", "-D", f"exclude_patterns={others}")
    subprocess.run([sys.executable, "-m", "sphinx", *options, ROOT / "docs", out / "html"], check=True)
    return out / "html"


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("张量", "basics/tensors"),
        ("训练", "basics/training-and-evaluation"),
        ("批次", "basics/data"),
        ("RNNCell", "basics/rnn"),
    ],
)
def test_search_finds_a_word(word: str, page: str, site: Path) -> None:
    """The index of the Chinese site has Chinese words, and the names in the code."""
    text = site.joinpath("searchindex.js").read_text(encoding="utf-8")
    index: Any = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    found = [index[where].get(word.lower(), []) for where in ("titleterms", "terms")]
    numbers = [number for one in found for number in (one if isinstance(one, list) else [one])]

    assert page in [index["docnames"][number] for number in numbers]


def test_search_in_a_browser_cuts_what_is_typed_into_words(site: Path) -> None:
    """A reader who types two words without a space comes to the page that has both in its title."""
    browser.need_browser()
    first = "#search-results li a"
    with browser.browser() as window:
        window.open(f"{site.as_uri()}/search.html?q=训练循环")
        wait = f"while (!document.querySelector('{first}')) await new Promise((then) => setTimeout(then, 50));"
        title = window.run(f"{wait} return document.querySelector('{first}').textContent;")

    assert title == "训练循环"


@pytest.mark.parametrize("page", ["index", "basics/rnn", "live", "search", "404"])
def test_the_interface_is_chinese(page: str, site: Path) -> None:
    """What the theme puts around a page, read aloud or seen; only names and the switch to English are not."""
    body = site.joinpath(f"{page}.html").read_text(encoding="utf-8").partition("<body")[2]
    around = re.sub(r'<(script|style|article)\b.*?</\1>|<p class="prev-next-title.*?</p>', "", body, flags=re.DOTALL)
    labels = re.findall(r'(?:title|aria-label|placeholder)="([^"]+)"', around)
    seen = [text.strip() for text in re.findall(r">([^<>]+)<", around)]
    names = {"torchbasics", "torch.hub", "TensorBoard", "GitHub", "English", "Ctrl"}

    assert len(labels) > 5
    assert not {text for text in labels + seen if re.search(r"[A-Za-z]{2}", text) and not re.search(HAN, text)} - names


@pytest.mark.parametrize(
    ("page", "title"), [("versions", '<h1 lang="zh-CN">版本'), ("weights/cnn-fashion_mnist", "<h1>cnn/fashion_mnist")]
)
def test_a_page_that_is_not_translated_says_so(page: str, title: str, site: Path) -> None:
    """Its text is English and read aloud as such, its title Chinese where it is translated; the guide is Chinese."""
    english, guide = (site.joinpath(f"{name}.html").read_text(encoding="utf-8") for name in (page, "basics/rnn"))
    notice = "本页暂无中文版，以下为英文原文。"

    assert notice in english
    assert '<article class="bd-article" lang="en">' in english
    assert title in english
    assert notice not in guide
    assert '<article class="bd-article">' in guide


def test_the_switch_leads_to_the_english_page(site: Path) -> None:
    """The header of a Chinese page has a link to the same page in English."""
    html = site.joinpath("basics/rnn.html").read_text(encoding="utf-8")

    assert re.search(r'<a class="language-link[^>]*href="\.\./\.\./basics/rnn\.html">English</a>', html)
