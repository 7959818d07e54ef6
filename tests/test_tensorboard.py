"""The event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import copy
import io
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import blobs, needs, small_images
from torchbasics import models, training

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


@needs("tensorboard")
def test_losses_rates_and_metrics_are_written(tmp_path: Path) -> None:
    """One point a step, one an epoch; the values are the history's."""
    torch.manual_seed(0)
    model = models.CNNModel(1, 4, image_size=8)

    history = training.fit(
        model, small_images(), epochs=3, batch_size=16, validation=0.2, log_dir=tmp_path, progress=False
    )

    events = read(tmp_path)
    steps = events.Scalars("step/loss")
    assert [point.step for point in steps] == list(range(1, 7))
    assert len(events.Scalars("step/learning_rate")) == 6
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        written = [point.value for point in events.Scalars(f"epoch/{name}")]
        assert written == pytest.approx(history.column(name), rel=1e-6)
    assert len(events.Images("predictions")) == 3
    picture = np.asarray(Image.open(io.BytesIO(events.Images("predictions")[-1].encoded_image_string)))
    assert picture.shape == (84 + 14, 8 * 84, 3)


@needs("tensorboard")
def test_a_generator_shows_what_it_makes(tmp_path: Path) -> None:
    """DCGAN: a grid of samples."""
    model = models.DCGAN(latent_dim=8, width=4, depth=1)

    training.fit(model, small_images(size=16), epochs=1, log_dir=tmp_path, progress=False)

    assert len(read(tmp_path).Images("predictions")) == 1


@needs("tensorboard")
def test_data_that_is_no_image_has_curves_alone(tmp_path: Path) -> None:
    """No picture of vectors."""
    training.fit(models.MLP(6, (4,), 3), blobs(), epochs=1, log_dir=tmp_path, progress=False)

    assert read(tmp_path).Tags()["images"] == []


class Crash:
    """Interrupts a run after four updates."""

    def on_step(self, state: training.State) -> None:
        if state.step == 4 and len(state.history) == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("every", [3, 5], ids=["from step 3", "before its first checkpoint"])
@needs("tensorboard")
def test_a_resumed_run_has_no_point_twice(every: int, tmp_path: Path) -> None:
    """Points after the checkpoint are purged, then written again; those of the very first steps, too."""
    options: dict[str, Any] = {
        "epochs": 2, "batch_size": 20, "lr": 0.01, "log_dir": tmp_path / "log",
        "checkpoint": tmp_path / "checkpoint", "checkpoint_every": every, "progress": False,
    }  # fmt: skip
    model = models.MLP(6, (4,), 3)
    with pytest.raises(KeyboardInterrupt):
        training.fit(copy.deepcopy(model), blobs(), callbacks=[Crash()], **options)
    time.sleep(1.1)  # event files are read in the order of their names, which begin with the second

    training.fit(model, blobs(), **options)

    assert [point.step for point in read(tmp_path / "log").Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_missing_extra_says_the_line_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is trained."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    with pytest.raises(ImportError, match=r"tensorboard is not installed; pip install 'torchbasics\[tensorboard\]'"):
        training.fit(models.MLP(6, (4,), 3), blobs(), epochs=1, log_dir=tmp_path, progress=False)
