"""Discriminators that look through a classifier, and the matching of moments: how the package's GAN learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import CrashAt, CrashError
from torchbasics import data, models
from torchbasics.cli import _feature_gan, _moments
from torchbasics.cli._feature_gan import FeatureAdversarial, FeatureDiscriminators, flat
from torchbasics.cli._moments import MomentMatching
from torchbasics.training import fit, frechet_distance


def looking(name: str = "DEFAULT", **config: Any) -> Any:
    """Return a GAN whose discriminators look through a pretrained classifier, as `retrain` makes it."""
    gan: Any = models.DCGAN(**config)
    gan.discriminator = FeatureDiscriminators(gan.discriminator, models.get_model("cnn", weights=name), 28)
    return gan


def some(n: int) -> data.Images:
    """Return *n* images of the package."""
    train, _ = data.fashion_mnist_mini()
    return train[:n]


def test_what_is_looked_through_stays_as_it_is_and_all_that_look_learn() -> None:
    """The classifier is no parameter and never trains; the discriminator of the pixels learns with the others."""
    gan, images = looking(width=4), some(12)
    classifier = gan.discriminator.classifier[0]
    before, learned = copy.deepcopy(classifier.state_dict()), copy.deepcopy(gan.state_dict())

    assert gan.discriminator(gan(gan.noise(6))).shape == (6 * (len(classifier.channels) + 2),)
    step = FeatureAdversarial(gan.discriminator.features(gan, images))
    fit(gan, images, step=step, epochs=1, batch_size=6, progress=False)

    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not classifier.training
    weights = [name for name in learned if name.endswith("weight")]
    assert [name for name in weights if torch.equal(gan.state_dict()[name], learned[name])] == []
    assert not any("classifier" in name for name in learned)


def test_what_is_seen_is_what_the_classifier_sees() -> None:
    """Its last layer makes its logits of the last features, of the 28x28 in the middle, brought to [0, 1]."""
    gan, images = looking(), torch.rand(5, 1, 28, 28)
    seen = gan.discriminator.seen(gan.preprocess(images))
    classifier = models.get_model("cnn", weights="DEFAULT")

    torch.testing.assert_close(classifier.fc2(seen[-1]), classifier(images), rtol=1e-4, atol=1e-4)
    assert [x.shape[1] for x in seen] == [*classifier.channels, classifier.hidden]


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        ({"channels": (4, 6, 8), "image_size": 16}, [(4, 8, 8), (6, 4, 4), (8, 2, 2), (7,)]),
        ({"channels": (4, 6, 8, 5)}, [(4, 14, 14), (6, 7, 7), (8, 3, 3), (5,), (7,)]),
    ],
)
def test_one_pixel_is_looked_at_as_a_vector(config: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    """On it, a convolution with a stride has gradients of memory that nobody wrote, in bfloat16 on the CPU."""
    torch.manual_seed(0)
    gan: Any = models.DCGAN(width=4)
    classifier = models.CNNModel(**config, hidden=7)
    judge = FeatureDiscriminators(gan.discriminator, classifier, classifier.example_inputs().shape[-1])
    images = gan.preprocess(some(12).inputs)

    assert [tuple(x.shape[1:]) for x in judge.seen(images)] == shapes
    logits = judge(images)
    logits.square().mean().backward()
    assert logits.shape == (12 * (len(shapes) + 1),)
    assert all(p.grad is not None and p.grad.any() for p in judge.heads[len(shapes) - 2].parameters())


def test_a_classifier_with_batch_norm_is_not_looked_through() -> None:
    """What the layers give without it is something else."""
    with pytest.raises(ValueError, match="batch norm"):
        looking("fashion_mnist_wide")


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_run_that_is_killed_goes_on_with_the_moments_it_had(tmp_path: Path, *, forgetful: bool) -> None:
    """To the same bits, in the half of the matching; without the moments in the checkpoint, to others."""

    class Forgetful(FeatureAdversarial):
        def state_dict(self) -> dict[str, Any]:
            return super(FeatureAdversarial, self).state_dict()

        def load_state_dict(self, state: Any) -> None:
            super(FeatureAdversarial, self).load_state_dict(state)

    def go(folder: Path, stop: int) -> dict[str, Tensor]:
        torch.manual_seed(3)
        gan, images = looking(latent_dim=8, width=4), some(160)
        step = (Forgetful if forgetful else FeatureAdversarial)(gan.discriminator.features(gan, images))
        options: dict[str, Any] = {"epochs": 3, "batch_size": 10, "lr": 8e-3, "ema": 0.9, "precision": "bfloat16"}
        kept: dict[str, Any] = {"checkpoint": folder, "checkpoint_every": 7, "callbacks": [CrashAt(stop)]}
        fit(gan, images, step=step, seed=0, progress=False, **options, **kept)
        return dict(gan.state_dict())

    whole = go(tmp_path / "whole", 0)
    with pytest.raises(CrashError):
        go(tmp_path / "killed", 38)
    resumed = go(tmp_path / "killed", 0)

    assert all(torch.equal(resumed[name], value) for name, value in whole.items()) is not forgetful


def test_the_matching_draws_the_generator_and_is_no_part_of_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it alone, what is made comes nearer to what is real; with the other sign it goes further off."""
    real = some(600)
    monkeypatch.setattr(_feature_gan, "MATCHED_FROM", 0.0)
    monkeypatch.setattr(_feature_gan, "bce", lambda logits, _: logits.sum() * 0)

    def distances(weight: float) -> tuple[float, float]:
        monkeypatch.setattr(_feature_gan, "MATCHING_WEIGHT", weight)
        torch.manual_seed(0)
        gan = looking(width=8)
        features = gan.discriminator.features(gan, real)

        def distance() -> float:
            with torch.no_grad():
                seen = gan.discriminator.seen(gan.sample(500, generator=torch.Generator().manual_seed(1)))
            return frechet_distance(flat(seen), features)

        before = distance()
        step = FeatureAdversarial(features)
        history = fit(gan, real, step=step, epochs=6, batch_size=25, lr=1e-3, progress=False)
        assert [row["generator_loss"] for row in history] == [0] * 6
        return before, distance()

    (before, drawn), (_, pushed) = distances(10.0), distances(-10.0)
    assert drawn < 0.7 * before
    assert pushed > 1.3 * drawn


