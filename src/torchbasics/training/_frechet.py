"""How far the features of made images are from those of real ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the Fréchet distance between two sets of features, each taken for a normal distribution; 0 = alike.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``, with means *m* and covariances *C*, in float64. With features
    of Inception it is the FID. It depends on the network that gave the features, and falls a little with N.

    Shapes: ``(N, D)``, ``(M, D)`` -> a number; N and M are best several times D, and equal in what is compared.

    Args:
        features_a: What a layer gives for some images, such as those that a model made: see
            `torchbasics.models.features`.
        features_b: The same for others, such as test images.

    Raises:
        TypeError: features are no floating tensor.
        ValueError: they are not (N, D) with N of at least 2 and one D, or not finite.

    References:
        Dowson, Landau, The Fréchet Distance between Multivariate Normal Distributions, 1982.
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017,
        arXiv:1706.08500: the FID.

    >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> round(frechet_distance(features, features + 2), 6)  # the covariances are equal: |(2, 2)|^2
    8.0
    """
    mean_a, covariance_a = _moments("features_a", features_a)
    mean_b, covariance_b = _moments("features_b", features_b)
    if len(mean_a) != len(mean_b):
        raise ValueError(f"features have {len(mean_a)} and {len(mean_b)} values a sample; one layer gives both")
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # (C_a C_b)^(1/2) has the trace of (C_a^(1/2) C_b C_a^(1/2))^(1/2), which is symmetric.
    common = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * common
    return max(float(distance), 0.0)  # rounding


def _moments(name: str, features: Any) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D)."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = str(features.dtype) if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{name} must be a floating tensor, got {kind}")
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(f"{name} have shape {tuple(features.shape)}, but (N, D) with N of at least 2 is needed")
    rows = features.detach().cpu().double()
    if not rows.isfinite().all():
        sample = int((~rows.isfinite()).nonzero()[0, 0])
        raise ValueError(f"{name} hold a value that is not finite, first in sample {sample}")
    return rows.mean(0), rows.T.cov().reshape(rows.shape[1], -1)
