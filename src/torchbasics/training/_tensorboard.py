"""The run as TensorBoard shows it: curves per step and epoch, and a picture of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbasics import _checks
from torchbasics._model import unwrapped
from torchbasics._parts import is_sharded
from torchbasics.data._batch import Batch
from torchbasics.data._batches import Batches
from torchbasics.training._callbacks import Callback, State
from torchbasics.training._evaluate import evaluating
from torchbasics.training._losses import is_classes
from torchbasics.training._step import call

PICTURES = 16  # images in the grid, in rows of 8
SIDE = 84  # pixels of one picture
FLUSH = 100  # steps whose losses are kept before they are written, so that no step waits for a device


class TensorBoard(Callback):
    """Writes "step/loss" and "step/learning_rate" per update, "epoch/..." per epoch, and images with predictions.

    Args:
        folder: Where the event files go.
        pictures: Batches whose first images are shown.
        classes: Names of the classes.
    """

    def __init__(self, folder: str | Path, pictures: Batches, classes: Sequence[str] = ()) -> None:
        self.writer_class: Any = _checks.require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self.folder = Path(folder)
        self.pictures = pictures
        self.classes = classes
        self.waiting: list[tuple[int, float | Tensor, float]] = []
        self.resumed = False

    def on_start(self, state: State) -> None:
        """Open the event file; points after a checkpoint that is gone on from are purged."""
        first = self.waiting[0][0] if self.waiting else state.step + 1  # what waited at the checkpoint comes again
        self.writer = self.writer_class(str(self.folder), purge_step=first if state.step or self.resumed else None)
        batch = self.pictures.first(PICTURES)
        shown = batch is not None and isinstance(batch.inputs, Tensor) and batch.inputs.ndim == 4
        self.batch: Batch | None = batch if shown and batch.inputs.shape[1] in (1, 3) else None  # type: ignore[union-attr]

    def on_step(self, state: State) -> None:
        """Keep the loss."""
        if len(self.waiting) >= FLUSH:
            self.flush()
        self.waiting.append((state.step, state.loss, state.learning_rate))  # so that this step's always waits

    def on_epoch(self, state: State) -> None:
        """Write the epoch's row and its picture."""
        self.flush()
        for name, value in state.history[-1].items():
            self.writer.add_scalar(f"epoch/{name}", value, state.step)
        if self.batch is not None:
            picture = self._picture(self.batch, state.model)
            self.writer.add_image("predictions", picture, state.step, dataformats="HWC")
        self.writer.flush()

    def on_end(self, state: State) -> None:
        """Close the event file."""
        self.flush()
        self.writer.close()

    def flush(self) -> None:
        """Write the losses that were kept."""
        for step, loss, rate in self.waiting:
            self.writer.add_scalar("step/loss", float(loss), step)
            self.writer.add_scalar("step/learning_rate", rate, step)
        self.writer.flush()
        self.waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the losses that were not written yet."""
        return {"waiting": [(step, float(loss), rate) for step, loss, rate in self.waiting]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        self.waiting = list(state["waiting"])
        self.resumed = True  # at step 0 too, where the run was killed before its first checkpoint after that

    def _picture(self, batch: Batch, wrapped: Any) -> np.ndarray[Any, Any]:
        """Draw what the model makes, or what it takes the images for, or the images alone."""
        model: Any = unwrapped(wrapped)
        if is_sharded(model):  # it runs in all processes at once alone
            return grid(batch.inputs)  # type: ignore[arg-type]  # on_start has seen that these are images
        with evaluating(model):
            if hasattr(model, "sample"):
                made: Tensor = model.sample(batch.size)
                return grid((made.cpu() + 1) / 2)
            images: Any = batch.inputs
            if batch.targets is None or not is_classes(batch.targets) or batch.targets.ndim != 1:
                return grid(images)
            outputs = call(model, batch.to(next(model.parameters()).device).inputs)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            return grid(images)
        guesses = outputs.argmax(1).tolist()
        return grid(images, [(self._name(g), g == t) for g, t in zip(guesses, batch.targets.tolist(), strict=True)])

    def _name(self, guess: int) -> str:
        return self.classes[guess] if guess < len(self.classes) else str(guess)


def grid(images: Tensor, captions: Sequence[tuple[str, bool]] = ()) -> np.ndarray[Any, Any]:
    """Draw images in [0, 1] in rows of eight, each with a caption: green if right, else red. uint8 (H, W, 3)."""
    from PIL import Image, ImageDraw

    height = SIDE + (14 if captions else 0)
    sheet = Image.new("RGB", (8 * SIDE, -(-len(images) // 8) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = i % 8 * SIDE, i // 8 * height
        pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
        array = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()
        sheet.paste(Image.fromarray(array).resize((SIDE - 2, SIDE - 2), Image.Resampling.NEAREST), (x + 1, y + 1))
        if captions:
            text, right = captions[i]
            draw.text((x + 3, y + SIDE), text, fill=(0, 110, 0) if right else (180, 0, 0))
    return np.asarray(sheet)
