"""Changes of a batch of images that keep their classes; random numbers come from torch's global generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torchbasics import _checks


def flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half. Shapes: (N, C, H, W) -> (N, C, H, W)."""
    mirrored = torch.rand(len(images)).to(images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def shift(images: Tensor, pixels: int = 2) -> Tensor:
    """Move each image by up to two *pixels* in each direction, zeros moving in. Shapes: (N, C, H, W) -> the same."""
    n, _, height, width = images.shape
    padded = functional.pad(images, (pixels,) * 4)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n)).to(images.device)
    rows = (dy[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (dx[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    samples = torch.arange(n, device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[samples, channels, rows, columns]


def shift1(images: Tensor) -> Tensor:
    """Move each image by up to one pixel in each direction. Shapes: (N, C, H, W) -> the same."""
    return shift(images, 1)


AUGMENTATIONS: dict[str, Callable[[Any], Any]] = {"flip": flip, "shift": shift, "shift1": shift1}


def make_augmentation(augment: Any) -> Callable[[Any], Any] | None:
    """Return the change of a batch's inputs: by name, several names in turn, or a function.

    Raises:
        ValueError: no augmentation has this name.
        TypeError: it is none of these.
    """
    if augment is None:
        return None
    if isinstance(augment, str):
        return AUGMENTATIONS[_checks.choice("augmentation", augment, AUGMENTATIONS)]
    if isinstance(augment, (list, tuple)):
        steps = [make_augmentation(one) for one in augment]

        def in_turn(inputs: Any) -> Any:
            for change in steps:
                inputs = change(inputs) if change else inputs
            return inputs

        return in_turn
    if not callable(augment):
        raise TypeError(f"augment must be a name, several names or a function inputs -> inputs, got {augment!r}")
    return augment  # type: ignore[no-any-return]
