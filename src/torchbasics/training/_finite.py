"""Losses and gradients that are not finite: noticed before the update, undone, and explained."""

from __future__ import annotations

import cmath
import contextlib
import copy
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchbasics import _parts
from torchbasics._model import COMPILED, Buffers
from torchbasics.training import _random

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch.optim import Optimizer

    from torchbasics._world import World
    from torchbasics.data._batch import Batch
    from torchbasics.training._callbacks import State
    from torchbasics.training._step import Result, Step

SHOWN = 8  # samples named in a message


class NonFiniteError(ArithmeticError):
    """The loss or a gradient is nan or infinite; the update it would have led to was not applied.

    Parameters and buffers of the model, and the state of the optimizers, are those before the step.

    Attributes:
        step: The update, counted from 1.
        epoch: The epoch, counted from 1.
        indices: The samples of the batch, None where the data has no indices.
        module: The first module whose output or gradient is not finite; None where all are, then it is the loss, or
            where the step, made again to find it, came out finite.
        learning_rate: That of the step.
        gradient_norm: Over all parameters; nan where the loss itself is not finite, None where nobody knows.

    >>> from torchbasics import training
    >>> x = torch.full((8, 1), 1e30)
    >>> try:
    ...     training.fit(nn.Linear(1, 1), x, -x, epochs=1, progress=False)
    ... except training.NonFiniteError as e:
    ...     e.step
    1
    """

    step: int | None = None
    epoch: int | None = None
    indices: list[int] | None = None
    module: str | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None


class Late:
    """Whether all was finite so far, kept on the device and read a step late, so that no step waits for it.

    Once it is raised no update is applied any more: the optimizer's kernels leave out theirs (``found_inf``).
    """

    def __init__(self, device: torch.device) -> None:
        self.raised: Tensor = torch.zeros((), dtype=torch.float32, device=device)
        self.one: Tensor = torch.ones((), dtype=torch.float32, device=device)
        self.reading: tuple[Tensor, Any] | None = None

    def look(self, optimizer: Optimizer, losses: Iterable[Tensor]) -> None:
        """Take in the gradients and *losses*, and hand the flag to the optimizer."""
        for loss in losses:
            torch.maximum(self.raised, (~loss.isfinite().all()).float(), out=self.raised)
        grads = gradients(optimizer)
        torch._amp_foreach_non_finite_check_and_unscale_(grads, self.raised, self.one)
        optimizer.found_inf = self.raised  # type: ignore[attr-defined]  # as torch's own GradScaler does

    def send(self) -> None:
        """Start to copy the flag to the host."""
        event: Any = None
        if self.raised.is_cuda:  # pragma: no cover  # CUDA
            host = torch.empty((), device="cpu", pin_memory=True).copy_(self.raised, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.raised.device))
        else:
            host = self.raised.clone()
        self.reading = host, event

    def read(self) -> bool:
        """Return the flag that was sent last; the device meanwhile works on the next step."""
        if self.reading is None:
            return False
        host, event = self.reading
        if event is not None:
            event.synchronize()  # pragma: no cover  # CUDA
        return bool(host)


class Moment(NamedTuple):
    """What is needed to go back to just before an update."""

    batch: Batch
    step: int
    epoch: int
    learning_rate: float
    generators: list[Tensor]
    buffers: Buffers
    before: Before | None  # where a part of the update may have been applied before another was not finite


class Before:
    """Parameters, and what their optimizers have gathered, as they are now, to be put back."""

    def __init__(self, step: Step) -> None:
        self.step = step
        parameters: Iterable[Tensor] = step.model.parameters()
        self.parameters = [p if is_lazy(p) else p.detach().clone() for p in parameters]
        self.gathered = [_copied(optimizer.state) for optimizer in step.optimizers]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for parameter, before in zip(self.step.model.parameters(), self.parameters, strict=True):
            if parameter is not before:  # lazy: it had no values
                parameter.copy_(before)
        for optimizer, gathered in zip(self.step.optimizers, self.gathered, strict=True):
            optimizer.state.clear()
            optimizer.state.update(gathered)


