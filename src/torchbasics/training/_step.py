"""The base of all steps: a model, its optimizers, and how a loss becomes an update."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchbasics import _parts
from torchbasics._recipe import Recipe
from torchbasics._world import ALONE, World
from torchbasics.data._batch import Batch, Inputs
from torchbasics.training._finite import Late, NonFiniteError, check_gradients, check_parts, finite
from torchbasics.training._optim import make_optimizer, make_schedule, run_backward, step

LEAST_SCALE = 2.0**-14  # float16's least normal number: a gradient that overflows with this is not finite by itself


class Result(NamedTuple):
    """What one batch gave.

    >>> Result({"loss": 0.7}, weight=32).losses["loss"]
    0.7
    """

    losses: Mapping[str, float | Tensor]  # "loss" first; each a mean over the batch, a float where that costs no wait
    weight: float  # of the losses in a mean over batches
    outputs: Tensor | None = None  # for metrics
    targets: Tensor | None = None


class Step(ABC):
    """One update, and the optimizers that it owns.

    `fit` calls `bind`, `start`, then `update` for each batch; `evaluate` calls `bind` and the step's own `evaluate`.
    One of your own, or a subclass of `Supervised` or `Adversarial`, is given to ``fit(step=...)``.

    >>> class Reconstruct(Step):
    ...     def start(self, steps):
    ...         self.optimizer = self.add_optimizer(self.model.parameters(), steps)
    ...     def evaluate(self, batch):
    ...         return Result({"loss": self.difference(batch)}, batch.size)
    ...     def update(self, batch):
    ...         self.optimizer.zero_grad()
    ...         loss = self.backward(self.difference(batch))
    ...         self.apply(self.optimizer)
    ...         return Result({"loss": loss}, batch.size)
    ...     def difference(self, batch):
    ...         return (self.model(batch.inputs) - batch.inputs).square().mean()
    >>> from torchbasics import training
    >>> x = torch.rand(64, 8)
    >>> history = training.fit(nn.Linear(8, 8), x, epochs=9, step=Reconstruct(), lr=0.1, progress=False)
    >>> history[-1]["loss"] < history[0]["loss"]
    True
    """

    defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "lr": 1e-2, "schedule": "onecycle"}
    """What a recipe gets that names neither optimizer, lr nor schedule: the best peak for the zoo's classifiers."""

    calls_model: ClassVar[bool] = True
    """Whether the model is called; else only parts of it are."""

    model: nn.Module
    recipe: Recipe
    world: World = ALONE
    """The processes whose gradients are added up before an update."""
    share: float = 1.0
    """What the gradient of this process's batch counts in that sum: its part of the samples."""
    averaged: bool = False
    """Whether the model itself, by a wrapper of torch's, takes the mean of the gradients in `backward`."""
    sharded: bool = False
    """Whether each process has a part of the parameters; then all run the model at the same time."""

    def bind(self, model: nn.Module, recipe: Recipe) -> None:
        """Take the model that is to be run."""
        self.model = model
        self.recipe = recipe
        self.world, self.share, self.averaged, self.sharded = ALONE, 1.0, False, False
        self.optimizers: list[Optimizer] = []
        self.schedules: list[LRScheduler] = []
        self.device: str = next((p.device.type for p in model.parameters()), "cpu")
        self.scaler: torch.amp.GradScaler = torch.amp.GradScaler(self.device, enabled=recipe.precision == "float16")
        low = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        self.dtype: torch.dtype | None = low.get(recipe.precision)
        self.late: Late | None = None
        self._unseen: list[Tensor] = []  # losses on a device that nobody has looked at
        self.failure: str | None = None  # of a loss that is not finite here, which all processes are to see

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

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work as a single process meanwhile, on this one's own batch."""
        world, self.world = self.world, ALONE
        try:
            yield
        finally:
            self.world = world

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
        if self.world.size > 1:
            value, loss = self._shared(loss)
        elif loss.is_cpu:
            value = finite(loss)
        else:  # pragma: no cover  # CUDA
            value = loss.detach()
            self._unseen.append(value)
        run_backward(self.scaler.scale(loss) if self.scaler.is_enabled() else loss)
        return value

    def apply(self, optimizer: Optimizer) -> None:
        """Clip the gradient and update.

        Raises:
            NonFiniteError: the gradient is not finite; nothing was updated. Under float16 the scaler leaves out the
                update instead, and lowers its scale, as long as there is one to lower.
        """
        norm = None
        if self.world.size > 1 and not self.averaged:
            add_up_gradients(optimizer, self.world)
        if self.recipe.clip_norm is not None:
            self.scaler.unscale_(optimizer)
            held = [p for group in optimizer.param_groups for p in group["params"]]
            norm = _parts.whole(nn.utils.clip_grad_norm_(held, self.recipe.clip_norm))
        losses, self._unseen = self._unseen, []
        if self.scaler.is_enabled():
            self._check_losses(losses)
            if self.scaler.get_scale() < LEAST_SCALE:  # on a device the loss has been waited for
                check_gradients(optimizer, norm, [])
            self.scaler.step(optimizer)
            optimizer._opt_called = True  # type: ignore[attr-defined]  # torch has no public name; leaving one out is meant
        elif self.late is not None:
            self.late.look(optimizer, losses)
            try:
                step(optimizer)
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]  # or one's own would not step again after an error
        else:
            self._check(optimizer, norm, losses)
            step(optimizer)
        if self.dtype is not None:
            torch.clear_autocast_cache()  # inside an autocast of the caller's, torch would go on with the old weights

    def _check(self, optimizer: Optimizer, norm: Tensor | None, losses: list[Tensor]) -> None:
        try:
            if self.sharded:
                check_parts(optimizer, norm, self.world)
            else:
                check_gradients(optimizer, norm, losses)
        except NonFiniteError as e:
            raise NonFiniteError(self.failure or str(e)) from None

    def _check_losses(self, losses: list[Tensor]) -> None:
        """Raise in all processes where a loss is not finite in one: the scaler would take it for an overflow."""
        for loss in losses:  # pragma: no cover  # CUDA
            if not loss.isfinite():
                self.failure = self.failure or f"the loss is {loss.item()}"
        failed = self.failure is not None
        if failed if self.world.size == 1 else self.world.largest([failed])[0]:
            raise NonFiniteError(self.failure or "the loss of another process is not finite")

    def _shared(self, loss: Tensor) -> tuple[float | Tensor, Tensor]:
        """Return the value of the loss, and the loss as it counts among those of all processes.

        One that is not finite makes all gradients so: then all processes stop at this step.
        """
        value: float | Tensor = number_of(loss)
        if not self.share:  # of a batch that does not count
            return 0.0, loss.nan_to_num() * 0.0
        if isinstance(value, float) and not math.isfinite(value):
            self.failure = f"the loss is {value}"
        if isinstance(value, Tensor) and self.scaler.is_enabled():
            self._unseen.append(value)  # pragma: no cover  # CUDA
        finite_here = loss.detach().isfinite()  # on a device nobody waits for it
        return value, loss * self.share * torch.where(finite_here, 1.0, float("nan"))


