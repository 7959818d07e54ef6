"""Checkpoints: a run that goes on ends where the uninterrupted one does."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchmetrics
from torch import nn

from tests.helpers import CrashAt, CrashError, blobs, equal
from torchbasics import models
from torchbasics._files import CheckpointError
from torchbasics.training import fit

if TYPE_CHECKING:
    from pathlib import Path

quiet = partial(fit, progress=False, batch_size=16, lr=0.01, schedule="onecycle")


def make() -> nn.Module:
    torch.manual_seed(0)
    return models.MLP(6, (8,), 3, dropout=0.3, batch_norm=True)


OPTIONS: dict[str, Any] = {
    "plain": {},
    "validation": {"validation": 0.2},
    "accumulate": {"accumulate": 2},
    "early stopping": {"early_stopping": 4, "validation": 0.2},
    "torchmetrics": {"metrics": ["f1", torchmetrics.Accuracy("multiclass", num_classes=3)], "clip_norm": 1.0},
    "unshuffled": {"shuffle": False},
}


@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_that_crashed_ends_on_the_bits_of_the_one_that_did_not(name: str, step: int, tmp_path: Path) -> None:
    """Parameters, buffers and history are equal, wherever it crashed: mid-epoch, at an epoch's end, twice."""
    whole, start = make(), make()
    expected = quiet(whole, blobs(), epochs=3, **OPTIONS[name])

    for crash in (step, step + 1):
        with pytest.raises(CrashError):
            quiet(
                copy.deepcopy(start), blobs(), epochs=3, **OPTIONS[name],
                checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(crash)],
            )  # fmt: skip
    resumed = copy.deepcopy(start)
    history = quiet(
        resumed, blobs(), epochs=3, **OPTIONS[name], checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(-1)]
    )

    assert equal(resumed, whole)
    assert history == expected


def test_without_the_generators_the_comparison_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: dropout after the resume differs when the generators are not restored."""
    whole, start = make(), make()
    quiet(whole, blobs(), epochs=3)
    with pytest.raises(CrashError):
        quiet(copy.deepcopy(start), blobs(), epochs=3, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(5)])
    monkeypatch.setattr("torchbasics.training._run._random.set_state", lambda state: None)

    quiet(start, blobs(), epochs=3, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(-1)])

    assert not equal(start, whole)


def test_a_finished_run_comes_back_whole(tmp_path: Path) -> None:
    """Nothing is trained; model and history are there."""
    model, fresh = make(), make()
    history = quiet(model, blobs(), epochs=2, checkpoint=tmp_path)

    again = quiet(fresh, blobs(), epochs=2, checkpoint=tmp_path)

    assert again == history
    assert [row["seconds"] for row in again] == [row["seconds"] for row in history]
    assert equal(fresh, model)


def test_more_epochs_go_on_where_the_schedule_allows_it(tmp_path: Path) -> None:
    """With a constant rate, 1 + 2 epochs are 3; one-cycle depends on the total and refuses."""
    whole, parts = make(), make()
    steady = partial(quiet, schedule=None)
    steady(whole, blobs(), epochs=3)
    steady(parts, blobs(), epochs=1, checkpoint=tmp_path)

    steady(parts, blobs(), epochs=3, checkpoint=tmp_path)

    assert equal(parts, whole)
    quiet(parts, blobs(), epochs=1, checkpoint=tmp_path / "cycle")
    with pytest.raises(ValueError, match="epochs was 1 and is 3"):
        quiet(parts, blobs(), epochs=3, checkpoint=tmp_path / "cycle")


def test_a_changed_run_is_refused_with_both_values(tmp_path: Path) -> None:
    """Recipe and data; nothing is overwritten."""
    quiet(make(), blobs(), epochs=1, checkpoint=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    with pytest.raises(ValueError, match="seed was 0 and is 3; the data had 60 samples and has 59"):
        quiet(make(), blobs(n=59), epochs=1, seed=3, checkpoint=tmp_path)

    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_resume_says_what_must_be_there(tmp_path: Path) -> None:
    """True wants a checkpoint, False wants none, a path is that one."""
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=True)
    model, fresh = make(), make()
    quiet(model, blobs(), epochs=1, checkpoint=tmp_path, resume=False)
    with pytest.raises(FileExistsError, match="holds a checkpoint; go on with resume=True, or give another folder"):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=False)

    quiet(fresh, blobs(), epochs=1, checkpoint=tmp_path / "other", resume=tmp_path)

    assert equal(fresh, model)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """Damaged, of another kind, or running code."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="is not a checkpoint or is damaged") as caught:
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path)
    assert caught.value.reason == "damaged"
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of format 1"):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path)


def test_checkpoints_load_with_weights_only(tmp_path: Path) -> None:
    """Plain data; no temporary file is left behind."""
    quiet(make(), blobs(), epochs=1, checkpoint=tmp_path)

    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)

    assert state["steps_done"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
