"""A disk that is full: checkpoints fail with a warning, training goes on, and so does a later run."""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults import trainings
from torchbasics.testing import Kill, run_child
from torchbasics.training import _store

if TYPE_CHECKING:
    from torchbasics.training import State

STEPS = 6


class Full:
    """Lets no file grow beyond a few bytes, from step 9 to step 13: writing fails as on a full disk."""

    def on_step(self, state: State) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        if state.step == 9:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        if state.step == 13:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def train(folder: Path) -> Any:
    """Train on a disk that is full for a while, and write down what was said and what was there."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = trainings.train(folder, workers=0, callbacks=[Full(), Look(folder)])
    folder.with_suffix(".said").write_text(json.dumps([str(w.message) for w in said]))
    return made


class Look:
    """Writes down which checkpoints there are at step 13, all read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step(self, state: State) -> None:
        if state.step == 13:
            whole = [path.name for path in _store.checkpoints(self.folder) if _store.read(path)]
            self.folder.with_suffix(".whole").write_text(json.dumps(whole))


def test_a_full_disk_stops_no_training(tmp_path: Path) -> None:
    """The checkpoint that did not fit is a warning with step and folder; the one before is whole; the bits are the same."""
    assert sys.platform != "win32"
    expected = run_child(trainings.without_workers, tmp_path / "roomy")

    full = run_child(train, tmp_path / "full")

    assert full.error is None
    assert full.digest == expected.digest
    said = json.loads((tmp_path / "full.said").read_text())
    assert any("the checkpoint at step 12 could not be saved in" in line and "File too large" in line for line in said)
    assert "step-00000008" in json.loads((tmp_path / "full.whole").read_text())
    assert not list((tmp_path / "full").glob(".*.tmp"))


def test_a_run_killed_on_a_full_disk_goes_on_from_the_last_whole_one(tmp_path: Path) -> None:
    """From step 8, where the disk was not full yet."""
    expected = run_child(trainings.without_workers, tmp_path / "roomy")

    killed = run_child(train, tmp_path / "full", Kill("update", at=13))
    resumed = run_child(trainings.without_workers, tmp_path / "full")

    assert killed.exitcode == -9
    assert resumed.error is None
    assert resumed.digest == expected.digest
