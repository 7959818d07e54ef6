"""How images become what a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn

READ = "torchbasics.data.read_image(path, channels={})[None]"  # in errors


class Transforms(nn.Module):
    """Turns uint8 images into what a model takes: float32 in [0, 1], of the model's size.

    Images of another size are scaled bilinearly, whatever their aspect ratio was. As a module it can be the first
    part of one: ``nn.Sequential(card.transforms(), model)`` takes uint8.

    Shapes: ``(N, C, H, W)`` -> ``(N, C, height, width)``.

    Args:
        shape: (C, height, width) of the model's images.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> Tensor: ...

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 images in [0, 1].

        Raises:
            TypeError: *images* are not uint8.
            ValueError: they have another number of channels or of dimensions.
        """
        channels, *size = self.shape
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images must be a uint8 tensor, got {type(images).__name__}; {READ.format(channels)} makes one of a "
                "file, torch.from_numpy(...) of an array"
            )
        if images.dtype != torch.uint8:
            way_out = "where they are in [0, 1], give (images * 255).round().to(torch.uint8), in [0, 255] images"
            way_out += ".round().to(torch.uint8)" if images.is_floating_point() else ".to(torch.uint8)"
            raise TypeError(f"images must be uint8 (0 to 255), got {images.dtype}; {way_out}")
        if images.ndim != 4 or images.shape[1] != channels:
            known = f"these weights know (N, {channels}, H, W)"
            raise ValueError(f"images have shape {tuple(images.shape)}, but {known}{self._way_out(images)}")
        images = images.to(torch.float32).div_(255)  # the conversion of data.Images, bit for bit
        if list(images.shape[2:]) == size:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def _way_out(self, images: Tensor) -> str:
        """Return what makes *images* of the wrong shape right, as an error tells it."""
        channels, single = self.shape[0], "[None]" if images.ndim == 3 else ""
        if images.ndim == 2 and channels == 1:
            return "; give images[None, None]"
        if images.ndim not in {3, 4}:
            return ""
        if images.shape[-1] == channels:
            return f"; channels come first: give images.movedim(-1, -3){single}"
        if single and images.shape[0] == channels:
            return "; give images[None]"
        if images.shape[-1] in {2, 3, 4} or images.shape[-3] == 3 or channels != 1 or not single:
            return f"; {READ.format(channels)} makes such of a file"
        return "; give images[:, None]"

    def extra_repr(self) -> str:
        """Show the size in ``repr``."""
        return f"uint8 (N, {self.shape[0]}, H, W) -> float32 in [0, 1], {'x'.join(map(str, self.shape))}"
