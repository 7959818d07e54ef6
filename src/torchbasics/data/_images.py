"""Labelled images in memory: eight bits a value until they are used."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

Array: TypeAlias = Tensor | npt.NDArray[Any]


class Images(Dataset[tuple[Tensor, int]]):
    """A data set of labelled images, stored as uint8 and used as float32 in [0, 1].

    ``ds[3]`` is one sample, (float image (C, H, W), label); ``ds[:9]``, ``ds[indices]`` and ``ds[mask]`` are `Images`,
    of no image where they select none.

    Args:
        images: uint8, (N, C, H, W), or (N, H, W) for one channel; a tensor or an array.
        targets: Integer labels, (N,): a tensor, an array or a list; stored as int64.
        classes: The classes' names: label ``i`` means ``classes[i]``. Empty = unnamed, labels of any size.
        name: What ``repr`` calls it.

    Raises:
        TypeError: *images* are not uint8, *targets* are no integers, or *classes* are no strings.
        ValueError: a wrong number of dimensions, no pixels, unequal lengths, or a label outside *classes*.

    >>> ds = Images(torch.zeros(3, 28, 28, dtype=torch.uint8), [0, 1, 1], ("shirt", "shoe"), name="tiny")
    >>> ds
    Images(3 x 1x28x28, 2 classes, 'tiny')
    >>> ds[1:].targets
    tensor([1, 1])
    """

    def __init__(
        self, images: Array, targets: Array | Sequence[int], classes: Sequence[str] = (), *, name: str = ""
    ) -> None:
        self.images: Tensor = _check_images(images)  # (N, C, H, W)
        self.targets: Tensor = _check_targets(targets)  # (N,)
        self.classes: tuple[str, ...] = _check_classes(classes)
        self.name = name
        if len(self.images) != len(self.targets):
            raise ValueError(f"got {len(self.images)} images, but {len(self.targets)} targets; each image needs one")
        low, high = (int(x) for x in self.targets.aminmax()) if len(self) else (0, -1)
        if low < 0 or (self.classes and high >= len(self.classes)):
            label, top = (low, "") if low < 0 else (high, f" and at most {len(self.classes) - 1}")
            raise ValueError(f"targets hold the label {label!r}; labels of this data are at least 0{top}")

    @property
    def inputs(self) -> Tensor:
        """All images as a model takes them: float32 in [0, 1], (N, C, H, W); four times the memory of `images`."""
        return _as_float(self.images)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples *index* (B,) as one batch: float32 images in [0, 1] (B, C, H, W), int64 labels (B,).

        >>> inputs, targets = Images(torch.full((3, 28, 28), 255, dtype=torch.uint8), [0, 1, 1]).batch(torch.arange(2))
        >>> inputs.shape, inputs.max(), targets
        (torch.Size([2, 1, 28, 28]), tensor(1.), tensor([0, 1]))
        """
        index = index.to(self.images.device)
        return _as_float(self.images.index_select(0, index)), self.targets.index_select(0, index)

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...
    @overload
    def __getitem__(self, index: slice | Array | Sequence[int] | Sequence[bool]) -> Images: ...
    def __getitem__(self, index: Any) -> tuple[Tensor, int] | Images:
        if hasattr(index, "__index__") and getattr(index, "ndim", 0) == 0:
            i = operator.index(index)
            if not -len(self) <= i < len(self):
                raise IndexError(f"index {i!r} is out of range for {len(self)} images")
            return _as_float(self.images[i]), int(self.targets[i])
        if not isinstance(index, slice) or (index.step or 1) < 0:  # other slices stay views of the same memory
            index = self._positions(index)
        return Images(self.images[index], self.targets[index], self.classes, name=self.name)

    def _positions(self, index: slice | Array | Sequence[int] | Sequence[bool]) -> Tensor:
        if isinstance(index, slice):
            return torch.tensor(range(len(self))[index], dtype=torch.int64)
        if not isinstance(index, (Tensor, np.ndarray)) and not _is_list_of_integers(index):
            raise TypeError(f"index must be an integer, a slice, or a list or tensor of integers, got {index!r}")
        wanted = torch.as_tensor(index) if len(index) else torch.empty(0, dtype=torch.int64)
        if wanted.ndim != 1 or wanted.is_floating_point() or wanted.is_complex():
            raise TypeError(f"an index tensor must be integers or a mask, (N,), got {wanted.dtype} {_shape(wanted)}")
        if wanted.dtype == torch.bool:
            if len(wanted) != len(self):
                raise IndexError(f"a mask must be as long as the data, {len(self)}, got {len(wanted)}")
            return wanted.nonzero().squeeze(1)
        wanted = wanted.to(torch.int64)
        outside = wanted[(wanted < -len(self)) | (wanted >= len(self))]
        if len(outside):
            raise IndexError(f"index {int(outside[0])!r} is out of range for {len(self)} images")
        return wanted

    def __repr__(self) -> str:
        parts = [f"{len(self)} x {'x'.join(map(str, self.images.shape[1:]))}"]
        parts += [f"{len(self.classes)} classes"] if self.classes else []
        parts += [repr(self.name)] if self.name else []
        return f"Images({', '.join(parts)})"


def _is_list_of_integers(index: object) -> bool:
    return isinstance(index, list) and all(hasattr(i, "__index__") for i in index)


def _as_float(images: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255)  # torchvision's ToTensor, bit for bit


def _check_images(images: Array) -> Tensor:
    images = _as_tensor("images", images)
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 (0 to 255), got {images.dtype}; give others as a pair (inputs, targets)")
    if images.ndim not in {3, 4}:
        raise ValueError(f"images must have shape (N, C, H, W) or (N, H, W), got {_shape(images)}")
    if 0 in images.shape[1:]:
        raise ValueError(f"images have no pixels: their shape is {_shape(images)}")
    return images.unsqueeze(1) if images.ndim == 3 else images


def _check_targets(targets: Array | Sequence[int]) -> Tensor:
    targets = _as_tensor("targets", targets)
    if targets.shape == (0,):
        return targets.to(torch.int64)  # torch takes the numbers of an empty list for floats
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets must be integer labels, got {targets.dtype}")
    if targets.ndim != 1:
        raise ValueError(f"targets must have shape (N,), got {_shape(targets)}")
    return targets.to(torch.int64)


def _check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or not all(isinstance(c, str) for c in classes):
        raise TypeError(f"classes must be a sequence of names, got {classes!r}")
    return tuple(classes)


def _as_tensor(name: str, value: object) -> Tensor:
    if isinstance(value, np.ndarray):
        value = np.require(value, requirements=["C", "W"])  # torch shares only what it may write to
    elif not isinstance(value, (Tensor, list, tuple)):
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError) as e:
        raise TypeError(f"{name} must be numbers: {e}") from e


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return cast("tuple[int, ...]", tuple(tensor.shape))
