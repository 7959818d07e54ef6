"""Several processes: what they train and measure is what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import worlds

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WORLDS = (2, 3, 5)  # of evaluation; training has the first two


def torchrun(size: int, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run *command* in as many processes, on one machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    return subprocess.run(
        [*launch, *command], env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout
    )


@cache
def results(case: str, size: int, folder: Path) -> list[dict[str, Any]]:
    """Return what each process wrote."""
    out = folder / f"{case}-{size}"
    out.mkdir()
    done = torchrun(size, "-m", "tests.worlds", case, str(out), str(folder / f"{case}-{size}-work"))
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds")


@cache
def alone(case: str) -> dict[str, Any]:
    """Return what a single process gives."""
    found: dict[str, Any] = worlds.CASES[case]()
    return found


@pytest.mark.parametrize("size", WORLDS)
def test_evaluation_is_exact_over_processes(size: int, folder: Path) -> None:
    """Counts are equal integers, losses to last bits, whatever the number of samples; every process gets all of it."""
    for found in results("evaluate", size, folder):
        for name, expected in alone("evaluate").items():
            bound = 1e-12 if "float64" in name else 1e-6
            loss = {"loss": pytest.approx(expected["loss"], rel=bound)}
            rest = {"mae": pytest.approx(expected.get("mae"), rel=1e-6)} if "mae" in expected else {}
            assert found[name] == {**expected, **loss, **rest}, name


@pytest.mark.parametrize("size", WORLDS[:2])
def test_training_is_that_of_one_process(size: int, folder: Path) -> None:
    """In float64 to 1e-10: batches that do not divide, ignored and weighted targets, sums, parts, clipping, averages."""
    for found in results("fit", size, folder):
        for name, expected in alone("fit").items():
            assert len(found[name]["rows"]) == len(expected["rows"]), name
            for row, wanted in zip(found[name]["rows"], expected["rows"], strict=True):
                assert row == pytest.approx(wanted, rel=1e-10, abs=1e-10), name
            for weight, wanted in zip(found[name]["weights"], expected["weights"], strict=True):
                torch.testing.assert_close(weight, wanted, rtol=1e-10, atol=1e-10, msg=name)


def test_a_mean_of_means_is_seen_to_differ(folder: Path) -> None:
    """Positive control: without the weights, 61 samples in batches of 15 train to other numbers."""
    expected = alone("fit")["last batch of one"]["weights"]
    other = results("unweighted", 2, folder)[0]["weights"]

    assert not torch.allclose(other[0], expected[0], rtol=1e-6, atol=1e-6)


def test_samples_are_the_same_and_all_processes_end_alike(folder: Path) -> None:
    """A sample's random numbers depend on its index alone; a GAN and batch norm end on equal weights and buffers."""
    first, second = results("single", 2, folder)
    expected = alone("single")

    for row, wanted in zip(first["dataset"]["rows"], expected["dataset"]["rows"], strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)
    for name in ("dataset", "gan", "batch norm"):
        assert first[name]["rows"] == second[name]["rows"]
        assert all(map(torch.equal, first[name]["weights"], second[name]["weights"]))
    assert all(map(torch.equal, first["buffers"], second["buffers"]))
    assert isinstance(expected["two samples"], dict)  # which one process can train on, and of two each has one
    told = "batches of 10 and 2 samples of all 2 processes give batch norm 1 sample, which is too few; give another"
    assert first["two samples"].startswith(told)


def test_a_run_in_parts_is_the_run_in_one(folder: Path) -> None:
    """With dropout, in the middle of an epoch: every process has its own random numbers back."""
    for found in results("resume", 2, folder):
        assert found["whole"].pop("halted")
        assert found["parts"]["rows"] == found["whole"]["rows"]
        assert all(map(torch.equal, found["parts"]["weights"], found["whole"]["weights"]))
