"""A discriminator that looks with the eyes of a trained classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 64  # of each small discriminator


class Projected(nn.Module):
    """Discriminators of what a classifier sees in images, one for each of its layers but the last.

    A generator learns of them sooner than of one that looks at the pixels, since the classifier, which stays as it is,
    knows already what matters. The pixels' own discriminator learns beside them, but teaches the generator nothing: it
    is left out while no gradient of its parameters is wanted, which is the generator's turn.

    Shapes: ``(N, 1, size, size)`` in [-1, 1], of which the classifier sees the middle in [0, 1] -> logits ``(M,)``,
    high for real, with M discriminators times N.

    Args:
        plain: The discriminator of the pixels.
        classifier: A `CNNModel` without batch norm.
        image_size: The side of the images that it sees.

    References:
        Sauer, Chitta, Müller, Geiger, Projected GANs Converge Faster, 2021, arXiv:2111.01007.
    """

    def __init__(self, plain: nn.Module, classifier: Any, image_size: int) -> None:
        super().__init__()
        self.plain = plain
        self.image_size = image_size
        self.classifier = (classifier.eval().requires_grad_(False),)  # in a tuple: it is no part of what learns
        self.heads = nn.ModuleList([*map(_of_maps, classifier.channels), _of_vectors(classifier.hidden)])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of being real."""
        start = (images.shape[-1] - self.image_size) // 2
        stop = start + self.image_size
        seen = self._seen((images[..., start:stop, start:stop] + 1) / 2)
        logits = [head(x).flatten(1).mean(1) for head, x in zip(self.heads, seen, strict=True)]
        if next(self.plain.parameters()).requires_grad:
            logits.append(self.plain(images))
        return torch.cat(logits)

    def _seen(self, x: Tensor) -> list[Tensor]:
        """Return what each layer but the last makes of images: (N, C, H, W) of convolutions, then (N, C)."""
        classifier = self.classifier[0]
        seen = []
        for i in range(1, len(classifier.channels) + 1):
            x = functional.relu(functional.max_pool2d(classifier.get_submodule(f"conv{i}")(x), 2))
            seen.append(x)
        return [*seen, functional.relu(classifier.fc1(x.flatten(1)))]


def _of_maps(width: int) -> nn.Sequential:
    first = nn.Conv2d(width, WIDTH, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(WIDTH), nn.LeakyReLU(0.2), nn.Conv2d(WIDTH, 1, 3, padding=1))


def _of_vectors(width: int) -> nn.Sequential:
    first = nn.Linear(width, WIDTH, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1))
