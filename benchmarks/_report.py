"""Tables for people, JSON for programs."""

from __future__ import annotations

import datetime
import math
import os
import platform
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from benchmarks._measure import Part, Row


def machine() -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    return {
        "processor": f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def table(name: str, part: Part) -> str:
    """Return the part in Markdown."""
    lines = [f"### {name}", "", part.title, "", "| | median | quartiles | target | met |", "|---|---|---|---|---|"]
    for row in part.rows:
        met = {None: "", True: "yes", False: "**no**"}[row.met if part.judged else None]
        target = "" if row.target is None else f"at most {row.target:g} {row.unit}".rstrip()
        low, high = (_figure(value, row.unit) for value in row.quartiles)
        lines.append(
            f"| {row.name} | {_figure(row.median, row.unit)} {row.unit} | {low} to {high} | {target} | {met} |"
        )
    lines += ["", *(f"- {note}" for note in part.notes)] if part.notes else []
    return "\n".join([*lines, ""])


def as_data(parts: dict[str, Part]) -> dict[str, Any]:
    """Return all figures as JSON data."""
    return {"machine": machine(), "parts": {name: _part(part) for name, part in parts.items()}}


def document(parts: dict[str, Part]) -> str:
    """Return the page that keeps the last printed table."""
    here = machine()
    judged = [row for part in parts.values() if part.judged for row in part.rows if row.met is not None]
    head = (
        "# Results\n\n"
        f"Last run of `python -m benchmarks`: {here['processor']}, torch {here['torch']}, Python {here['python']}, "
        f"{here['date']}, load {here['load']}. Medians and quartiles over interleaved rounds; ratios are taken round "
        f"by round. {sum(bool(row.met) for row in judged)} of {len(judged)} targets met.\n"
    )
    return "\n".join([head, *(table(name, part) for name, part in parts.items())])


def _part(part: Part) -> dict[str, Any]:
    return {"title": part.title, "notes": part.notes, "rows": [_row(row) for row in part.rows]}


def _row(row: Row) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    low, high = row.quartiles
    return {
        "name": row.name.strip("*"),
        "unit": row.unit,
        "median": plain(row.median),
        "quartiles": [plain(low), plain(high)],
        "target": row.target,
        "met": row.met,
        "values": [plain(value) for value in row.values],
    }


def _figure(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "never"
    if not unit:
        return f"{value:.3f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
