"""How the package's GAN learns: what it draws is seen through a trained classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics.training._adversarial import Adversarial, bce

if TYPE_CHECKING:
    from torchbasics.data import Images

WIDTH = 64  # of each small discriminator
WEIGHT = 10.0  # of the pull beside the discriminators
PULLED_FROM = 0.5  # of the updates on; while the learning rate is high the two only disturb each other
PLAIN_EVERY = 4  # updates, one in which the discriminator of the pixels learns
KEPT = 0.99  # of the moments of images made before, at each update
SOLVED_EVERY = 10  # updates, for what the distance's gradient is
ROUNDING = 1e-3  # of the largest deviation, for those that are none


class Projected(nn.Module):
    """Discriminators of what a classifier sees in images, one for each of its layers but the last.

    A generator learns of them sooner than of one that looks at the pixels, since the classifier, which stays as it is,
    knows already what matters. The pixels' own discriminator, `plain`, is no part of what this returns.

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
        frozen = classifier.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.classifier = (frozen,)  # in a tuple: it is no part of what learns
        self.heads = nn.ModuleList([*map(_of_maps, classifier.channels), _of_vectors(classifier.hidden)])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of being real."""
        return self.judge(self.seen(images))

    def judge(self, seen: list[Tensor]) -> Tensor:
        """Return the logits of being real, for what was *seen*."""
        return torch.cat([head(x).flatten(1).mean(1) for head, x in zip(self.heads, seen, strict=True)])

    def seen(self, images: Tensor) -> list[Tensor]:
        """Return what each layer but the last makes of *images*: (N, C, H, W) of convolutions, then (N, C)."""
        start = (images.shape[-1] - self.image_size) // 2
        stop = start + self.image_size
        x = (images[..., start:stop, start:stop] + 1) / 2
        classifier = self.classifier[0]
        seen = []
        for i in range(1, len(classifier.channels) + 1):
            x = functional.relu(functional.max_pool2d(classifier.get_submodule(f"conv{i}")(x), 2))
            seen.append(x)
        return [*seen, functional.relu(classifier.fc1(x.flatten(1)))]

    @torch.no_grad()
    def seen_in(self, model: Any, images: Images) -> Tensor:
        """Return the `_flat` features (N, D) of *images*, as *model* takes them."""
        parts = torch.split(torch.arange(len(images)), 1000)
        return torch.cat([_flat(self.seen(model.preprocess(images.batch(part)[0]))) for part in parts])


class Judged(Adversarial):
    """Adversarial learning with `Projected`, and with a `Pull` in the second half of the updates.

    The discriminator of the pixels learns beside it, on a part of the batches, but teaches the generator nothing.

    Args:
        real: Features of real images, (N, D): `Projected.seen_in`.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = real
        self.updates = 0

    def start(self, steps: int | None) -> None:
        """Make the optimizers, and begin to count."""
        super().start(steps)
        self.updates, self.pull = 0, Pull(self.real, PULLED_FROM * (steps or 0))

    def _tell_apart(self, real: Tensor, made: Tensor) -> Tensor:
        loss = super()._tell_apart(real, made)
        if self.updates % PLAIN_EVERY == 0:
            judges: Any = self.model.discriminator
            loss = loss + bce(judges.plain(real), 1.0) + bce(judges.plain(made), 0.0)
        return loss

    def _fool(self, made: Tensor) -> Tensor:
        judges: Any = self.model.discriminator
        seen = judges.seen(made)
        loss = bce(judges.judge(seen), 1.0)
        if torch.is_grad_enabled():  # it learns, and is not measured
            loss = loss + WEIGHT * self.pull(_flat(seen))
            self.updates += 1
        return loss


class Pull:
    """Draws the moments of what is made to those of what is real, along the gradient of their Fréchet distance.

    The distance is a root, each feature and it in units of the real ones' deviation. The gradient with respect to mean
    and covariance is that at those of the last batches; what the batch itself has in them carries it on.

    Shapes: ``(N, D)`` -> a number, of which the gradient means something.

    Args:
        real: Features of real images, (M, D).
        begin: How many batches are only looked at.

    References:
        Mathiasen, Hvilshøj, Backpropagating through Fréchet Inception Distance, 2020, arXiv:2009.14075.
    """

    def __init__(self, real: Tensor, begin: float = 0) -> None:
        self.scale = 1 / real.std(0).clamp(min=1e-3)
        rows = (real * self.scale).double()
        self.mean, covariance = rows.mean(0), rows.T.cov(correction=0)
        self.variance = covariance.trace()
        self.root = _root(covariance)
        self.made_mean, self.made_square = torch.zeros_like(self.mean), torch.zeros_like(self.root)
        self.batches, self.begin, self.taken = 0, begin, 0.0
        self.slope: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, made: Tensor) -> Tensor:
        """Take the features of a batch into the moments; return what draws them."""
        x = made * self.scale
        self._take_in(x.detach().double())
        if self.slope is None:
            return x.new_zeros(())
        mean, linear, quadratic = self.slope
        off = x - mean
        return (off @ linear + ((off @ quadratic) * off).sum(1)).mean()

    def _take_in(self, x: Tensor) -> None:
        """Take a batch in, and at times find the distance's gradient with respect to mean and covariance."""
        self.batches += 1
        self.taken += (1 - KEPT) * (1 - self.taken)
        self.made_mean.lerp_(x.mean(0), 1 - KEPT)
        self.made_square.lerp_(x.T @ x / len(x), 1 - KEPT)
        if self.batches % SOLVED_EVERY or self.batches < self.begin:
            return
        mean = self.made_mean / self.taken
        covariance = self.made_square / self.taken - mean.outer(mean)
        values, vectors = torch.linalg.eigh(self.root @ covariance @ self.root)
        deviations = values.clamp(min=0).sqrt()
        square = (mean - self.mean).square().sum() + self.variance + covariance.trace() - 2 * deviations.sum()
        scale = 0.5 / (square.clamp(min=1e-6) * self.variance).sqrt()
        inverse = vectors / (deviations + ROUNDING * deviations.max()) @ vectors.T
        transport = self.root @ inverse @ self.root
        linear, quadratic = 2 * scale * (mean - self.mean), scale * (torch.eye(len(mean)) - transport)
        self.slope = mean.float(), linear.float(), quadratic.float()


def _flat(seen: list[Tensor]) -> Tensor:
    """Return what was seen as (N, D): of maps their mean."""
    return torch.cat([x.flatten(2).mean(2).float() if x.ndim == 4 else x.float() for x in seen], 1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def _of_maps(width: int) -> nn.Sequential:
    first = nn.Conv2d(width, WIDTH, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(WIDTH), nn.LeakyReLU(0.2), nn.Conv2d(WIDTH, 1, 3, padding=1))


def _of_vectors(width: int) -> nn.Sequential:
    first = nn.Linear(width, WIDTH, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1))
