"""The directive ``tested-versions``: the table of versions that the tests run on, read off noxfile.py."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils.nodes import Node
    from sphinx.application import Sphinx

NOXFILE = Path(__file__).resolve().parents[2] / "noxfile.py"


def legs(source: str) -> list[tuple[str, ...]]:
    """Return (name, Python, torch, torchvision) of each entry of ``MATRIX``."""
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="MATRIX")], value=ast.Dict(keys=keys, values=values)):
                calls = [(key, call) for key, call in zip(keys, values, strict=True) if isinstance(call, ast.Call)]
                return [tuple(ast.literal_eval(part) for part in (key, *call.args) if part) for key, call in calls]
    return []


def table(source: str) -> str:
    """Return the versions as a Markdown table, the floor first."""
    rows = [leg for leg in legs(source) if len(leg) == 4]
    rows.sort(key=lambda leg: _key(leg[2]))
    rows.append(("newest", "3.11 or later", "newest", "newest"))
    lines = [f"| {torch} | {vision} | {python} |" for _, python, torch, vision in rows]
    return "\n".join(["| PyTorch | torchvision | Python |", "| --- | --- | --- |", *lines])


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


class Tested(SphinxDirective):
    """Insert the table."""

    def run(self) -> list[Node]:
        """Return its nodes."""
        self.env.note_dependency(str(NOXFILE))
        return self.parse_text_to_nodes(table(NOXFILE.read_text(encoding="utf-8")))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("tested-versions", Tested)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
