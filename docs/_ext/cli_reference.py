"""The directive ``cli-reference``: each command of ``torchbasics`` with its options, read off the parser."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

from torchbasics.cli import make_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils.nodes import Node
    from sphinx.application import Sphinx


def reference(parser: argparse.ArgumentParser) -> str:
    """Return the commands of *parser* in Markdown."""
    commands: Any = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return "\n".join(line for name, command in commands.choices.items() for line in _command(name, command))


def _command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    yield f"\n## torchbasics {name}\n\n{command.description}\n\n```bash"
    yield from (re.sub(r"\s+#", "  #", line.strip()) for line in (command.epilog or "").splitlines()[1:])
    yield f"```\n\n```{{program}} torchbasics {name}\n```\n"
    for group in command._action_groups:
        actions = [a for a in group._group_actions if "--help" not in a.option_strings]
        if actions and group.title in ("data", "recipe"):
            yield f"\n### {name}: {group.title}\n"
        for action in actions:
            yield f":::{{option}} {_signature(action)}\n{_escaped(action.help or '')}\n:::\n"


def _signature(action: argparse.Action) -> str:
    """Return an option as one writes it: ``-n, --number N``."""
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return value
    takes = action.nargs != 0
    return ", ".join(f"{flag} {value}" if takes else flag for flag in action.option_strings)


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>`\[\]\\])", r"\\\1", text)


class Reference(SphinxDirective):
    """Insert the reference."""

    def run(self) -> list[Node]:
        """Return its nodes."""
        return self.parse_text_to_nodes(reference(make_parser()), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("cli-reference", Reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
