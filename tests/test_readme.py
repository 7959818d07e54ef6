"""The README says what happens."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def shape(text: str) -> str:
    """The text with all digits alike: times and last digits differ between machines."""
    return re.sub(r"\d+", "0", text)


def test_the_examples_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, one after the other; the numbers may differ, the words may not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec("".join(blocks("python")), {})

    assert shape(printed.getvalue()) == shape("".join(blocks("text")))


def test_the_two_commands_are_one_line_each() -> None:
    """One block after each mark, with one command line."""
    for mark in ("<!-- main job -->", "<!-- tests -->"):
        block = re.search(rf"{mark}\n```bash\n(.*?)```", README, flags=re.DOTALL)
        assert block is not None
        assert len(block[1].splitlines()) == 1
