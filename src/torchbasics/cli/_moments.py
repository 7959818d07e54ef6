"""A loss that draws mean and covariance of what is made to those of what is real."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DECAY = 0.99  # of the moments of batches before, at each batch
SOLVED_EVERY = 10  # batches: an eigendecomposition takes as long as an update of a small model
ADDED = 0.003  # to the variance of each feature, on both sides: what the real ones hardly have would weigh most
CONSTANT = 1e-3  # a feature of no larger deviation is left out
LEAST = 1e-6  # of the squared distance, whose root has no gradient at 0


class MomentMatching(nn.Module):
    """Draws mean and covariance of features to those of real ones, along the gradient of their Fréchet distance.

    Features are in units of the real ones' deviation; the distance is the root of the Fréchet distance over their total
    variance. Its gradient with respect to mean and covariance is found at those of the last batches, now and then; what
    a batch has in the two carries it on.

    Shapes: ``(N, D)`` -> 0, with a gradient.

    Args:
        real: Features of real images, (M, D). Those that hardly change are left out.
        begin: How many batches are only looked at.

    References:
        Mathiasen, Hvilshøj, Backpropagating through Fréchet Inception Distance, 2020, arXiv:2009.14075.
    """

    batches: Tensor
    weight: Tensor
    mean: Tensor
    square: Tensor
    solved_at: Tensor
    linear: Tensor
    quadratic: Tensor

    def __init__(self, real: Tensor, begin: float = 0) -> None:
        super().__init__()
        self.begin = begin
        deviation = real.std(0)
        self.scale = torch.where(deviation > CONSTANT, 1 / deviation, 0.0)
        rows = (real * self.scale).double()
        covariance = _with_added(rows.T.cov(correction=0))
        values, vectors = torch.linalg.eigh(covariance)
        self.real_mean, self.total_variance = rows.mean(0), covariance.trace()
        self.real_root = vectors * values.sqrt() @ vectors.T  # of the covariance
        d = len(deviation)
        self.register_buffer("batches", torch.tensor(0))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))  # of all batches so far in the next two
        self.register_buffer("mean", torch.zeros_like(rows[0]))
        self.register_buffer("square", torch.zeros_like(covariance))
        self.register_buffer("solved_at", torch.zeros(d))  # the mean at which the gradient is
        self.register_buffer("linear", torch.zeros(d))
        self.register_buffer("quadratic", torch.zeros(d, d))

    def forward(self, made: Tensor) -> Tensor:
        """Take the features of a batch into the moments; return what draws them, and is no part of the loss' value."""
        with torch.autocast(made.device.type, enabled=False):
            x = made * self.scale
            self._take_in(x.detach().double())
            off = x - self.solved_at
            drawn = (off @ self.linear + ((off @ self.quadratic) * off).sum(1)).mean()
            return drawn - drawn.detach()

    def _take_in(self, x: Tensor) -> None:
        self.batches += 1
        self.weight += (1 - DECAY) * (1 - self.weight)
        self.mean.lerp_(x.mean(0), 1 - DECAY)
        self.square.lerp_(x.T @ x / len(x), 1 - DECAY)
        if self.batches % SOLVED_EVERY or self.batches < self.begin:
            return
        mean = self.mean / self.weight
        covariance = _with_added(self.square / self.weight - mean.outer(mean))
        values, vectors = torch.linalg.eigh(self.real_root @ covariance @ self.real_root)
        roots = values.clamp(min=ADDED**2 / 4).sqrt()  # they are at least ADDED, but for rounding
        squared = (mean - self.real_mean).square().sum() + self.total_variance + covariance.trace() - 2 * roots.sum()
        scale = 0.5 / (squared.clamp(min=LEAST) * self.total_variance).sqrt()
        transport = self.real_root @ (vectors / roots @ vectors.T) @ self.real_root
        self.solved_at.copy_(mean)
        self.linear.copy_(2 * scale * (mean - self.real_mean))
        self.quadratic.copy_(scale * (torch.eye(len(mean)) - transport))


def _with_added(covariance: Tensor) -> Tensor:
    return covariance + ADDED * torch.eye(len(covariance), dtype=covariance.dtype)
