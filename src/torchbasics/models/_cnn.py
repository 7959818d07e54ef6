"""The convolutional network of the tutorial, and its relatives of other sizes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics._model import Model
from torchbasics._zoo import register
from torchbasics.models._inputs import check_tensor, wrong_shape

if TYPE_CHECKING:
    from collections.abc import Sequence


@register("cnn")
class CNNModel(Model):
    """A small convolutional network for images; the default is the tutorial's.

    Each block is a convolution that keeps the size, batch norm (if asked for), ReLU, and a 2x2 max-pool that halves
    it, rounding down; then a hidden layer with ReLU and dropout, and a linear layer to the logits. With the defaults
    these are the layers, the state_dict and the 54,840 parameters of the tutorial.

    Shapes: ``(N, in_channels, H, W)`` -> ``(N, num_classes)``.

    Args:
        in_channels: Channels of the images: 1 for grey, 3 for colour.
        num_classes: Logits per image.
        image_size: The side of square images, or ``(H, W)``.
        channels: Output channels of each block: one block or more.
        hidden: Width of the hidden layer.
        kernel_size: Side of the convolutions' windows; odd, so that the size can be kept.
        batch_norm: Normalise each convolution's output over the batch.
        dropout: The share of the hidden layer's values dropped in training, in [0, 1).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size is below 1, the kernel is even, or the images are too small for that many blocks.

    >>> import torch
    >>> CNNModel()(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    default_memory_format: ClassVar[str] = "channels_last"

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        *,
        image_size: int | Sequence[int] = 28,
        channels: Sequence[int] = (10, 20),
        hidden: int = 50,
        kernel_size: int = 5,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels: int = _checks.positive_int("in_channels", in_channels)
        self.num_classes: int = _checks.positive_int("num_classes", num_classes)
        if not isinstance(channels, (tuple, list)) or not channels:
            raise TypeError(f"channels must be a tuple of one width a block, such as (10, 20), got {channels!r}")
        self.channels: Sequence[int] = _checks.positive_ints("channels", channels)
        self.image_size: int | Sequence[int] = _image_size(image_size, least=2 ** len(channels))
        self.hidden: int = _checks.positive_int("hidden", hidden)
        self.kernel_size: int = _checks.positive_int("kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that convolutions keep the image size, got {kernel_size!r}")
        self.batch_norm: bool = _checks.flag("batch_norm", batch_norm)
        self.dropout: float = _checks.fraction("dropout", dropout)

        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        self._shape = (self.in_channels, height, width)
        widths = [self.in_channels, *self.channels]
        for i, (ins, outs) in enumerate(pairwise(widths), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(ins, outs, self.kernel_size, padding=self.kernel_size // 2))
            if batch_norm:
                self.add_module(f"bn{i}", nn.BatchNorm2d(outs))
            height, width = height // 2, width // 2
        self.fc1: nn.Linear = nn.Linear(widths[-1] * height * width, self.hidden)
        self.fc2: nn.Linear = nn.Linear(self.hidden, self.num_classes)

    if TYPE_CHECKING:

        def __call__(self, inputs: Tensor) -> Tensor: ...

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits: ``(N, in_channels, H, W)`` -> ``(N, num_classes)``."""
        check_tensor(inputs, self.fc1.weight)
        if inputs.ndim != 4 or inputs.shape[1:] != self._shape:
            model = f"CNNModel(in_channels={self.in_channels}, image_size={self.image_size!r})"
            raise wrong_shape(inputs, model, f"(N, {', '.join(map(str, self._shape))})")
        x = inputs
        for i in range(1, len(self.channels) + 1):
            x = getattr(self, f"conv{i}")(x)
            if self.batch_norm:
                x = getattr(self, f"bn{i}")(x)
            # Pool first: ReLU keeps the order, so outputs and gradients are the same bits, from a quarter of the work.
            x = F.relu(_max_pool(x))  # (N, C, H, W) -> (N, C, H/2, W/2)
        x = F.relu(self.fc1(x.flatten(1)))  # (N, hidden)
        return self.fc2(F.dropout(x, self.dropout, self.training))  # type: ignore[no-any-return]  # (N, num_classes)

    def example_inputs(self, n: int = 1) -> Tensor:
        """Return zeros that fit *forward*: ``(n, in_channels, H, W)``."""
        return self.fc1.weight.new_zeros(n, *self._shape)


def _max_pool(x: Tensor) -> Tensor:
    """Return the maxima of 2x2 windows. Without gradients by two maximums: the same bits, much sooner."""
    if torch.is_grad_enabled() or not x.is_cpu or torch.compiler.is_compiling():
        return F.max_pool2d(x, 2)
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    rows = torch.maximum(x[..., ::2], x[..., 1::2])
    return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _image_size(image_size: int | Sequence[int], *, least: int) -> int | Sequence[int]:
    size: int | Sequence[int]
    if isinstance(image_size, (tuple, list)):
        if len(image_size) != 2:
            raise ValueError(f"image_size must be a side or (H, W), got {image_size!r}")
        size = _checks.positive_ints("image_size", image_size)
    else:
        size = _checks.positive_int("image_size", image_size)
    if min([size] if isinstance(size, int) else size) < least:
        raise ValueError(f"image_size must be at least {least}, as every block halves it, got {image_size!r}")
    return size
