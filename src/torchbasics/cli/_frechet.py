"""How far the images that a model draws are from those of Fashion-MNIST, as the package's network sees them."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from torchbasics import _weights
from torchbasics.models import features, get_model
from torchbasics.training import frechet_distance, predict

if TYPE_CHECKING:
    from torchbasics.data import Images

SEES = "cnn/fashion_mnist"  # the weights that give the features
LAYER = "fc1"  # with its ReLU: what the last layer gets
SOURCES = ("fashion_mnist", "mini")  # what it has learned to see
DRAWS = 5  # of noise, to tell what of a distance is chance
BATCH_SIZE = 1000  # of drawing


def measured(model: Any, train: Images, test: Images) -> dict[str, Any]:
    """Return the Fréchet distance of what *model* draws to *test*: the mean over draws of as many images.

    Returns:
        "frechet_distance"; "draws", its values, mean and deviation over draws of noise; "train_test", the distance of
        as many training images to *test*; "samples", how many; "features", the weights that see, and their SHA-256.
    """
    expected = seen(test)
    values = [frechet_distance(seen(drawn(model, len(test), seed=seed)), expected) for seed in range(DRAWS)]
    mean, sd = round(statistics.mean(values), 4), round(statistics.stdev(values), 4)
    return {
        "frechet_distance": mean,
        "draws": {"values": [round(v, 4) for v in values], "mean": mean, "sd": sd},
        "train_test": round(frechet_distance(seen(train[: len(test)]), expected), 4),
        "samples": len(test),
        "features": {"weights": SEES, "sha256": _weights.find_named(SEES).sha256},
    }


def told(found: dict[str, Any]) -> str:
    """Return what was *measured* as a line for people."""
    return (
        f"Fréchet distance {found['frechet_distance']:.4f} ± {found['draws']['sd']:.4f} over {DRAWS} draws of "
        f"{found['samples']:,} images (train against test: {found['train_test']:.4f})"
    )


def drawn(model: Any, n: int, *, seed: int) -> Tensor:
    """Return *n* images that *model* draws: in [0, 1], without the border that `DCGAN.preprocess` puts around 28x28."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [min(BATCH_SIZE, n - start) for start in range(0, n, BATCH_SIZE)]
    images = torch.cat([model.sample(size, generator=generator) for size in sizes])  # (n, 1, S, S) in [-1, 1]
    side, wanted = images.shape[-1], _weights.find_named(SEES).input_shape[-1]
    images = ((images + 1) / 2).clamp(0, 1)
    if wanted <= side < 2 * wanted:
        start = (side - wanted) // 2
        return images[..., start : start + wanted, start : start + wanted].contiguous()
    return functional.interpolate(images, (wanted, wanted), mode="bilinear", antialias=True)


def seen(images: Images | Tensor) -> Tensor:
    """Return what the last layer of the package's network gets for *images*: (N, 50)."""
    card = _weights.find_named(SEES)
    return predict(features(get_model(card.model, weights=card.name), LAYER), images).relu()
