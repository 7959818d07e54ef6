"""What happens to one batch: supervised learning, adversarial learning, or a function of the user's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchbasics import _checks
from torchbasics._recipe import Recipe
from torchbasics.data._batches import Batch, Inputs
from torchbasics.training._finite import Late, NonFiniteError, check_gradients, finite
from torchbasics.training._losses import Loss, check_targets, counted, ignores, make_loss, weight
from torchbasics.training._optim import make_optimizer, make_schedule


class Result(NamedTuple):
    """What one batch gave."""

    losses: Mapping[str, float | Tensor]  # "loss" first; each a mean over the batch, a float where that costs no wait
    weight: float  # of the losses in a mean over batches
    outputs: Tensor | None = None  # for metrics
    targets: Tensor | None = None


class Step(ABC):
    """One update, and the optimizers that it owns.

    `fit` calls `bind`, `start`, then `update` for each batch; `evaluate` calls `bind` and the step's own `evaluate`.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "lr": 1e-2, "schedule": "onecycle"}
    """What a recipe gets that names neither optimizer, lr nor schedule: the best peak for the zoo's classifiers."""

    model: nn.Module
    recipe: Recipe

    def bind(self, model: nn.Module, recipe: Recipe) -> None:
        """Take the model that is to be run."""
        self.model = model
        self.recipe = recipe
        self.optimizers: list[Optimizer] = []
        self.schedules: list[LRScheduler] = []
        self.device = next((p.device.type for p in model.parameters()), "cpu")
        self.scaler = torch.amp.GradScaler(self.device, enabled=recipe.precision == "float16")
        self.dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(recipe.precision)
        self.late: Late | None = None
        self._unseen: list[Tensor] = []  # losses on a device that nobody has looked at

    @abstractmethod
    def start(self, steps: int | None) -> None:
        """Make the optimizers for a run of *steps* updates."""

    @abstractmethod
    def update(self, batch: Batch) -> Result:
        """Learn from a batch: one update of each optimizer."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> Result:
        """Measure on a batch, changing nothing."""

    def check(self, batch: Batch, targets: Tensor | None) -> Result:
        """Try some samples, in eval mode, before anything is changed; *targets* are all of the data's, if known.

        Raises:
            ValueError, TypeError: data and model do not fit.
        """
        return self.evaluate(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizers, schedules and scaler."""
        return {
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedules": [s.state_dict() for s in self.schedules],
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for the recipe's precision; float32 is none at all."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def add_optimizer(self, parameters: Iterable[nn.Parameter], steps: int | None) -> Optimizer:
        """Make the recipe's optimizer and schedule for *parameters*."""
        optimizer = make_optimizer(self.recipe, parameters)
        schedule = make_schedule(self.recipe, optimizer, steps)
        self.optimizers.append(optimizer)
        self.schedules += [] if schedule is None else [schedule]
        return optimizer

    def backward(self, loss: Tensor) -> float | Tensor:
        """Add the gradient of *loss*; return its value, as a float where that needs no wait for a device.

        Raises:
            NonFiniteError: it is nan or infinite; on a device, `apply` tells.
        """
        value: float | Tensor
        if loss.is_cpu:
            value = finite(loss)
        else:  # pragma: no cover  # CUDA
            value = loss.detach()
            self._unseen.append(value)
        torch.autograd.backward(self.scaler.scale(loss) if self.scaler.is_enabled() else loss)
        return value

    def apply(self, optimizer: Optimizer) -> None:
        """Clip the gradient and update.

        Raises:
            NonFiniteError: the gradient is not finite; nothing was updated. Under float16 the scaler leaves out the
                update instead, and lowers its scale.
        """
        norm = None
        if self.recipe.clip_norm is not None:
            self.scaler.unscale_(optimizer)
            held = [p for group in optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(held, self.recipe.clip_norm)
        losses, self._unseen = self._unseen, []
        if self.scaler.is_enabled():
            for loss in losses:
                finite(loss)  # pragma: no cover  # CUDA
            self.scaler.step(optimizer)
        elif self.late is not None:
            self.late.look(optimizer, losses)
            optimizer.step()
        else:
            check_gradients(optimizer, norm, losses)
            optimizer.step()
        if self.dtype is not None:
            torch.clear_autocast_cache()  # inside an autocast of the caller's, torch would go on with the old weights


_NO_TARGETS = "the data has inputs and no targets; give (inputs, targets)"


class Supervised(Step):
    """``loss(model(inputs), targets)``, averaged over the batch.

    Args:
        function: Instead of that, ``function(model, inputs, targets)`` -> the loss, or (loss, outputs for metrics).
    """

    def __init__(self, function: Callable[[nn.Module, Any, Any], Any] | None = None) -> None:
        self.function = function

    def bind(self, model: nn.Module, recipe: Recipe) -> None:
        """Take the model."""
        super().bind(model, recipe)
        self.forward: Callable[..., Any] = torch.compile(model) if recipe.compile else model
        self.loss: Loss | None = None  # made from the first targets seen
        self.looks: bool | None = None  # whether each batch's targets are compared with the outputs; None = unknown
        self.counts: bool | None = None  # whether the loss may leave out or weigh targets; None = unknown

    def start(self, steps: int | None) -> None:
        """Make the optimizer."""
        self.optimizer = self.add_optimizer(self.model.parameters(), steps)

    def update(self, batch: Batch) -> Result:
        """Update once; the batch goes through the model in ``accumulate`` parts."""
        self.optimizer.zero_grad()
        if self.recipe.accumulate == 1:
            loss, made = self._run(batch, batch.targets)
            value = self.backward(loss)
        else:
            value, made = self._accumulate(batch)
        self.apply(self.optimizer)
        self.scaler.update()
        for schedule in self.schedules:
            schedule.step()
        outputs = None if made.outputs is None else made.outputs.detach()
        return Result({"loss": self._mean(value, batch.size)}, made.weight, outputs, made.targets)

    def evaluate(self, batch: Batch) -> Result:
        """Measure the loss, and give the outputs to the metrics."""
        loss, made = self._run(batch, batch.targets)
        return made._replace(losses={"loss": self._mean(_number(loss), batch.size)})

    def check(self, batch: Batch, targets: Tensor | None) -> Result:
        """Try some samples, and look at all targets."""
        if batch.targets is None and self.function is None:
            raise ValueError(_NO_TARGETS)
        before, self.looks = self.looks, True
        loss, made = self._run(batch, batch.targets if targets is None else targets)
        if loss.numel() != 1:
            raise ValueError(f"the loss must be one number, got shape {tuple(loss.shape)}; use its mean")
        # What all the targets lie before need not be looked at again: not by step, not by batch.
        self.looks = bool(before) or targets is None
        self.counts = bool(self.counts) or targets is None or ignores(self.loss, targets)
        return made._replace(losses={"loss": loss.item()})

    def _run(self, batch: Batch, all_targets: Tensor | None) -> tuple[Tensor, Result]:
        """Return the loss, and what the metrics are to see and how the loss counts."""
        with self.autocast():
            if self.function is not None:
                made = self.function(self.model, batch.inputs, batch.targets)
                loss, outputs = made if isinstance(made, tuple) else (made, None)
                if not isinstance(loss, Tensor):
                    raise TypeError(f"step must return the loss, a tensor, or (loss, outputs), got {loss!r}")
                return loss, Result({}, batch.size, outputs, batch.targets)
            outputs = call(self.forward, batch.inputs)
            if batch.targets is None or all_targets is None:
                raise ValueError(_NO_TARGETS)
            used = self._made_loss(batch.targets)
            if self.looks is not False:
                check_targets(outputs, batch.targets, all_targets, used)
                self.looks = batch.targets.is_cpu  # on a device each look would be a wait
            loss = used(outputs, batch.targets)
        if self.counts is False or not ignores(used, batch.targets):
            return loss, Result({}, batch.size, outputs, batch.targets)
        return loss, Result({}, weight(used, batch.targets, batch.size), *counted(used, outputs, batch.targets))

    def _accumulate(self, batch: Batch) -> tuple[float | Tensor, Result]:
        """Add up the gradients of the parts, each with its share of the whole batch's mean."""
        parts = _cut(batch, self.recipe.accumulate)
        shares = [self._share(part) for part in parts]
        total, summed = sum(shares), self._sums()
        value: float | Tensor = 0.0
        seen = []
        for part, share in zip(parts, shares, strict=True):
            if share or not total:  # a part that does not count has no mean
                loss, made = self._run(part, part.targets)
                value += self.backward(loss if summed else loss * (share / (total or 1)))
                seen.append(made)
        outputs = [made.outputs.detach() for made in seen if made.outputs is not None]
        targets = [made.targets for made in seen if made.targets is not None]
        joined = [torch.cat(tensors) if tensors else None for tensors in (outputs, targets)]
        return value, Result({}, total, *joined)

    def _share(self, part: Batch) -> float:
        if self.function is not None or part.targets is None:
            return part.size
        used = self._made_loss(part.targets)
        return weight(used, part.targets, part.size) if ignores(used, part.targets) else part.size

    def _made_loss(self, targets: Tensor) -> Loss:
        if self.loss is None:
            self.loss = make_loss(self.recipe.loss, targets)
        return self.loss

    def _sums(self) -> bool:
        return getattr(self.loss, "reduction", "mean") == "sum"

    def _mean(self, value: Any, size: int) -> Any:
        return value / size if self._sums() else value


class Adversarial(Step):
    """A generator learns to make what a discriminator takes for real, and the discriminator learns to tell.

    The model has ``generator``, ``discriminator`` (images -> logits), ``noise(n)`` and, if inputs need a change first,
    ``preprocess(inputs)``. Each update is one of the discriminator, on a batch of real and one of made images, and one
    of the generator with the non-saturating loss. Targets are not used.

    References:
        Goodfellow et al., Generative Adversarial Nets, 2014, arXiv:1406.2661.
        Radford, Metz, Chintala, Unsupervised Representation Learning with DCGANs, 2016, arXiv:1511.06434: the defaults.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "optimizer": ("adam", {"betas": (0.5, 0.999)}),
        "lr": 2e-4,
        "schedule": "constant",
    }

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
        self.generator, self.discriminator = wrap(model.generator), wrap(model.discriminator)
        self.preprocess: Callable[[Any], Tensor] = getattr(model, "preprocess", lambda inputs: inputs)
        self.noise: Callable[[int], Tensor] = model.noise  # type: ignore[assignment]  # a method

    def start(self, steps: int | None) -> None:
        """Make the two optimizers."""
        self.of_generator = self.add_optimizer(self.model.generator.parameters(), steps)  # type: ignore[union-attr]
        self.judged = list(self.model.discriminator.parameters())  # type: ignore[union-attr]
        self.of_discriminator = self.add_optimizer(self.judged, steps)

    def update(self, batch: Batch) -> Result:
        """Update the discriminator, then the generator."""
        with self.autocast():
            real = self.preprocess(batch.inputs)
            made = self.generator(self.noise(batch.size))
            told_apart = self._tell_apart(real, made.detach())
        self.of_discriminator.zero_grad()
        judged = self.backward(told_apart)
        before = [p.detach().clone() for p in self.judged]
        self.apply(self.of_discriminator)
        for parameter in self.judged:  # the generator's gradient does not need theirs
            parameter.requires_grad_(False)
        try:
            with self.autocast():
                fooled = self._fool(made)
            self.of_generator.zero_grad()
            made_up = self.backward(fooled)
            self.apply(self.of_generator)
        except NonFiniteError:  # neither half of an update is applied without the other
            torch._foreach_copy_(self.judged, before)
            raise
        finally:
            for parameter in self.judged:
                parameter.requires_grad_(True)
        self.scaler.update()
        for schedule in self.schedules:
            schedule.step()
        return _adversarial_result(made_up, judged, batch.size)

    def evaluate(self, batch: Batch) -> Result:
        """Measure both losses, with new noise."""
        with self.autocast():
            made = self.generator(self.noise(batch.size))
            judged = self._tell_apart(self.preprocess(batch.inputs), made)
            made_up = self._fool(made)
        return _adversarial_result(_number(made_up), _number(judged), batch.size)

    def _tell_apart(self, real: Tensor, made: Tensor) -> Tensor:
        is_real, is_made = self.discriminator(real), self.discriminator(made)
        return _bce(is_real, 1.0) + _bce(is_made, 0.0)

    def _fool(self, made: Tensor) -> Tensor:
        return _bce(self.discriminator(made), 1.0)


STEPS: dict[str, Callable[[], Step]] = {"supervised": Supervised, "adversarial": Adversarial}


def make_step(step: object, model: nn.Module) -> Step:
    """Return the step: by name, a `Step`, or a function (model, inputs, targets) -> loss; None = the model's own.

    Raises:
        ValueError: no step has this name.
        TypeError: it is none of these.
    """
    if step is None:
        step = getattr(model, "default_step", "supervised")
    if isinstance(step, str):
        return STEPS[_checks.choice("step", step, STEPS)]()
    if isinstance(step, Step):
        return step
    if callable(step):
        return Supervised(step)
    raise TypeError(f"step must be a name, a Step or a function (model, inputs, targets) -> loss, got {step!r}")


def call(forward: Callable[..., Any], inputs: Inputs) -> Any:
    """Run *forward* on a tensor, a tuple (positional arguments) or a dict (keyword arguments)."""
    if isinstance(inputs, Tensor):
        return forward(inputs)
    return forward(**inputs) if isinstance(inputs, dict) else forward(*inputs)


def _number(loss: Tensor) -> float | Tensor:
    return loss.item() if loss.is_cpu else loss.detach()


def _adversarial_result(generator: Any, discriminator: Any, size: int) -> Result:
    losses = {
        "loss": generator + discriminator,
        "generator_loss": generator,
        "discriminator_loss": discriminator,
    }
    return Result(losses, size)


def _bce(logits: Tensor, target: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _cut(batch: Batch, parts: int) -> list[Batch]:
    def pieces(tensor: Tensor) -> tuple[Tensor, ...]:
        return torch.split(tensor, -(-batch.size // parts))

    targets = pieces(batch.targets) if batch.targets is not None else None
    inputs: list[Inputs]
    if isinstance(batch.inputs, Tensor):
        inputs = list(pieces(batch.inputs))
    elif isinstance(batch.inputs, dict):
        inputs = [
            dict(zip(batch.inputs, values, strict=True))
            for values in zip(*map(pieces, batch.inputs.values()), strict=True)
        ]
    else:
        inputs = list(zip(*map(pieces, batch.inputs), strict=True))
    sizes = [len(piece) for piece in pieces(torch.arange(batch.size))]
    return [Batch(x, None if targets is None else targets[i], sizes[i]) for i, x in enumerate(inputs)]
