"""``torchbasics inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import io
from torchbasics._pickles import shown

if TYPE_CHECKING:
    import argparse

LONGEST = 1000  # characters that are shown of a text in the file


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print what is in the file.

    Raises:
        ValueError: the file cannot be loaded; it is said why.
    """
    report = io.inspect(args.file)
    intact = {True: "intact", False: "NOT intact: its digest does not match", None: "no digest"}[report["intact"]]
    print(f"{report['path']}: {_told(report['kind'])}, {report['bytes']:,} bytes, {intact}")
    if report["refused"]:
        if report["names"]:
            print(f"asks for  {', '.join(report['names'])}")
        raise ValueError(report["refused"])
    if report["model"]:
        config = ", ".join(f"{_told(name)}={_cut(repr(value))}" for name, value in report["config"].items())
        print(f"model     {_told(report['model'])}({config})")
    if report["history"]:
        last = ", ".join(f"{_told(name)} {_number(value)}" for name, value in report["history"][-1].items())
        print(f"history   {len(report['history'])} epochs; last: {last}")
    for name, value in (report["metadata"] or {}).items():
        print(f"metadata  {_told(name)}: {_told(value) if isinstance(value, str) else _cut(repr(value))}")
    print(f"tensors   {len(report['tensors'])}, with {report['elements']:,} values")
    for name, tensor in report["tensors"].items():
        print(f"  {_told(name)}  {tensor['dtype']}  {tuple(tensor['shape'])}")
    return report


def _told(text: str) -> str:
    """Return *text* of a file as it is, but in quotes where a terminal would not show it as it is."""
    return _cut(text if text.isprintable() else repr(text))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else shown(value)
