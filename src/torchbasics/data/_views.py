"""All small moves of images, as data."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it

from torchbasics import _checks
from torchbasics.data._images import Images


def views(images: Images, *, shift: int = 1, flip: bool = True) -> Images:
    """Return every image of *images* at every shift, each also mirrored: ``2 * (2 * shift + 1)**2`` times as many.

    What a network learns from random shifts and flips, written out: for targets that differ from view to view, such as
    those of a teacher (Beyer et al.), and for averages over views. View ``v`` of image ``i`` is sample
    ``v * len(images) + i``; the views of one image have its target.

    Args:
        images: Images to move.
        shift: The largest shift in each direction, in pixels; zeros move in.
        flip: Whether to mirror each view left to right as well.

    Raises:
        TypeError: *shift* is no integer, or *flip* no truth value.
        ValueError: *shift* is negative.

    References: Lucas Beyer, Xiaohua Zhai, Amelie Royer, Larisa Markeeva, Rohan Anil, Alexander Kolesnikov, "Knowledge
    Distillation: a Good Teacher Is Patient and Consistent", 2022, arXiv:2106.05237.

    >>> len(views(Images(torch.zeros(5, 28, 28, dtype=torch.uint8), [0] * 5)))
    90
    """
    _checks.positive_int("shift", shift, least=0)
    height, width = images.images.shape[2:]
    padded = F.pad(images.images, (shift,) * 4)
    starts = range(2 * shift + 1)
    made = [padded[:, :, top : top + height, left : left + width] for top in starts for left in starts]
    if _checks.flag("flip", flip):
        made = [view for moved in made for view in (moved, moved.flip(3))]
    return Images(torch.cat(made), images.targets.repeat(len(made)), images.classes, name=f"{images.name} views")
