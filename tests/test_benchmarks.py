"""The benchmarks run, and print what they are to print; how fast anything is, no test says."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.{name}")

    return load


def bench(folder: Path, *arguments: str) -> tuple[str, Any]:
    """What the command prints, and the JSON it writes."""
    path = folder / "figures.json"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", path, *arguments],
        cwd=ROOT,
        env={**os.environ, "TORCHBASICS_DATA": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_a_part_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    """Contestants, comparisons, targets; --quick judges nothing."""
    printed, figures = bench(tmp_path, "--without-peers", "--only", "step")

    assert "| | median | quartiles | target | met |" in printed
    assert "at most 1.03" in printed
    assert "**no**" not in printed
    assert "| **fit / bare loop** |" in printed
    rows = {row["name"]: row for row in figures["parts"]["step"]["rows"]}
    assert len(rows["bare loop"]["values"]) == 2
    assert rows["fit / bare loop"]["target"] == 1.03
    assert rows["fit over bare loop"]["target"] == 50
    assert figures["machine"]["torch"]


@pytest.mark.slow
def test_every_part_runs(tmp_path: Path, benchmarks: Any) -> None:
    """Each with little work, with those of the other libraries that are installed, on equal losses."""
    printed, figures = bench(tmp_path)

    assert list(figures["parts"]) == list(benchmarks("__main__").PARTS)
    for name, (package, _) in benchmarks("_peers").PEERS.items():
        assert f"- {name}: not installed, left out" in printed or f"- {package} " in printed
    assert all(part["rows"] for part in figures["parts"].values())


def test_every_contestant_of_a_round_is_compared_with_that_round(benchmarks: Any) -> None:
    """A ratio is taken pair by pair; the median of ratios is not the ratio of medians."""
    times = benchmarks("_measure").Times(a=[1.0, 4.0, 9.0], b=[1.0, 8.0, 3.0])

    row = times.ratio("a", "b", target=1.0)

    assert row.values == [1.0, 0.5, 3.0]
    assert row.median == 1.0
    assert row.quartiles == (0.75, 2.0)
    assert row.met
    assert not times.ratio("b", "a", target=0.9).met


def test_contestants_run_in_turns(benchmarks: Any) -> None:
    """Round by round, the order turned round, after a first round that does not count."""
    ran: list[str] = []

    def contestant(name: str) -> Any:
        return lambda: lambda: ran.append(name)

    times = benchmarks("_measure").measure({"a": contestant("a"), "b": contestant("b")}, 2)

    assert "".join(ran) == "baabba"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2}


def test_a_contestant_that_does_other_work_is_refused(benchmarks: Any) -> None:
    """One with another learning rate ends on another loss; the one with the same passes."""
    work = benchmarks("_work")
    images, targets = work.images(500, 200)[0].inputs, work.images(500, 200)[0].targets
    honest = work.Work(work.mlp, images, targets)
    check = honest.check()
    check("the same", honest.fit()()())

    with pytest.raises(SystemExit, match=r"a rival ended on .*, expected .*: not the same work"):
        check("a rival", honest.fit(lr=0.1)()())


def test_peers_that_are_not_installed_are_named(benchmarks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left out, and the notes say so."""
    peers = benchmarks("_peers")
    monkeypatch.setattr(peers, "PEERS", {"Nowhere": ("nowhere_at_all", None)})

    assert peers.peers(None) == ({}, ["Nowhere: not installed, left out"])


def test_a_table_says_which_targets_are_met(benchmarks: Any) -> None:
    """Yes, no, or nothing without a target."""
    measure, report = benchmarks("_measure"), benchmarks("_report")
    rows = [
        measure.Row("fast", [0.5], "", 1.0),
        measure.Row("slow", [2.0], "s", 1.0),
        measure.Row("a / b", [float("inf")], "", comparison=True),
    ]

    printed = report.table("part", measure.Part("Title.", rows, ["a note"]))

    assert "| fast | 0.500 | 0.500 to 0.500 | at most 1 | yes |" in printed
    assert "| slow | 2 s | 2 to 2 | at most 1 s | **no** |" in printed
    assert "| **a / b** | never | never to never |  |  |" in printed
    assert "1 of 2 targets met" in report.document({"part": measure.Part("Title.", rows)})
    assert report.as_data({"part": measure.Part("Title.", rows)})["parts"]["part"]["rows"][2]["median"] is None


def test_figures_are_read_back_as_they_were(benchmarks: Any) -> None:
    """So that one part can be measured again, and the others stay."""
    measure, report = benchmarks("_measure"), benchmarks("_report")
    rows = [measure.Row("a / b", [0.5, 0.25], "", 1.0, True), measure.Row("never", [float("inf")], "s")]
    parts = {"part": measure.Part("Title.", rows, ["a note"], False, "(today)")}

    assert report.parts_of(json.loads(json.dumps(report.as_data(parts)))) == parts
