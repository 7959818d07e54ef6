"""Tables for people, JSON for programs."""

from __future__ import annotations

import datetime
import math
import os
import platform
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._measure import Part, Row
from torchbasics import _env

if TYPE_CHECKING:
    from collections.abc import Mapping


def machine() -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    return {
        "processor": f"{os.cpu_count()} cores, {platform.machine()}, {_env.instructions()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def now() -> str:
    """Return the date, and how busy the machine is."""
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return f"{date}, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else date


def table(part_name: str, part: Part) -> str:
    """Return the part in Markdown."""
    lines = [
        f"## {part_name}",
        "",
        f"{part.title} {part.taken}".strip(),
        "",
        "| | median | quartiles | target | met |",
        "|---|---|---|---|---|",
    ]
    for row in part.rows:
        met = {None: "", True: "yes", False: "**no**"}[row.met if part.judged else None]
        target = "" if row.target is None else f"at most {row.target:g} {row.unit}".rstrip()
        low, high = (_figure(value, row.unit) for value in row.quartiles)
        name = f"**{row.name}**" if row.comparison else row.name
        median = f"{_figure(row.median, row.unit)} {row.unit}".rstrip()
        lines.append(f"| {name} | {median} | {low} to {high} | {target} | {met} |")
    lines += ["", *(f"- {note}" for note in part.notes)] if part.notes else []
    return "\n".join([*lines, ""])


def as_data(parts: dict[str, Part]) -> dict[str, Any]:
    """Return all figures as JSON data."""
    return {"machine": machine(), "parts": {name: _part(part) for name, part in parts.items()}}


def parts_of(data: Mapping[str, Any]) -> dict[str, Part]:
    """Return the parts that `as_data` wrote."""

    def row(saved: Mapping[str, Any]) -> Row:
        values = [math.inf if value is None else value for value in saved["values"]]
        return Row(saved["name"], values, saved["unit"], saved["target"], saved["comparison"])

    return {
        name: Part(saved["title"], [row(r) for r in saved["rows"]], saved["notes"], saved["judged"], saved["taken"])
        for name, saved in data["parts"].items()
    }


def document(parts: dict[str, Part]) -> str:
    """Return the page that keeps the last printed table."""
    here = machine()
    judged = [row for part in parts.values() if part.judged for row in part.rows if row.met is not None]
    head = (
        "# Results\n\n"
        f"Last run of `python -m benchmarks`: {here['processor']}, torch {here['torch']}, Python {here['python']}. "
        "Medians and quartiles over interleaved rounds; ratios are taken round by round. Each part has its date and "
        "the load of the machine at its end: above 1, times on the wall are noisy; processor time is less so. "
        f"{sum(bool(row.met) for row in judged)} of {len(judged)} targets met.\n"
    )
    return "\n".join([head, *(table(name, part) for name, part in parts.items())])


def _part(part: Part) -> dict[str, Any]:
    rows = [_row(row) for row in part.rows]
    return {"title": part.title, "taken": part.taken, "judged": part.judged, "notes": part.notes, "rows": rows}


def _row(row: Row) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    low, high = row.quartiles
    return {
        "name": row.name,
        "comparison": row.comparison,
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
