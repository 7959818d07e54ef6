"""scripts/judges.py believes a judge that speaks, and none that crashes."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest

JUDGES = runpy.run_path(str(Path(__file__).parents[1] / "scripts/judges.py"))


@pytest.mark.parametrize(
    ("code", "perfect"),
    [
        ("pass", True),
        ("print('DOC101'); exit(1)", True),
        ("print('DOC105'); exit(1)", False),
        ("exit(2)", False),
        ("import no_such_module", False),
    ],
    ids=["nothing found", "what is left out", "a flaw", "no such option", "crashed"],
)
def test_a_verdict_of_flaws_needs_a_judge_that_ran(code: str, perfect: bool) -> None:
    """Some tools exit with 1 for what is left out here; other statuses and a traceback are no verdict."""
    judge = JUDGES["Judge"](shlex.join([sys.executable, "-c", code]), flaw=r"DOC(?!101)\d+")

    assert JUDGES["ask"](judge, {})[1] is perfect
