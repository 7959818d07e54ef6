"""Write the parts of the sources that follow from the model files; --check only says which are stale.

A model file holds a class decorated with ``@register("name", ...)``. From these come the table of names in _zoo.py and
the typed overloads of ``get_model``: everything between the lines ``# <generated>`` and ``# </generated>``.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Found(NamedTuple):
    """A registered class as its file says it."""

    name: str
    module: str
    cls: str
    line: str


def find_models(package: Path) -> list[Found]:
    """Return the registered classes of the files in ``package/models``, by name; the files are read, not imported."""
    found = []
    for path in sorted((package / "models").glob("_*.py")):
        classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
        for node, decorator in ((c, decorator) for c in classes for decorator in c.decorator_list):
            match decorator:
                case ast.Call(func=ast.Name(id="register"), args=[ast.Constant(value=str(name))]):
                    line = (ast.get_docstring(node) or "").partition("\n")[0]
                    found.append(Found(name, path.stem, node.name, line))
    return sorted(found)


def table(models: list[Found]) -> str:
    """Return the lines of the table in _zoo.py."""
    entry = '    "{0.name}": (\n        "torchbasics.models.{0.module}:{0.cls}",\n        "{0.line}",\n    ),\n'
    return "".join(entry.format(m) for m in models)


def overloads(models: list[Found]) -> str:
    """Return the imports and overloads in models/_get.py."""
    imports = "".join(sorted(f"    from torchbasics.models.{m.module} import {m.cls}\n" for m in models))
    signature = "*, weights: str | None = None, **config: Any"
    calls = "".join(
        f'@overload\ndef get_model(name: Literal["{m.name}"], {signature}) -> {m.cls}: ...\n' for m in models
    )
    return f"if TYPE_CHECKING:\n{imports}\n\n{calls}\n\n"


def replaced(text: str, generated: str) -> str:
    """Return *text* with what stands between the two marks replaced."""
    head, start, rest = text.partition("# <generated>\n")
    _, end, tail = rest.partition("# </generated>")
    indent = head.rpartition("\n")[2]
    return head + start + generated + indent + end + tail


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write what is stale; with ``--check`` only name it and return 1."""
    package = root / "src" / "torchbasics"
    models = find_models(package)
    stale = []
    for path, generated in {package / "_zoo.py": table(models), package / "models/_get.py": overloads(models)}.items():
        text = path.read_text(encoding="utf-8")
        new = replaced(text, generated)
        if new == text:
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {path.relative_to(root)}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