class Guard:
    """Makes a step's updates, and undoes and explains the one that is not finite.

    Args:
        step: The step.
        applies_once: Whether it is known to apply one update, as the last thing that can fail.
    """

    def __init__(self, step: Step, *, applies_once: bool) -> None:
        self.step = step
        self.applies_once = applies_once
        self.late = step.late = Late(step.optimizers[0].param_groups[0]["params"][0].device) if is_late(step) else None
        self.buffers = [Buffers(step.model) for _ in range(2 if self.late else 1)]
        self.moments: deque[Moment] = deque(maxlen=len(self.buffers))

    def update(self, batch: Batch, state: State) -> Result:
        """Learn from *batch*.

        Raises:
            NonFiniteError: loss or gradients are not finite; all is as before the step.
        """
        buffers = self.buffers[state.step % len(self.buffers)]
        buffers.keep()
        before = None if self.applies_once else Before(self.step)
        drawn = _generators(self.step)
        self.moments.append(Moment(batch, state.step + 1, state.epoch + 1, state.learning_rate, drawn, buffers, before))
        try:
            result = self.step.update(batch)
        except NonFiniteError as e:
            raise self._undo(self.moments[-1], str(e)) from None
        if self.late is not None:
            stopped = self.late.read()  # whether the step before this one was
            if stopped:
                raise self._undo(self.moments[0], "loss or gradients are not finite")
            self.late.send()
        return result

    def settle(self) -> None:
        """Wait for the news of the last update.

        Raises:
            NonFiniteError: it was not finite.
        """
        if self.late is not None and self.late.read():
            raise self._undo(self.moments[-1], "loss or gradients are not finite")

    def _undo(self, moment: Moment, what: str) -> NonFiniteError:
        moment.buffers.restore()
        if moment.before is not None:
            moment.before.restore()
        self.step.failure = None
        # In parts, no process can run the model by itself.
        with contextlib.nullcontext() if self.step.sharded else self.step.alone():
            repeated, where, norm, mine = replay(self.step, moment)
        indices = None if moment.batch.indices is None else moment.batch.indices.tolist()
        parts = [f"{what} at step {moment.step}, epoch {moment.epoch}"]
        if indices is not None:
            more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
            parts.append(f"on samples {indices[:SHOWN]}{more}")
        parts.append(f"learning rate {moment.learning_rate:g}")
        if repeated:
            parts.append(f"gradient norm {norm:g}")
            first = f"{where[1]} of {where[0]!r}" if where else "the loss itself, from finite outputs"
            told = f"first not finite: {_bad_inputs(moment.batch)}{first}"
        else:
            told = "the step could not be repeated, it depends on more than its batch, the model and torch's generators"
        error = NonFiniteError(
            f"{', '.join(parts)}; {told}; nothing was applied: lower lr, set clip_norm, or look at these samples"
        )
        error.step, error.epoch, error.indices = moment.step, moment.epoch, indices
        error.module = where[0] if where else None
        error.learning_rate, error.gradient_norm = moment.learning_rate, norm if repeated else None
        return self._first(error, mine=mine and not moment.batch.idle)

    def _first(self, error: NonFiniteError, *, mine: bool) -> NonFiniteError:
        """Return the error of the first process on whose samples it happens again; all stop at the same step."""
        world = self.step.world
        if world.size > 1:
            found = world.exchange((mine, str(error), vars(error)))
            known = [rank for rank, (again, _, _) in enumerate(found) if again]
            seen = [rank for rank, (_, _, told) in enumerate(found) if told["module"] is not None]  # in its part
            rank = [*known, *seen, 0][0]
            error = NonFiniteError(
                f"{'' if known else 'in one of the processes, seen '}in process {rank}: {found[rank][1]}"
            )
            vars(error).update(found[rank][2])
        return error


def is_late(step: Step) -> bool:
    """Whether updates can be stopped on the device: one fused optimizer there, and no scaler that waits anyway."""
    if len(step.optimizers) != 1 or step.scaler.is_enabled():
        return False
    optimizer = step.optimizers[0]
    on_device: bool = optimizer.param_groups[0]["params"][0].is_cuda
    return on_device and not step.sharded and getattr(optimizer, "_step_supports_amp_scaling", False)


def finite(loss: Tensor) -> float:
    """Return the value of a loss on the CPU.

    Raises:
        NonFiniteError: it is nan or infinite.
    """
    value: float = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError(f"the loss is {value}")
    return value


def check_gradients(optimizer: Optimizer, norm: Tensor | None, losses: Iterable[Tensor]) -> None:
    """See that the gradients, and *losses* on a device, are finite; *norm* is the gradients' where it is known.

    Raises:
        NonFiniteError: one is not.
    """
    for loss in losses:
        finite(loss)
    grads = gradients(optimizer)
    if norm is not None:
        suspect = not cmath.isfinite(norm.item())
    elif all(g.is_cpu for g in grads):  # a sum takes less time than a norm, and much less than isfinite
        suspect = not cmath.isfinite(sum([g.sum().item() for g in grads]))
    else:  # pragma: no cover  # CUDA
        suspect = not torch.stack([g.sum().isfinite() for g in grads]).all().item()
    if suspect and not all(_is_finite(g) for g in grads):  # sums of finite numbers can be infinite
        raise NonFiniteError("the loss is finite, but a gradient is not,")


