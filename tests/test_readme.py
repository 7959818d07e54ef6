"""The README says what happens."""

from __future__ import annotations

import re
from pathlib import Path

from tests import pages

README = Path(__file__).parents[1] / "README.md"
CHINESE = README.with_name("README.zh-CN.md")


def test_the_examples_print_what_is_shown(tmp_path: Path) -> None:
    """Run in an empty folder, one after the other; the numbers may differ, the words may not."""
    pages.check(README, tmp_path, ("python",), vary=True)


def test_the_two_commands_are_one_line_each() -> None:
    """One block after each mark, with one command line."""
    for mark in ("<!-- main job -->", "<!-- tests -->"):
        block = re.search(rf"{mark}\n```bash\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert block is not None
        assert len(block[1].splitlines()) == 1


def test_the_chinese_readme_has_the_same_code() -> None:
    """Block by block; its comments alone are Chinese."""
    ours, theirs = (
        [
            (m["mark"], m["language"], re.sub(r" *# .*", "", m["code"]))
            for m in pages.BLOCK.finditer(path.read_text("utf-8"))
        ]
        for path in (README, CHINESE)
    )

    assert ours == theirs
    assert len(ours) > 5


def faults(english: str, chinese: str) -> list[str]:
    """The paragraphs, and rows of tables, whose Chinese has other code, links or numbers."""
    ours, theirs = (
        re.findall(r"^\|.*|^(?![|\n]).+(?:\n(?![|\n]).+)*", pages.BLOCK.sub("", text), re.MULTILINE)
        for text in (english, chinese)
    )
    if len(ours) != len(theirs):
        return [f"{len(ours)} parts, but {len(theirs)} in Chinese"]
    return [a for a, b in zip(ours, theirs, strict=True) if pages.kept(a) != pages.kept(b)]


def test_the_chinese_readme_has_the_same_facts() -> None:
    """Paragraph by paragraph the same code, numbers and links, to the site's Chinese pages; each links to the other."""
    english, chinese = (path.read_text(encoding="utf-8") for path in (README, CHINESE))
    switch, back = "English | [简体中文](README.zh-CN.md)", "[English](README.md) | 简体中文"

    assert switch in english
    assert back in chinese
    site = "https://org.github.io/torchbasics/"
    assert faults(english.replace(switch, "").replace(site, f"{site}zh/"), chinese.replace(back, "")) == []


def test_another_fact_in_the_chinese_readme_is_told() -> None:
    """The positive control: a number, a name in code, a link, a row that is missing."""
    english = "Two of `a`, [b](c.md):\n3 in all.\n\n| 1 |\n| 2 |\n"
    chinese = "`a` 中的两个，[b](c.md)：\n共 3 个。\n\n| 1 |\n| 2 |\n"
    assert faults(english, chinese) == []

    assert faults(english, chinese.replace("共 3", "共 4")) == ["Two of `a`, [b](c.md):\n3 in all."]
    assert faults(english, chinese.replace("`a`", "`b`")) == ["Two of `a`, [b](c.md):\n3 in all."]
    assert faults(english, chinese.replace("c.md", "d.md")) == ["Two of `a`, [b](c.md):\n3 in all."]
    assert faults(english, chinese.replace("| 2 |\n", "")) == ["3 parts, but 2 in Chinese"]
