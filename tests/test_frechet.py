"""The Fréchet distance between sets of features, and of what a model draws."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from torchbasics import data, io, models
from torchbasics.cli import _frechet, main
from torchbasics.training import frechet_distance

if TYPE_CHECKING:
    from pathlib import Path


def normal(n: int, mean: list[float], spread: list[list[float]], seed: int = 0) -> Tensor:
    """Return *n* rows of exactly this mean and of the covariance ``spread @ spread.T``."""
    rows = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows -= rows.mean(0)
    white: Tensor = rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T.cov()).T)
    return white @ torch.tensor(spread, dtype=torch.float64).T + torch.tensor(mean, dtype=torch.float64)


def test_a_set_is_at_no_distance_from_itself() -> None:
    """Also where a feature is dead, as after a ReLU."""
    features = torch.randn(300, 20).relu()
    features[:, 3] = 0

    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-6)  # the root of float64's rounding


def test_the_distance_of_independent_features_is_that_of_the_paper() -> None:
    """With diagonal covariances it is |m_a - m_b|^2 plus the squares of the differences of the deviations."""
    a = normal(500, [0.0, 1.0, 2.0], [[1.0, 0, 0], [0, 2.0, 0], [0, 0, 0.5]])
    b = normal(400, [1.0, 1.0, 0.0], [[3.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0]], seed=1)

    assert frechet_distance(a, b) == pytest.approx(1 + 0 + 4 + (2**2 + 0 + 0.5**2), rel=1e-9)


def test_covariances_that_do_not_commute_have_the_trace_of_their_root() -> None:
    """Against the eigenvalues of the product itself, which is not symmetric."""
    first, second = [[1.0, 0.0], [0.8, 0.6]], [[2.0, 0.0], [-1.5, 0.5]]
    a, b = normal(300, [0.0, 0.0], first), normal(300, [0.0, 3.0], second, seed=1)
    c, d = a.T.cov(), b.T.cov()
    roots = torch.linalg.eigvals(c @ d).real.sqrt().sum()

    expected = float(9 + c.trace() + d.trace() - 2 * roots)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert abs(expected - float(9 + (c.diag().sqrt() - d.diag().sqrt()).square().sum())) > 0.1  # not the easy case


def test_one_feature_is_enough() -> None:
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]])) == pytest.approx(25)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.zeros(5, 4), ValueError, "features have 3 and 4 values a sample; one layer gives both"),
        (torch.zeros(5), ValueError, r"features_b have shape \(5,\), but \(N, D\) with N of at least 2 is needed"),
        (torch.zeros(1, 3), ValueError, r"features_b have shape \(1, 3\), but \(N, D\) with N of at least 2"),
        (torch.zeros(5, 0), ValueError, r"features_b have shape \(5, 0\), but"),
        (torch.zeros(5, 3, 2, 2), ValueError, r"features_b have shape \(5, 3, 2, 2\), but"),
        (torch.zeros(5, 3, dtype=torch.int64), TypeError, r"features_b must be a floating tensor, got torch\.int64"),
        ([[0.0]], TypeError, "features_b must be a floating tensor, got list"),
        (torch.tensor([[0.0] * 3, [1, float("nan"), 1]]), ValueError, "not finite, first in sample 1"),
        (torch.tensor([[float("inf")] * 3, [0.0] * 3]), ValueError, "not finite, first in sample 0"),
    ],
    ids=["widths", "vector", "one", "none", "images", "integers", "list", "nan", "inf"],
)
def test_what_has_no_distance_is_refused(features: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        frechet_distance(torch.zeros(5, 3), features)


# What a model draws


class Copies(nn.Module):
    """Draws the packaged training images, as a perfect model would, or noise."""

    def __init__(self, *, side: int = 32, noise: bool = False) -> None:
        super().__init__()
        self.side, self.noise = side, noise

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        train, _ = data.fashion_mnist_mini()
        if self.noise:
            return torch.rand(n, 1, self.side, self.side, generator=generator) * 2 - 1
        images = train.inputs[torch.randint(len(train), (n,), generator=generator)]
        border = (self.side - 28) // 2
        return nn.functional.pad(images, (border,) * 4) * 2 - 1


def test_drawn_images_are_those_without_the_border() -> None:
    """The 28x28 that the model was shown, bit for bit but for the rounding of [-1, 1]."""
    train, _ = data.fashion_mnist_mini()
    chosen = torch.randint(len(train), (7,), generator=torch.Generator().manual_seed(3))

    torch.testing.assert_close(_frechet.drawn(Copies(), 7, seed=3), train.inputs[chosen], rtol=0, atol=1e-7)
    assert _frechet.drawn(Copies(side=64, noise=True), 3, seed=0).shape == (3, 1, 28, 28)


def test_copies_are_near_and_noise_is_far() -> None:
    """Positive control: the figure of a card tells a good model from a bad one, and chance is small beside that."""
    train, test = data.fashion_mnist_mini()
    near, far = (_frechet.measured(Copies(noise=noise), train, test) for noise in (False, True))

    assert near["samples"] == len(test)
    assert near["frechet_distance"] < 2 * near["train_test"]
    assert far["frechet_distance"] > 50 * near["train_test"]
    assert near["draws"]["sd"] < near["train_test"]


def test_evaluate_tells_the_distance_of_a_model_that_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    io.save(models.DCGAN(width=2, latent_dim=8), tmp_path / "dcgan.safetensors")
    assert main(["evaluate", str(tmp_path / "dcgan.safetensors")]) == 0
    losses, distance = capsys.readouterr().out.splitlines()
    assert losses.startswith("loss ")
    assert distance.startswith("Fréchet distance ")
    assert "over 5 draws of 1,000 images (train against test: " in distance
    assert main(["evaluate", str(tmp_path / "dcgan.safetensors"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"loss", "frechet_distance", "train_test", "draws", "features"} <= report.keys()