def add_up_gradients(optimizer: Optimizer, world: World) -> None:
    """Replace the gradients by their sums over the processes; what has got none in any of them has none.

    Raises:
        TypeError: a gradient is sparse.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
    if not grads:
        return
    if any(grad.is_sparse for grad in grads):
        raise TypeError(
            "sparse gradients are added up by DistributedDataParallel alone; wrap the model in it and give "
            "strategy=None, or make the embedding with sparse=False"
        )
    missing = [i for i, p in enumerate(trained) if p.grad is None]
    given = grads[0].new_ones(len(grads))  # by how many processes
    for i in missing:
        given[i] = 0
    world.add_up([*grads, given])
    counts = given.tolist() if missing else []  # else nobody waits for a device
    for i in missing:
        trained[i].grad = grads[i] if counts[i] else None


def call(forward: Callable[..., Any], inputs: Inputs) -> Any:
    """Run *forward* on a tensor, a tuple (positional arguments) or a dict (keyword arguments)."""
    if isinstance(inputs, Tensor):
        return forward(inputs)
    return forward(**inputs) if isinstance(inputs, dict) else forward(*inputs)


def number_of(loss: Tensor) -> float | Tensor:
    """Return the loss as a number, but without waiting for a GPU."""
    return loss.item() if loss.is_cpu else loss.detach()
