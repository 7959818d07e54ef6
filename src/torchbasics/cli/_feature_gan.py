"""How the package's GAN learns: what it draws is seen through a trained classifier, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics.cli._moments import MomentMatching
from torchbasics.training._adversarial import Adversarial, bce

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchbasics.data import Images

HEAD_WIDTH = 64  # of each small discriminator
MATCHING_WEIGHT = 20.0  # of the matching of moments beside the discriminators
MATCHED_FROM = 0.5  # of the updates on: before, at a high learning rate, images got worse with it


class FeatureDiscriminators(nn.Module):
    """A discriminator of pixels, and one of what each layer of a classifier but the last gives for the images.

    A generator learns faster from these than from the pixels' alone, since the classifier, which stays as it is, knows
    what matters. Other than in the paper, layers are not mixed by random projections, the loss is that of DCGAN, images
    are not augmented, and the pixels have their say.

    Shapes: ``(N, 1, size, size)`` in [-1, 1], of which the classifier sees the middle in [0, 1] -> logits ``(K * N,)``
    of K discriminators, high for real.

    Args:
        plain: The discriminator of the pixels.
        classifier: A `CNNModel` without batch norm. It is frozen.
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
        with torch.no_grad():
            seen = self.seen(frozen.example_inputs())
        self.heads = nn.ModuleList([(_of_maps if x.ndim == 4 else _of_vectors)(x.shape[1]) for x in seen])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of being real."""
        return self.tell(images, self.seen(images))

    def tell(self, images: Tensor, seen: list[Tensor]) -> Tensor:
        """Return the logits of being real, for images and what was *seen* in them."""
        of_layers = [head(x).flatten(1).mean(1) for head, x in zip(self.heads, seen, strict=True)]
        return torch.cat([*of_layers, self.plain(images)])

    def seen(self, images: Tensor) -> list[Tensor]:
        """Return what each layer but the last gives for *images*: (N, C, H, W), or (N, C) of one pixel or of none."""
        start = (images.shape[-1] - self.image_size) // 2
        stop = start + self.image_size
        x = (images[..., start:stop, start:stop] + 1) / 2
        classifier = self.classifier[0]
        seen = []
        for i in range(1, len(classifier.channels) + 1):
            x = functional.relu(functional.max_pool2d(classifier.get_submodule(f"conv{i}")(x), 2))
            # On one pixel a strided convolution has wrong gradients in bfloat16 on the CPU (torch 2.14).
            seen.append(x if x.shape[2:].numel() > 1 else x.flatten(1))
        return [*seen, functional.relu(classifier.fc1(x.flatten(1)))]

    @torch.no_grad()
    def features(self, model: Any, images: Images) -> Tensor:
        """Return the `flat` features (N, D) of *images*, as *model* takes them, in float32."""
        parts = torch.split(torch.arange(len(images)), 1000)
        return torch.cat([flat(self.seen(model.preprocess(images.batch(part)[0]))) for part in parts])


class FeatureAdversarial(Adversarial):
    """Adversarial learning with `FeatureDiscriminators`, and with `MomentMatching` in the second half of the updates.

    Args:
        real: Features of real images, (N, D): `FeatureDiscriminators.features`.
    """

    def __init__(self, real: Tensor) -> None:
        self.matching = MomentMatching(real)

    def start(self, steps: int | None) -> None:
        """Make the optimizers."""
        super().start(steps)
        self.matching.begin = MATCHED_FROM * (steps or 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizers and of the matching."""
        return {**super().state_dict(), "matching": self.matching.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        super().load_state_dict(state)
        self.matching.load_state_dict(state["matching"])

    def _fool(self, made: Tensor) -> Tensor:
        discriminator: Any = self.model.discriminator  # the module: what is seen is needed twice
        seen = discriminator.seen(made)
        loss = bce(discriminator.tell(made, seen), 1.0)
        if torch.is_grad_enabled():  # it learns, and is not measured
            loss = loss + MATCHING_WEIGHT * self.matching(flat(seen))
        return loss


def flat(seen: list[Tensor]) -> Tensor:
    """Return what was seen as (N, D): of maps their mean."""
    return torch.cat([x.flatten(2).mean(2, dtype=torch.float32) if x.ndim == 4 else x.float() for x in seen], 1)


def _of_maps(width: int) -> nn.Sequential:
    first = nn.Conv2d(width, HEAD_WIDTH, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(HEAD_WIDTH), nn.LeakyReLU(0.2), nn.Conv2d(HEAD_WIDTH, 1, 3, padding=1))


def _of_vectors(width: int) -> nn.Sequential:
    first = nn.Linear(width, HEAD_WIDTH, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(HEAD_WIDTH), nn.LeakyReLU(0.2), nn.Linear(HEAD_WIDTH, 1))
