"""``torchbasics info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import _env

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the report on versions, devices and extras."""
    report = _env.info()
    print(_env.format_info(report))
    return report