@pytest.mark.parametrize("without", ["nothing", "linear", "quadratic"])
def test_the_gradient_is_that_of_the_frechet_distance(without: str) -> None:
    """That which autograd finds for the formula, in double precision; without a part of it, another."""
    torch.manual_seed(0)
    real = torch.randn(4000, 5) @ torch.randn(5, 5)
    made = (torch.randn(4000, 5) @ torch.randn(5, 5) + 1).requires_grad_()
    matching = MomentMatching(real)
    for _ in range(_moments.SOLVED_EVERY):
        matching(made)
    if without != "nothing":
        matching.get_buffer(without).zero_()
    off = made * matching.scale - matching.solved_at
    (gradient,) = torch.autograd.grad((off @ matching.linear + ((off @ matching.quadratic) * off).sum(1)).mean(), made)

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.double() / real.double().std(0)
        return rows.mean(0), rows.T.cov(correction=0) + _moments.ADDED * torch.eye(5, dtype=torch.float64)

    (mean, covariance), (real_mean, real_covariance) = moments(made), moments(real)
    values, vectors = torch.linalg.eigh(real_covariance)
    root = vectors * values.sqrt() @ vectors.T
    between = torch.linalg.eigvalsh(root @ covariance @ root).sqrt().sum()
    squared = (mean - real_mean).square().sum() + real_covariance.trace() + covariance.trace() - 2 * between
    (expected,) = torch.autograd.grad((squared / real_covariance.trace()).sqrt(), made)

    error = float((gradient - expected).norm() / expected.norm())
    assert error < 1e-4 if without == "nothing" else error > 0.01


def test_the_moments_of_a_batch_give_the_gradient_that_is_added() -> None:
    """The value is 0, whatever the features, and the gradient is that of the moments so far."""
    torch.manual_seed(0)
    real, made = torch.randn(50, 3), torch.randn(20, 3).requires_grad_()
    matching = MomentMatching(real, begin=_moments.SOLVED_EVERY + 1)
    gradients: list[Tensor] = []
    for _ in range(2 * _moments.SOLVED_EVERY):
        drawn = matching(made)
        assert drawn.item() == 0
        gradients += torch.autograd.grad(drawn, made)

    assert not any(gradient.any() for gradient in gradients[:-1])  # it is only looked at before
    assert gradients[-1].any()


def test_a_generator_that_makes_one_image_has_a_gradient() -> None:
    """No variance at all, and features that never change, give finite numbers."""
    torch.manual_seed(0)
    real = torch.cat([torch.randn(100, 4), torch.zeros(100, 1)], 1)
    made = torch.ones(50, 5, requires_grad=True)
    matching = MomentMatching(real)
    for _ in range(_moments.SOLVED_EVERY):
        drawn = matching(made)
    (gradient,) = torch.autograd.grad(drawn, made)

    assert gradient.isfinite().all()
    assert gradient[:, :4].all()
    assert not gradient[:, 4].any()
