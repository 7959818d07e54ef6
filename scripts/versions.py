"""Write the table of tested versions in docs/versions.md from noxfile.py; --check only says whether it is stale."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import noxfile  # noqa: E402  # it is in the folder above
from noxfile import Leg  # noqa: E402

PAGE = ROOT / "docs" / "versions.md"


def table(matrix: dict[str, Leg], always: tuple[str, ...]) -> str:
    """Return the table in Markdown, newest first."""
    lines = ["| torch | torchvision | Python | run by | when |", "| --- | --- | --- | --- | --- |"]
    for name, leg in reversed(matrix.items()):
        run, when = ("tests", "every change") if name in always else ("matrix", "every change, on GitHub")
        cells = (
            leg.torch or "the newest",
            leg.vision or "the newest",
            leg.python or "any",
            f'`nox -s "{run}({name})"`',
        )
        lines.append(f"| {' | '.join(cells)} | {when} |")
    return "\n".join(lines)


def main(arguments: list[str], page: Path = PAGE) -> int:
    """Write the table if it is stale; with ``--check`` only say so and return 1."""
    text = page.read_text(encoding="utf-8")
    head, start, rest = text.partition("<!-- matrix -->\n")
    _, end, tail = rest.partition("<!-- /matrix -->")
    new = f"{head}{start}{table(noxfile.MATRIX, noxfile.ALWAYS)}\n{end}{tail}"
    if new == text:
        return 0
    print(f"{'stale' if '--check' in arguments else 'written'}: {page.name}")
    if "--check" in arguments:
        return 1
    page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