def check_parts(optimizer: Optimizer, norm: Tensor | None, world: World) -> None:
    """See that gradients of which each process has a part are finite; all have to call it, and all raise.

    Raises:
        NonFiniteError: one is not.
    """
    grads = [_parts.own(g) for g in gradients(optimizer)]
    sums = [g.sum().abs().double() for g in grads]
    total = norm.item() if norm is not None else world.total(torch.stack(sums).sum().item() if sums else 0.0)
    if not math.isfinite(total) and world.largest([not all(_is_finite(g) for g in grads)])[0]:
        raise NonFiniteError("the loss is finite, but a gradient is not,")


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """Return the gradients there are."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def replay(step: Step, moment: Moment) -> tuple[bool, tuple[str, str] | None, float, bool]:
    """Make an update again, and undo it.

    Returns:
        Whether it failed again, (module, what of it) first not finite, the gradient's norm, and whether it was on the
        samples of this process.
    """
    _parts.reshard(step.model)  # an error may have come half-way
    before, state = Before(step), copy.deepcopy(step.state_dict())
    late, step.late = step.late, None
    scaler, step.scaler = step.scaler, _fresh(step)
    found: list[tuple[str, str]] = []
    repeated = True
    try:
        with _random.forked(), torch.compiler.set_stance("force_eager"), _watched(step.model, found):
            _set_generators(step, moment.generators)
            with contextlib.suppress(Exception):
                step.update(moment.batch)  # fails where it failed before
                repeated = False
        # The loss of a process by itself is looked at before its gradients are made.
        found = [] if step.failure and found and found[0][1] == "the gradient" else found
        mine = repeated and (step.failure is not None or bool(found) or not step.sharded)
        grads = {n: p.grad for n, p in step.model.named_parameters() if p.grad is not None}
        if not step.failure:
            found += [(n.rpartition(".")[0], "a gradient") for n, g in reversed(grads.items()) if not _is_finite(g)]
        squares = sum(float(_values(_parts.own(g)).abs().double().square().sum()) for g in grads.values())
        norm = math.sqrt(step.world.total(squares) if step.sharded else squares)
    finally:
        step.late, step.scaler = late, scaler
        step.load_state_dict(state)
        before.restore()
        moment.buffers.restore()
        for parameter in step.model.parameters():
            parameter.grad = None
    return repeated, found[0] if repeated and found else None, norm if grads else math.nan, mine


@contextlib.contextmanager
def _watched(model: nn.Module, found: list[tuple[str, str]]) -> Iterator[None]:
    names = {name.replace(COMPILED, ""): module for name, module in model.named_modules()}
    handles = [m.register_forward_hook(partial(_watch, found, n or type(m).__name__)) for n, m in names.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fresh(step: Step) -> torch.amp.GradScaler:
    """A scaler like the step's that has not begun an update."""
    made = torch.amp.GradScaler(step.device, enabled=step.scaler.is_enabled())
    made.load_state_dict(step.scaler.state_dict())
    return made


def _watch(found: list[tuple[str, str]], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    def note(gradient: Tensor) -> None:
        if not _is_finite(gradient):
            found.append((name, "the gradient"))

    for tensor in _tensors(output):
        if not _is_finite(tensor):
            found.append((name, "the output"))
        if tensor.requires_grad:
            tensor.register_hook(note)  # type: ignore[no-untyped-call]


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return copy.deepcopy(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _values(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def _is_finite(tensor: Tensor) -> bool:
    return bool(_values(_parts.own(tensor)).isfinite().all())


def _bad_inputs(batch: Batch) -> str:
    for tensor in _tensors(batch.inputs):
        wrong = (~tensor.isfinite()).flatten(1).any(1).nonzero().flatten().cpu()
        if len(wrong):
            named = wrong if batch.indices is None else batch.indices[wrong]
            return f"the inputs of samples {named[:SHOWN].tolist()}, then "
    return ""


def _generators(step: Step) -> list[Tensor]:
    """The generators that layers draw from; reading them waits for nothing."""
    states = [torch.default_generator.get_state()]
    if step.device == "cuda":
        states.append(torch.cuda.get_rng_state(_place(step)))  # pragma: no cover  # CUDA
    return states


def _set_generators(step: Step, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if step.device == "cuda":
        torch.cuda.set_rng_state(states[1], _place(step))  # pragma: no cover  # CUDA


def _place(step: Step) -> torch.device:
    return next(step.model.parameters()).device
