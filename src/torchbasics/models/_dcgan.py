"""The deep convolutional GAN of Radford, Metz and Chintala."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics._model import Model, modes_kept
from torchbasics._zoo import register
from torchbasics.models._folded import folded
from torchbasics.models._inputs import check_generator, check_tensor, wrong_shape


class Generator(nn.Module):
    """Noise ``(N, latent_dim)`` -> images ``(N, out_channels, size, size)`` in [-1, 1], size being ``2**(depth + 3)``.

    Its parameters have the names of facebookresearch/pytorch_GAN_zoo, so that files from there fit.
    """

    def __init__(self, latent_dim: int, out_channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        channels = width * 2**depth
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["batchNorm0"] = nn.BatchNorm2d(channels)
        layers["relu0"] = nn.ReLU(inplace=True)
        for i in range(1, depth + 1):  # (channels, s, s) -> (channels / 2, 2s, 2s)
            layers[f"convTranspose{i}"] = nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False)
            layers[f"batchNorm{i}"] = nn.BatchNorm2d(channels // 2)
            layers[f"relu{i}"] = nn.ReLU(inplace=True)
            channels //= 2
        layers["outlayer"] = nn.ConvTranspose2d(width, out_channels, 4, 2, 1, bias=False)
        self.formatLayer: nn.ConvTranspose2d = nn.ConvTranspose2d(latent_dim, width * 2**depth, 4, bias=False)
        self.main: nn.Sequential = nn.Sequential(layers)

    if TYPE_CHECKING:

        def __call__(self, noise: Tensor) -> Tensor: ...

    def forward(self, noise: Tensor) -> Tensor:
        """Return images in [-1, 1]: ``(N, latent_dim)`` -> ``(N, out_channels, size, size)``."""
        check_tensor(noise, self.formatLayer.weight, name="noise")
        if noise.ndim != 2 or noise.shape[1] != self.latent_dim:
            raise wrong_shape(noise, f"DCGAN(latent_dim={self.latent_dim})", f"(N, {self.latent_dim})", name="noise")
        x = self.formatLayer(noise.reshape(*noise.shape, 1, 1))  # (N, width * 2**depth, 4, 4)
        return torch.tanh(self.main(x))  # (N, out_channels, size, size)


class Discriminator(nn.Module):
    """Images ``(N, channels, size, size)`` -> logits ``(N,)``, high for real; the generator's mirror image.

    The GAN zoo's names again: the convolutions are called convTranspose there, and count down.
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.shape: tuple[int, int, int] = (channels, 2 ** (depth + 3), 2 ** (depth + 3))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers[f"convTranspose{depth}"] = nn.Conv2d(channels, width, 4, 2, 1, bias=False)
        layers[f"relu{depth}"] = nn.LeakyReLU(0.2, inplace=True)
        for i in reversed(range(depth)):  # (width, 2s, 2s) -> (2 * width, s, s)
            layers[f"convTranspose{i}"] = nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False)
            layers[f"batchNorm{i}"] = nn.BatchNorm2d(2 * width)
            layers[f"relu{i}"] = nn.LeakyReLU(0.2, inplace=True)
            width *= 2
        self.main: nn.Sequential = nn.Sequential(layers)
        self.decisionLayer: nn.Conv2d = nn.Conv2d(width, 1, 4, bias=False)

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> Tensor: ...

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of being real: ``(N, channels, size, size)`` -> ``(N,)``."""
        check_tensor(images, self.decisionLayer.weight, name="images")
        if images.ndim != 4 or images.shape[1:] != self.shape:
            needs = f"(N, {', '.join(map(str, self.shape))}); preprocess makes them so"
            raise wrong_shape(images, "the discriminator", needs, name="images")
        return self.decisionLayer(self.main(images)).flatten()  # type: ignore[no-any-return]  # (N, 1, 1, 1) -> (N,)


@register("dcgan")
class DCGAN(Model):
    """A deep convolutional GAN: it learns to draw images like those it is shown.

    A generator draws images from noise, a discriminator learns to tell them from real ones. Calling the model runs the
    generator. Weights start as in the paper, normal with standard deviation 0.02.

    Shapes: ``(N, latent_dim)`` -> ``(N, out_channels, size, size)``, size being ``2**(depth + 3)``.

    Args:
        latent_dim: Values of noise that an image is made from.
        out_channels: Channels of the images: 1 for grey, 3 for colour.
        width: Channels at half the image's size; each further halving doubles them.
        depth: How often the size doubles between 8 and the image's: 2 for 32x32, 3 for 64x64.

    Raises:
        TypeError: an argument is no integer.
        ValueError: an argument is too small, or depth too large.

    References:
        A. Radford, L. Metz, S. Chintala, Unsupervised Representation Learning with Deep Convolutional Generative
        Adversarial Networks, 2016.

    >>> DCGAN().sample(4).shape
    torch.Size([4, 1, 32, 32])
    """

    default_step: ClassVar[str] = "adversarial"
    default_memory_format: ClassVar[str] = "channels_last"

    def __init__(self, latent_dim: int = 100, out_channels: int = 1, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.latent_dim: int = _checks.positive_int("latent_dim", latent_dim)
        self.out_channels: int = _checks.positive_int("out_channels", out_channels)
        self.width: int = _checks.positive_int("width", width)
        self.depth: int = _checks.positive_int("depth", depth, least=0)
        if self.depth > 20:  # 2**depth comes before any memory that could run out
            raise ValueError(f"depth must be at most 20, got {depth!r}")
        self.generator: Generator = Generator(self.latent_dim, self.out_channels, self.width, self.depth)
        self.discriminator: Discriminator = Discriminator(self.out_channels, self.width, self.depth)
        self.apply(_initialise)

    if TYPE_CHECKING:

        def __call__(self, noise: Tensor) -> Tensor: ...

    @property
    def image_size(self) -> int:
        """The side of the images."""
        return int(2 ** (self.depth + 3))

    def forward(self, noise: Tensor) -> Tensor:
        """Return the generator's images in [-1, 1]: ``(N, latent_dim)`` -> ``(N, out_channels, size, size)``."""
        return self.generator(noise)

    def noise(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw standard normal noise ``(n, latent_dim)``, where the model is and in its dtype.

        Args:
            n: How many rows, one an image.
            generator: Draws the numbers, on its own device; None is torch's global one. A seed is no generator.
        """
        weight = self.generator.formatLayer.weight
        place, shape = check_generator(generator) or weight, (_checks.positive_int("n", n), self.latent_dim)
        return torch.randn(shape, generator=generator, device=place.device, dtype=weight.dtype).to(weight.device)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None, fast: bool = False) -> Tensor:
        """Generate *n* images ``(n, out_channels, size, size)`` in [-1, 1], in eval mode and without gradients.

        Args:
            n: How many.
            generator: Draws the noise; None is torch's own.
            fast: Batch norm folded into the convolutions, channels_last: 0.6 to 0.9 of the time of 64 images or more on
                a CPU, other last bits. In ``torch.autocast("cpu", torch.bfloat16)`` 0.4 to 0.6, other by 1e-2.
        """
        with modes_kept(self.generator):
            draw = folded(self.generator) if fast else self.generator.eval()
            return draw(self.noise(n, generator=generator)).contiguous()

    def preprocess(self, images: Tensor) -> Tensor:
        """Bring images in [0, 1] of any size to the size of the model and to [-1, 1].

        Images between half the size and the size are centred on black, pixel for pixel; others are resized bilinearly.

        Shapes: ``(N, out_channels, H, W)`` -> ``(N, out_channels, size, size)``.

        Raises:
            TypeError: *images* are not of the model's floating dtype.
            ValueError: *images* have another number of channels or of dimensions.
        """
        check_tensor(images, self.generator.formatLayer.weight, name="images")
        channels = self.out_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise wrong_shape(images, f"DCGAN(out_channels={channels})", f"(N, {channels}, H, W)", name="images")
        size, (height, width) = self.image_size, images.shape[2:]
        if size / 2 < min(height, width) and max(height, width) <= size:
            left, top = (size - width) // 2, (size - height) // 2
            images = F.pad(images, (left, size - width - left, top, size - height - top))
        else:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return images * 2 - 1

    def example_inputs(self, n: int = 1) -> Tensor:
        """Return zeros that fit *forward*: ``(n, latent_dim)``."""
        return self.generator.formatLayer.weight.new_zeros(n, self.latent_dim)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
