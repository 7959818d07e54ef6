"""Adversarial learning: a generator and a discriminator, each with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchbasics._recipe import Recipe
from torchbasics.data._batch import Batch
from torchbasics.training._optim import clear_gradients
from torchbasics.training._step import Result, Step, number_of


class Adversarial(Step):
    """A generator learns to make what a discriminator takes for real, and the discriminator learns to tell.

    The model has ``generator``, ``discriminator`` (images -> logits), ``noise(n)`` and, if inputs need a change first,
    ``preprocess(inputs)``. Each update is one of the discriminator, on a batch of real and one of made images, and one
    of the generator with the non-saturating loss. Targets are not used.

    References:
        Goodfellow et al., Generative Adversarial Nets, 2014, arXiv:1406.2661.
        Radford, Metz, Chintala, Unsupervised Representation Learning with DCGANs, 2016, arXiv:1511.06434: the defaults.

    >>> from torchbasics import models, training
    >>> gan = models.DCGAN(latent_dim=8, width=4, depth=1)
    >>> history = training.fit(gan, torch.rand(4, 1, 16, 16), epochs=1, step="adversarial", progress=False)
    >>> history.columns
    ['loss', 'generator_loss', 'discriminator_loss', 'seconds']
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "optimizer": ("adam", {"betas": (0.5, 0.999)}),
        "lr": 2e-4,
        "schedule": "constant",
    }

    calls_model = False

    def bind(self, model: nn.Module, recipe: Recipe) -> None:
        """Take the model, and see that it has the four parts."""
        for name in ("generator", "discriminator", "noise"):
            if not hasattr(model, name):
                raise TypeError(
                    f"adversarial training needs a model with {name!r}, like DCGAN; got {type(model).__name__}"
                )
        if isinstance(recipe.optimizer, Optimizer) or isinstance(recipe.schedule, LRScheduler):
            raise TypeError("adversarial training makes two optimizers; give a name or a factory, not an instance")
        if recipe.accumulate != 1:
            raise ValueError(
                f"adversarial training takes its batches whole; accumulate must be 1, got {recipe.accumulate!r}"
            )
        super().bind(model, recipe)
        wrap: Callable[..., Any] = torch.compile if recipe.compile else lambda module: module
        self.generator: Callable[[Tensor], Tensor] = wrap(model.generator)
        self.discriminator: Callable[[Tensor], Tensor] = wrap(model.discriminator)
        self.preprocess: Callable[[Any], Tensor] = getattr(model, "preprocess", lambda inputs: inputs)
        self.noise: Callable[[int], Tensor] = model.noise  # type: ignore[assignment]  # a method

    def start(self, steps: int | None) -> None:
        """Make the two optimizers."""
        self.of_generator: Optimizer = self.add_optimizer(self.model.generator.parameters(), steps)  # type: ignore[union-attr]
        self.judged: list[nn.Parameter] = list(self.model.discriminator.parameters())  # type: ignore[union-attr]
        self.of_discriminator: Optimizer = self.add_optimizer(self.judged, steps)

    def update(self, batch: Batch) -> Result:
        """Update the discriminator, then the generator."""
        with self.autocast():
            real = self.preprocess(batch.inputs)
            made = self.generator(self.noise(batch.size))
            told_apart = self._tell_apart(real, made.detach())
        clear_gradients(self.of_discriminator)
        judged = self.backward(told_apart)
        self.apply(self.of_discriminator)
        for parameter in self.judged:  # the generator's gradient does not need theirs
            parameter.requires_grad_(False)
        try:
            with self.autocast():
                fooled = self._fool(made)
            clear_gradients(self.of_generator)
            made_up = self.backward(fooled)
            self.apply(self.of_generator)
        finally:
            for parameter in self.judged:
                parameter.requires_grad_(True)
        self.scaler.update()
        for schedule in self.schedules:
            schedule.step()
        return _result(made_up, judged, batch.size)

    def evaluate(self, batch: Batch) -> Result:
        """Measure both losses, with new noise."""
        with self.autocast():
            made = self.generator(self.noise(batch.size))
            judged = self._tell_apart(self.preprocess(batch.inputs), made)
            made_up = self._fool(made)
        return _result(number_of(made_up), number_of(judged), batch.size)

    def _tell_apart(self, real: Tensor, made: Tensor) -> Tensor:
        is_real, is_made = self.discriminator(real), self.discriminator(made)
        return bce(is_real, 1.0) + bce(is_made, 0.0)

    def _fool(self, made: Tensor) -> Tensor:
        return bce(self.discriminator(made), 1.0)


def _result(generator: Any, discriminator: Any, size: int) -> Result:
    losses = {
        "loss": generator + discriminator,
        "generator_loss": generator,
        "discriminator_loss": discriminator,
    }
    return Result(losses, size)


def bce(logits: Tensor, target: float) -> Tensor:
    """Return the mean binary cross-entropy of *logits* to one target for all."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
