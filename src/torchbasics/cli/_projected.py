"""How the package's GAN learns: what it draws is seen through a trained classifier, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics.training._adversarial import Adversarial, bce

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchbasics.data import Images

WIDTH = 64  # of each small discriminator
WEIGHT = 10.0  # of the pull beside the discriminators
PULLED_FROM = 0.5  # of the updates on; while the learning rate is high the two disturb each other
KEPT = 0.99  # of the moments of images made before, at each update
SOLVED_EVERY = 10  # updates, for what the distance's gradient is
ADDED = 0.01  # to the variance of each feature, in those of real ones; else the gradient is that of chance


class Projected(nn.Module):
    """A discriminator of pixels, and one for what each layer of a classifier but the last sees in the images.

    A generator learns sooner of these than of the pixels' alone, since the classifier, which stays as it is, knows what
    matters. Other than in the paper, layers are not mixed by random projections, and the pixels have their say.

    Shapes: ``(N, 1, size, size)`` in [-1, 1], of which the classifier sees the middle in [0, 1] -> logits ``(M,)``,
    high for real, with M discriminators times N.

    Args:
        plain: The discriminator of the pixels.
        classifier: A `CNNModel` without batch norm.
        image_size: The side of the images that it sees.

    Raises:
        ValueError: the classifier has batch norm.

    References:
        Sauer, Chitta, Müller, Geiger, Projected GANs Converge Faster, 2021, arXiv:2111.01007.
    """

    def __init__(self, plain: nn.Module, classifier: Any, image_size: int) -> None:
        super().__init__()
        if classifier.batch_norm:
            raise ValueError("the classifier must have its batch norm in its convolutions: see without_batch_norm")
        self.plain = plain
        self.image_size = image_size
        frozen = classifier.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.classifier = (frozen,)  # in a tuple: it is no part of what learns
        self.heads = nn.ModuleList([*map(_of_maps, classifier.channels), _of_vectors(classifier.hidden)])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of being real."""
        return self.tell(images, self.seen(images))

    def tell(self, images: Tensor, seen: list[Tensor]) -> Tensor:
        """Return the logits of being real, for images and what was *seen* in them."""
        of_layers = [head(x).flatten(1).mean(1) for head, x in zip(self.heads, seen, strict=True)]
        return torch.cat([*of_layers, self.plain(images)])

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
    def features(self, model: Any, images: Images) -> Tensor:
        """Return the `_flat` features (N, D) of *images*, as *model* takes them."""
        parts = torch.split(torch.arange(len(images)), 1000)
        return torch.cat([_flat(self.seen(model.preprocess(images.batch(part)[0]))) for part in parts])


