"""The snippets of Markdown pages: run, and compared with what the page says they print.

The ``python`` blocks of a page are one program, run from top to bottom in an empty folder; a ``text`` block right after
one is what it prints. A ``bash`` block is run where all its lines are commands of ``torchbasics``. A comment on the line
above a block says ``not run: reason`` of what cannot run in a test, or ``numbers vary`` of a text block of which only
the words and the number of numbers are compared. This writes into pages what their snippets print::

    python -m tests.pages docs/basics/*.md
"""

from __future__ import annotations

import calendar
import contextlib
import functools
import io
import linecache
import math
import random
import re
import shlex
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch

from torchbasics import _zoo
from torchbasics.cli import main

BLOCK = re.compile(r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?\d+e[-+]?\d+")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
MARKUP = re.compile(r"(?:\{[\w:]+\})?`[^`]+`|\]\([^)]*\)|<(?:https?:|!--)[^>]*>")  # roles and code, links, comments
MONTH = re.compile(rf"\b({'|'.join(calendar.month_name[1:])})(?= \d)")


class Block(NamedTuple):
    """A fenced block: its comment, where its code starts, and from where to where it goes in the text."""

    mark: str
    language: str
    code: str
    line: int
    span: tuple[int, int]


class Snippet(NamedTuple):
    """A block that runs, and the block with what it prints, if there is one."""

    block: Block
    shown: Block | None


def snippets(text: str, languages: tuple[str, ...] = ("python", "bash")) -> list[Snippet]:
    """The blocks of a page that are to be run."""
    blocks = [
        Block(m["mark"] or "", m["language"], m["code"], text.count("\n", 0, m.start("code")) + 1, m.span())
        for m in BLOCK.finditer(text)
    ]
    found = []
    for block, following in zip(blocks, [*blocks, None][1:], strict=True):
        runs = block.language in languages and not block.mark.startswith("not run:")
        if runs and (block.language != "bash" or all(line[0] == "torchbasics" for line in commands(block))):
            shown = following if following is not None and following.language == "text" else None
            found.append(Snippet(block, shown if shown and not text[block.span[1] : shown.span[0]].strip() else None))
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each line; comments are left out."""
    lines = [shlex.split(line, comments=True) for line in block.code.splitlines()]
    return [line for line in lines if line]


def run(page: Path, folder: Path, languages: tuple[str, ...] = ("python", "bash")) -> Iterator[tuple[Snippet, str]]:
    """Run the snippets of *page* in *folder*, and give each with what it printed.

    Raises:
        AssertionError: one failed; page, line and exception are named.
    """
    text = page.read_text(encoding="utf-8")
    found = snippets(text, languages)
    with alone(page, folder, [snippet.block for snippet in found]) as module:
        for snippet in found:
            block, printed, aside = snippet.block, io.StringIO(), io.StringIO()
            try:
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(aside):
                    if block.language == "python":
                        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), vars(module))
                    else:
                        assert not any(main(line[1:]) for line in commands(block)), aside.getvalue()
            except Exception as e:
                lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == str(page)]
                raise AssertionError(f"{page}:{[block.line, *lines][-1]}: {type(e).__name__}: {e}") from e
            yield snippet, printed.getvalue()


@contextlib.contextmanager
def alone(page: Path, folder: Path, blocks: list[Block]) -> Iterator[ModuleType]:
    """A module like that of a script, in *folder*, seeded, on one thread of the CPU; afterwards all is as before.

    Classes can be pickled, and their source found, as in a script.
    """
    module, threads = ModuleType("__main__"), torch.get_num_threads()
    module.__file__ = str(page)
    source = [""] * max((block.line + block.code.count("\n") for block in blocks), default=0)
    for block in blocks:
        if block.language == "python":
            lines = block.code.splitlines(keepends=True)
            source[block.line - 1 : block.line - 1 + len(lines)] = lines
    linecache.cache[str(page)] = (0, None, [line or "\n" for line in source], str(page))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MPLBACKEND", "Agg")
        patch.setitem(sys.modules, "__main__", module)
        patch.setattr(torch.hub, "_hub_dir", None)
        for there in (torch.cuda, torch.accelerator, torch.backends.mps):  # pages show what a CPU prints
            patch.setattr(there, "is_available", functools.wraps(there.is_available)(lambda: False))
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        torch.set_num_threads(1)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # the global generator is meant
        torch.manual_seed(0)
        try:
            yield module
        finally:
            torch.set_num_threads(threads)
            for entry in list(_zoo._entries.values()):
                if entry.cls.__module__ == module.__name__:
                    _zoo.forget(entry.name)
            del linecache.cache[str(page)]


def alike(shown: str, printed: str, *, vary: bool = False, tolerance: float = 1e-2) -> bool:
    """Whether words and integers are the same and floats close; with *vary* whether they are the same but for numbers.

    How many spaces there are, does not count.
    """
    ours, theirs = (
        "\n".join(re.sub(r"(?<=[\[(]) ", "", " ".join(line.split())) for line in text.strip().splitlines())
        for text in (shown, printed)
    )
    kind = NUMBER if vary else FLOAT
    if kind.sub("0", ours) != kind.sub("0", theirs):
        return False
    pairs = zip(kind.findall(ours), kind.findall(theirs), strict=True)
    # A value of 0.0001 is the last digit that torch prints.
    return vary or all(math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=1e-4) for a, b in pairs)


def fits(snippet: Snippet, printed: str, *, vary: bool = False) -> bool:
    """Whether *printed* is what the page shows; what a command prints need not be shown."""
    if snippet.shown is None:
        return not printed or snippet.block.language == "bash"
    return alike(snippet.shown.code, printed, vary=vary or snippet.shown.mark == "numbers vary")


def check(page: Path, folder: Path, languages: tuple[str, ...] = ("python", "bash"), *, vary: bool = False) -> None:
    """Run *page*, and compare.

    Raises:
        AssertionError: a snippet failed, or prints something else than is shown; page and line are named.
    """
    for snippet, printed in run(page, folder, languages):
        shown = snippet.shown.code if snippet.shown else ""
        where = f"{page}:{(snippet.shown or snippet.block).line}"
        assert fits(snippet, printed, vary=vary), f"{where}: shown is\n{shown}\nbut printed was\n{printed}"


def refresh(page: Path, folder: Path) -> bool:
    """Write into *page* what its snippets print, and tell whether that changed it."""
    before = text = page.read_text(encoding="utf-8")
    for (block, shown), printed in reversed(list(run(page, folder))):
        if not fits(Snippet(block, shown), printed):
            start, end = shown.span if shown else (block.span[1], block.span[1])
            mark = f"<!-- {shown.mark} -->\n" if shown and shown.mark else ""
            new = f"{mark}```text\n{printed.rstrip()}\n```" if printed else ""
            text = text[:start] + ("" if shown else "\n\n") + new + text[end:]
    page.write_text(text, encoding="utf-8")
    return text != before


def kept(text: str) -> Counter[str]:
    """What a translation keeps: code, roles, targets of links, marks of bold and slanted text, numbers."""
    prose = MONTH.sub(lambda month: str([*calendar.month_name].index(month[1])), MARKUP.sub(" ", text))
    numbers = re.findall(r"\*+|\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?", prose)
    return Counter(MARKUP.findall(text) + numbers)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as empty:
            print(name, "changed" if refresh(Path(name).resolve(), Path(empty)) else "as it was")
