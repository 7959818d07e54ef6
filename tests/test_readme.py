"""The README says what happens."""

from __future__ import annotations

import re
from pathlib import Path

from tests import pages

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_print_what_is_shown(tmp_path: Path) -> None:
    """Run in an empty folder, one after the other; the numbers may differ, the words may not."""
    pages.check(README, tmp_path, ("python",), vary=True)


def test_the_two_commands_are_one_line_each() -> None:
    """One block after each mark, with one command line."""
    for mark in ("<!-- main job -->", "<!-- tests -->"):
        block = re.search(rf"{mark}\n```bash\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert block is not None
        assert len(block[1].splitlines()) == 1
