"""What happens to one batch: supervised learning, or a function of the user's own; and all steps by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchbasics import _checks
from torchbasics._model import unwrapped
from torchbasics._recipe import Recipe
from torchbasics.data._batch import Batch, Inputs
from torchbasics.training._adversarial import Adversarial
from torchbasics.training._losses import Loss, check_targets, counted, ignores, make_loss, weight
from torchbasics.training._optim import clear_gradients
from torchbasics.training._parallel import wrapped
from torchbasics.training._step import Result, Step, call, number_of

_NO_TARGETS = "the data has inputs and no targets; give (inputs, targets)"


class Supervised(Step):
    """``loss(model(inputs), targets)``, averaged over the batch.

    Args:
        function: Instead of that, ``function(model, inputs, targets)`` -> the loss, or (loss, outputs for metrics).

    >>> from torchbasics import training
    >>> step = Supervised(lambda model, inputs, targets: (model(inputs) - targets).abs().mean())
    >>> x = torch.linspace(-1, 1, 100).unsqueeze(1)
    >>> history = training.fit(nn.Linear(1, 1), x, 2 * x, epochs=30, step=step, lr=0.1, progress=False)
    >>> history[-1]["loss"] < history[0]["loss"]
    True
    """

    def __init__(self, function: Callable[[nn.Module, Any, Any], Any] | None = None) -> None:
        self.function = function

    def bind(self, model: nn.Module, recipe: Recipe) -> None:
        """Take the model."""
        super().bind(model, recipe)
        self.trained: nn.Module = model  # what learns; of several processes in torch's wrapper, but for a function
        self.forward: Callable[..., Any] = torch.compile(model) if recipe.compile else model
        self.learn: Callable[..., Any] = self.forward
        self.loss: Loss | None = None  # made from the first targets seen
        self.looks: bool | None = None  # whether each batch's targets are compared with the outputs; None = unknown
        self.counts: bool | None = None  # whether the loss may leave out or weigh targets; None = unknown

    def start(self, steps: int | None) -> None:
        """Make the optimizer, and with several processes what takes the mean of their gradients.

        A function may call any part of the model: it is given the model itself, and ``apply`` adds up the gradients.
        """
        if self.world.size > 1 and not self.averaged and self.function is None:
            self.trained = wrapped(self.model)
            self.learn = torch.compile(self.trained) if self.recipe.compile else self.trained
            self.averaged = True
        self.optimizer: Optimizer = self.add_optimizer(self.model.parameters(), steps)

    def update(self, batch: Batch) -> Result:
        """Update once; the batch goes through the model in ``accumulate`` parts."""
        clear_gradients(self.optimizer)
        if self.recipe.accumulate == 1:
            loss, made = self._run(batch, batch.targets, self.learn)
            self._weigh(made.weight, batch)
            value = self.backward(self._counted(loss, made))
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
        return made._replace(losses={"loss": self._mean(number_of(loss), batch.size)})

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

    def _run(
        self, batch: Batch, all_targets: Tensor | None, learn: Callable[..., Any] | None = None
    ) -> tuple[Tensor, Result]:
        """Return the loss, and what the metrics are to see and how the loss counts."""
        with self.autocast():
            if self.function is not None:
                model = self.model if learn is None else self.trained
                made = self.function(model, batch.inputs, batch.targets)
                loss, outputs = made if isinstance(made, tuple) else (made, None)
                if not isinstance(loss, Tensor):
                    raise TypeError(f"step must return the loss, a tensor, or (loss, outputs), got {loss!r}")
                return loss, Result({}, batch.size, outputs, batch.targets)
            outputs = call(self.forward if learn is None else learn, batch.inputs)
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
        self._weigh(total, batch)
        value: float | Tensor = 0.0
        seen = []
        # A part that does not count has no mean.
        counted = [(part, share) for part, share in zip(parts, shares, strict=True) if share or not total]
        # Where parameters are gathered for a part, all processes run as many.
        spare = self.world.largest([len(counted)])[0] - len(counted) if self.sharded else 0
        for _ in range(spare):
            self.backward(self._run(parts[0], parts[0].targets, self.learn)[0].nan_to_num() * 0.0)
        for i, (part, share) in enumerate(counted, start=1):
            with nullcontext() if i == len(counted) else self._waiting():
                loss, made = self._run(part, part.targets, self.learn)
                value += self.backward(self._counted(loss if summed else loss * (share / (total or 1)), made))
            seen.append(made)
        outputs = [made.outputs.detach() for made in seen if made.outputs is not None]
        targets = [made.targets for made in seen if made.targets is not None]
        joined = [torch.cat(tensors) if tensors else None for tensors in (outputs, targets)]
        return value, Result({}, total, *joined)

    def _weigh(self, weight: float, batch: Batch) -> None:
        """Set what this batch counts in the mean, or the sum, of the gradients over the processes."""
        size = self.world.size
        if size == 1:
            return
        mine = 0.0 if batch.idle else weight
        asks = self.function is None and self.counts is not False  # what the others leave out is known to them alone
        total = self.world.total(mine) if asks else batch.of_all
        part = float(bool(mine)) if self._sums() else mine / total if total else math.nan
        self.share: float = part * size if self.averaged else part

    def _counted(self, loss: Tensor, made: Result) -> Tensor:
        """Return the loss; of a part that does not count, and may have no mean, a zero with gradients of zero."""
        if self.share or self.function is not None or made.outputs is None:
            return loss
        return made.outputs.nan_to_num().sum() * 0.0

    def _waiting(self) -> AbstractContextManager[Any]:
        """Add up gradients here, as the last part of the batch is still to come."""
        wait = getattr(self.trained, "no_sync", None)
        return nullcontext() if wait is None else wait()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work as a single process meanwhile."""
        trained, learn = self.trained, self.learn
        self.trained = self.learn = unwrapped(self.model)
        try:
            with super().alone():
                yield
        finally:
            self.trained, self.learn = trained, learn

    def _share(self, part: Batch) -> float:
        if self.function is not None or part.targets is None:
            return part.size
        used = self._made_loss(part.targets)
        return weight(used, part.targets, part.size) if ignores(used, part.targets) else part.size

    def _made_loss(self, targets: Tensor) -> Loss:
        if self.loss is None:
            self.loss = make_loss(_with(self.model, self.recipe.loss), targets)
        return self.loss

    def _sums(self) -> bool:
        return getattr(self.loss, "reduction", "mean") == "sum"

    def _mean(self, value: Any, size: int) -> Any:
        return value / size if self._sums() else value


def _with(model: nn.Module, loss: Any) -> Any:
    """Return *loss*; of a module on the CPU, with weights of classes perhaps, a copy on the model's GPU."""
    place = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    held = [*loss.parameters(), *loss.buffers()] if isinstance(loss, nn.Module) else []
    if place.type == "cpu" or not held or not all(t.is_cpu for t in held):
        return loss
    return copy.deepcopy(loss).to(place)  # pragma: no cover  # CUDA


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
