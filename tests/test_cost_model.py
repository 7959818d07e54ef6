"""The cost model's formulas give what one computes by hand, and the page has the tables that they print."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(name="cost")
def load_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module benchmarks/cost_model.py."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.cost_model")


def test_one_process_computes_and_sends_nothing(cost: Any) -> None:
    """5 ms and 10 times 2 ms."""
    work, network = cost.Work(sample=2e-3, fixed=5e-3, gradient=1e6), cost.Network(1e9, 1e-5)

    assert cost.step(work, 10, 1, network) == pytest.approx(25e-3)
    assert cost.efficiency(work, 10, 1, network) == pytest.approx(1)


def test_what_is_not_hidden_by_the_backward_pass_counts(cost: Any) -> None:
    """Of 4 processes: 2 * 100 MB * 3/4 at 1 GB/s are 150 ms, 20 of which the backward pass of 30 ms in all hides."""
    work, network = cost.Work(sample=3e-3, fixed=0, gradient=100e6), cost.Network(1e9, 1e-4)

    assert cost.transfer(100e6, 4, network) == pytest.approx(0.15)
    assert cost.latency(100e6, 4, network) == pytest.approx(4 * 6 * 1e-4)  # 4 buckets, 6 hops
    assert cost.step(work, 10, 4, network) == pytest.approx(0.03 + 0.15 - 0.02 + 0.0024)
    assert cost.efficiency(work, 10, 4, network) == pytest.approx(0.03 / 0.1624)


def test_a_tree_has_fewer_hops(cost: Any) -> None:
    """2 * 10 for 1024 processes instead of 2 * 1023."""
    assert cost.latency(4, 1024, cost.Network(1e9, 1e-6, tree=True)) == pytest.approx(20e-6)
    assert cost.latency(4, 1024, cost.Network(1e9, 1e-6)) == pytest.approx(2046e-6)


def test_input_and_accumulation_count(cost: Any) -> None:
    """Input of 1 ms a sample, and an exchange that hides behind nothing in every second batch."""
    work = cost.Work(sample=1e-3, fixed=0, gradient=1e6, overlap=0, input=1e-3, accumulate=2)

    assert cost.step(work, 5, 2, cost.Network(1e9, 0)) == pytest.approx(10e-3 + 1e-3 / 2)


def test_a_fixed_batch_is_compared_with_all_of_it_on_one(cost: Any) -> None:
    """Strong scaling: 8 samples in 1 + 8 ms alone, 2 in 1 + 2 ms on each of 4."""
    work = cost.Work(sample=1e-3, fixed=1e-3, gradient=0)

    assert cost.efficiency(work, 2, 4, cost.Network(1e9, 0), alone=8) == pytest.approx(9 / 4 / 3)


def test_the_page_has_these_tables(cost: Any) -> None:
    """docs/beyond-one-machine.md shows what the command prints."""
    page = ROOT.joinpath("docs/beyond-one-machine.md").read_text(encoding="utf-8")

    assert cost.scaling() in page
    assert cost.remedies() in page
