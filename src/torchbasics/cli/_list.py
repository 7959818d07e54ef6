"""``torchbasics list``: the models, without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import _zoo

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print a line for each model."""
    lines = {name: _zoo.BUILT_IN.get(name, ("", "registered by you"))[1] for name in _zoo.list_models()}
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:{width}}  {text}")
    return {"models": [{"name": name, "description": text} for name, text in lines.items()]}