class Pulled(Adversarial):
    """Adversarial learning with `Projected`, and with a `Pull` in the second half of the updates.

    Args:
        real: Features of real images, (N, D): `Projected.features`.
    """

    def __init__(self, real: Tensor) -> None:
        self.pull = Pull(real)

    def start(self, steps: int | None) -> None:
        """Make the optimizers."""
        super().start(steps)
        self.pull.begin = PULLED_FROM * (steps or 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizers and of the pull."""
        return {**super().state_dict(), "pull": self.pull.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        super().load_state_dict(state)
        self.pull.load_state_dict(state["pull"])

    def _fool(self, made: Tensor) -> Tensor:
        discriminator: Any = self.model.discriminator
        seen = discriminator.seen(made)
        loss = bce(discriminator.tell(made, seen), 1.0)
        if torch.is_grad_enabled():  # it learns, and is not measured
            loss = loss + WEIGHT * self.pull(_flat(seen))
        return loss


class Pull(nn.Module):
    """Draws the moments of what is made to those of what is real, along the gradient of their Fréchet distance.

    The distance is a root, each feature and it in units of the real ones' deviation. The gradient with respect to mean
    and covariance is that at those of the last batches; what the batch itself has in them carries it on.

    Shapes: ``(N, D)`` -> 0, with a gradient.

    Args:
        real: Features of real images, (M, D). Those that never change are left out.
        begin: How many batches are only looked at.

    References:
        Mathiasen, Hvilshøj, Backpropagating through Fréchet Inception Distance, 2020, arXiv:2009.14075.
    """

    scale: Tensor
    mean: Tensor
    root: Tensor
    variance: Tensor
    batches: Tensor
    taken: Tensor
    made_mean: Tensor
    made_square: Tensor
    middle: Tensor
    linear: Tensor
    quadratic: Tensor

    def __init__(self, real: Tensor, begin: float = 0) -> None:
        super().__init__()
        self.begin = begin
        deviation = real.std(0)
        scale = torch.where(deviation > 1e-3, 1 / deviation, 0.0)
        rows = (real * scale).double()
        covariance = _with_added(rows.T.cov(correction=0))
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.sqrt() @ vectors.T
        known = {"scale": scale, "mean": rows.mean(0), "variance": covariance.trace(), "root": root}
        for name, tensor in known.items():
            self.register_buffer(name, tensor, persistent=False)
        d = len(scale)
        learned = {"batches": torch.tensor(0), "taken": torch.zeros((), dtype=torch.float64)}  # and of what is made:
        learned |= {"made_mean": torch.zeros_like(rows[0]), "made_square": torch.zeros_like(covariance)}
        learned |= {"middle": torch.zeros(d), "linear": torch.zeros(d), "quadratic": torch.zeros(d, d)}  # the gradient
        for name, tensor in learned.items():
            self.register_buffer(name, tensor)

    def forward(self, made: Tensor) -> Tensor:
        """Take the features of a batch into the moments; return what draws them, and is no part of the loss' value."""
        with torch.autocast(made.device.type, enabled=False):
            x = made * self.scale
            self._take_in(x.detach().double())
            off = x - self.middle
            drawn = (off @ self.linear + ((off @ self.quadratic) * off).sum(1)).mean()
            return drawn - drawn.detach()

    def _take_in(self, x: Tensor) -> None:
        """Take a batch in, and at times find the distance's gradient with respect to mean and covariance."""
        self.batches += 1
        self.taken += (1 - KEPT) * (1 - self.taken)
        self.made_mean.lerp_(x.mean(0), 1 - KEPT)
        self.made_square.lerp_(x.T @ x / len(x), 1 - KEPT)
        if self.batches % SOLVED_EVERY or self.batches < self.begin:
            return
        mean = self.made_mean / self.taken
        covariance = _with_added(self.made_square / self.taken - mean.outer(mean))
        values, vectors = torch.linalg.eigh(self.root @ covariance @ self.root)
        deviations = values.clamp(min=ADDED**2 / 4).sqrt()  # at least ADDED, but for what was rounded off
        square = (mean - self.mean).square().sum() + self.variance + covariance.trace() - 2 * deviations.sum()
        scale = 0.5 / (square.clamp(min=1e-6) * self.variance).sqrt()
        transport = self.root @ (vectors / deviations @ vectors.T) @ self.root
        self.middle.copy_(mean)
        self.linear.copy_(2 * scale * (mean - self.mean))
        self.quadratic.copy_(scale * (torch.eye(len(mean)) - transport))


def _flat(seen: list[Tensor]) -> Tensor:
    """Return what was seen as (N, D): of maps their mean."""
    return torch.cat([x.flatten(2).mean(2, dtype=torch.float32) if x.ndim == 4 else x.float() for x in seen], 1)


def _with_added(covariance: Tensor) -> Tensor:
    return covariance + ADDED * torch.eye(len(covariance), dtype=covariance.dtype)


def _of_maps(width: int) -> nn.Sequential:
    first = nn.Conv2d(width, WIDTH, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(WIDTH), nn.LeakyReLU(0.2), nn.Conv2d(WIDTH, 1, 3, padding=1))


def _of_vectors(width: int) -> nn.Sequential:
    first = nn.Linear(width, WIDTH, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1))
