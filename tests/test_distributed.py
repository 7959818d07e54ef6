"""Several processes: what they train and measure is what one does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import worlds

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("worlds")]

WORLDS = (2, 3, 5)  # of evaluation; training has the first two
Results = Callable[[str, int], list[dict[str, Any]]]


@cache
def alone(case: str) -> dict[str, Any]:
    """Return what a single process gives."""
    found: dict[str, Any] = worlds.CASES[case]()
    return found


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """See that two runs in float64 gave the same, to 1e-10: sums in another order."""
    assert len(found["rows"]) == len(expected["rows"])
    for row, wanted in zip(found["rows"], expected["rows"], strict=True):
        assert row == pytest.approx(wanted, rel=1e-10, abs=1e-10)
    for weight, wanted in zip(found["weights"], expected["weights"], strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-10, atol=1e-10)


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["rows"] == other["rows"] and all(map(torch.equal, one["weights"], other["weights"]))


@pytest.mark.parametrize("size", WORLDS)
def test_evaluation_is_exact_over_processes(size: int, results: Results) -> None:
    """Counts are equal integers, losses to last bits, whatever the number of samples; every process gets all of it."""
    for found in results("evaluate", size):
        for name, expected in alone("evaluate").items():
            bound = 1e-12 if "float64" in name else 1e-6
            loss = {"loss": pytest.approx(expected["loss"], rel=bound)}
            rest = {"mae": pytest.approx(expected.get("mae"), rel=1e-6)} if "mae" in expected else {}
            assert found[name] == {**expected, **loss, **rest}, name


@pytest.mark.parametrize("size", WORLDS[:2])
@pytest.mark.parametrize("way", worlds.WAYS)
def test_training_is_that_of_one_process(size: int, way: str, results: Results) -> None:
    """In float64 to 1e-10: batches that do not divide, ignored and weighted targets, sums, parts, clipping, averages."""
    for found in results("fit", size):
        assert_equal(found[way], alone("fit")[way])


def test_a_mean_of_means_is_seen_to_differ(results: Results) -> None:
    """Positive control: without the weights, 61 samples in batches of 15 train to other numbers."""
    expected = alone("fit")["last batch of one"]["weights"]
    other = results("unweighted", 2)[0]["weights"]

    assert not torch.allclose(other[0], expected[0], rtol=1e-6, atol=1e-6)


def test_samples_are_the_same(results: Results) -> None:
    """A sample's random numbers depend on its index alone."""
    for row, wanted in zip(results("single", 2)[0]["dataset"]["rows"], alone("single")["dataset"]["rows"], strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["dataset", "gan", "batch norm", "overflow"])
def test_all_processes_end_alike(name: str, results: Results) -> None:
    """On equal weights and buffers; also where float16 has left out updates for a gradient of one of them."""
    first, second = results("single", 2)

    assert str(first[name]["rows"]) == str(second[name]["rows"])
    assert all(map(torch.equal, first[name]["weights"], second[name]["weights"]))
    assert all(bool(weight.isfinite().all()) for weight in first[name]["weights"])
    assert all(map(torch.equal, first["buffers"], second["buffers"]))


def test_validation_changes_no_training_by_buffers(results: Results) -> None:
    """Also where a step of the user's own runs the model: each update begins with the buffers of process 0."""
    for found in results("single", 2):
        assert all(map(torch.equal, found["centred"], found["centred, validated"]))


def test_batch_norm_with_a_single_sample_is_refused(results: Results) -> None:
    """One process can train on the last two samples; of two processes each has one."""
    told = "batches of 10 and 2 samples of all 2 processes give batch norm 1 sample, which is too few; give another"

    assert isinstance(alone("single")["two samples"], dict)
    assert results("single", 2)[0]["two samples"].startswith(told)


def test_a_parameter_without_a_gradient_anywhere_is_left_as_it_is(results: Results) -> None:
    """As in one process: a gradient of zero would let AdamW shrink it, in a GAN."""
    for found in results("single", 2):
        assert found["unused"].tolist() == [1, 1]


def test_without_a_seed_each_process_drops_out_others(results: Results) -> None:
    """Where all come with the same state of torch's generator, as after one ``torch.manual_seed`` for all."""
    first, second = (found["masks"] for found in results("single", 2))

    assert len(first) == len(second) == 2
    assert not any(map(torch.equal, first, second))


def test_a_run_in_parts_is_the_run_in_one(results: Results) -> None:
    """With dropout, in the middle of an epoch: every process has its own random numbers back."""
    for found in results("resume", 2):
        assert found["halted"] == [True] * 3
        assert same_bits(found["parts"], found["whole"])


def test_a_callback_of_process_0_alone_goes_on(results: Results) -> None:
    """Its state comes back there, and the others need none."""
    first, second = results("resume", 2)

    assert (first["count"], second["count"]) == ([21], [])  # 3 epochs of 49 samples, 7 at once


def test_all_processes_go_on_from_the_same_checkpoint(results: Results) -> None:
    """Where one of them finds the newest one damaged, none takes it."""
    for found in results("resume", 2):
        assert "step-00000007'" in found["notes"][-1]
        assert same_bits(found["seen otherwise"], found["whole"])


def test_a_callback_whose_state_fails_in_one_process_costs_a_checkpoint(results: Results) -> None:
    """Nobody waits for it; process 0 tells whose it was, and the run goes on."""
    first, second = results("resume", 2)

    told = "the checkpoint at step 4 could not be saved in"
    assert [text.startswith(told) and "process 1 failed: LookupError" in text for text in first["said"]] == [True]
    assert second["said"] == []
    assert {"step-00000000", "step-00000008"} <= set(first["left"])
    assert "step-00000004" not in first["left"]
    assert same_bits(first["without a state"], first["whole"])


def test_two_processes_go_on_with_the_run_of_one(results: Results) -> None:
    """In the middle of an epoch, with metrics of the user's own and over 200 samples to validate on."""
    expected = worlds.measured(None)

    for found in results("resume", 2):
        assert_equal(found["begun by one"], expected)


def test_one_process_goes_on_with_the_run_of_two(results: Results, launched: Callable[[int], Path]) -> None:
    """As well; what they have gathered for the metrics is counted."""
    assert results("resume", 2)

    assert_equal(worlds.measured(launched(2) / "work" / "two"), worlds.measured(None))
