"""Optimizers and schedules by name, with options, by factory or as instances."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import profiler
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR

from torchbasics import _checks
from torchbasics._recipe import Recipe

# All of torch's optimizers that need no closure and no special parameters.
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    name.lower(): getattr(torch.optim, name)
    for name in ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
}

# Each from an optimizer whose rate is the peak, and the number of updates in all; "constant" is no schedule.
SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "onecycle": lambda o, steps, **options: OneCycleLR(o, o.param_groups[0]["lr"], total_steps=steps, **options),
    "cosine": CosineAnnealingLR,
    "linear": lambda o, steps, **options: LinearLR(
        o, **{"start_factor": 1.0, "end_factor": 0.0, **options}, total_iters=steps
    ),
}


_ZERO_GRAD = Optimizer.zero_grad
_on_cuda: Callable[[], bool] = torch.cuda.is_initialized  # whether this process uses it
_REAL = frozenset({torch.float32, torch.float64})
_logs = logging.getLogger("torch.autograd.graph").isEnabledFor  # then torch tells of each node
_WRAPPER = Optimizer.profile_hook_step(lambda self: None).__code__  # of what torch puts around each optimizer's step


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Make the optimizer of *parameters*: by name, (name, options) or factory; an instance is used as it is.

    Raises:
        ValueError: unknown name, or an instance that does not hold the parameters or comes with lr.
        TypeError: it is none of these, or an option is not one of the optimizer's.
    """
    wanted = [p for p in parameters if p.requires_grad]
    if isinstance(recipe.optimizer, Optimizer):
        held = {id(p) for group in recipe.optimizer.param_groups for p in group["params"]}
        if recipe.lr is not None:
            raise ValueError(f"lr={recipe.lr!r} does not go with an optimizer instance; set its own learning rate")
        if not held & {id(p) for p in wanted}:
            raise ValueError("the optimizer holds no parameter of this model; make it from model.parameters()")
        return recipe.optimizer
    if not wanted:
        raise ValueError("the model has no parameter that requires a gradient; there is nothing to train")
    factory, options = _named("optimizer", recipe.optimizer, OPTIMIZERS)
    options |= {} if recipe.lr is None else {"lr": recipe.lr}
    options |= {"fused": True} if recipe.fused else {}
    made = factory(wanted, **options)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer must make a torch.optim.Optimizer, got {type(made).__name__}")
    return made


def clear_gradients(optimizer: Optimizer) -> None:
    """Do what torch's own ``zero_grad`` does, in a tenth of the time; one of another kind, or profiled, is called."""
    own = type(optimizer).zero_grad is not _ZERO_GRAD or "zero_grad" in vars(optimizer)
    if own or profiler._is_profiler_enabled:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def step(optimizer: Optimizer) -> None:
    """Update; torch's entry for profiles and hooks around it takes 25 us, and is left out where neither is wanted."""
    function: Any = type(optimizer).step
    wanted = (
        getattr(function, "__code__", None) is not _WRAPPER  # somebody's own, whatever it says of itself
        or "step" in vars(optimizer)
        or profiler._is_profiler_enabled
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )
    optimizer.step() if wanted else function.__wrapped__(optimizer)


def run_backward(loss: Tensor) -> None:
    """Add the gradients of *loss*, as ``torch.autograd.backward`` does.

    Of its way into the engine, which takes 15 us, a plain number on the CPU needs only the end.
    """
    plain = type(loss) is Tensor and loss.is_cpu and loss.ndim == 0 and loss.dtype in _REAL and loss.requires_grad
    watched = torch._C._are_functorch_transforms_active() or torch._C._len_torch_function_stack()
    # A loss that was brought from a device has a way back there, on a thread that needs what torch prepares.
    if not plain or watched or _logs(logging.DEBUG) or _on_cuda():
        torch.autograd.backward(loss)
        return
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def default_rate(optimizer: Any) -> float | None:
    """Return the learning rate that a named optimizer has without one given; None where it is not for us to say."""
    name = optimizer[0] if isinstance(optimizer, tuple) else optimizer
    if not isinstance(name, str):
        return None
    given = optimizer[1].get("lr") if isinstance(optimizer, tuple) else None
    default: Any = inspect.signature(OPTIMIZERS[_checks.choice("optimizer", name, OPTIMIZERS)]).parameters["lr"].default
    return float(default if given is None else given)


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps: int | None) -> LRScheduler | None:
    """Make the schedule, which counts updates: by name, (name, options), factory or instance.

    Raises:
        ValueError: unknown name, an instance of another optimizer, or the schedule needs the unknown number of *steps*.
        TypeError: it makes no LRScheduler.
    """
    if recipe.schedule in (None, "constant"):  # nothing to step
        return None
    if isinstance(recipe.schedule, LRScheduler):
        if recipe.schedule.optimizer is not optimizer:
            raise ValueError("the schedule belongs to another optimizer; give that one as optimizer=")
        made: Any = recipe.schedule
    else:
        factory, options = _named("schedule", recipe.schedule, SCHEDULES)
        if factory not in SCHEDULES.values():
            made = factory(optimizer, **options)
        elif steps is None:
            raise ValueError(
                f"schedule {recipe.schedule!r} needs the number of steps, which this data does not tell; "
                "give the data a length, or schedule='constant'"
            )
        else:
            made = factory(optimizer, steps, **options)
    if not isinstance(made, LRScheduler) or isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise TypeError(f"schedule must make an LRScheduler that steps without a value, got {type(made).__name__}")
    return made


def _named(kind: str, value: Any, table: dict[str, Callable[..., Any]]) -> tuple[Callable[..., Any], dict[str, Any]]:
    options: dict[str, Any] = {}
    if isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[1], dict):
        value, options = value[0], dict(value[1])
    if isinstance(value, str):
        return table[_checks.choice(kind, value, table)], options
    if not callable(value):
        raise TypeError(f"{kind} must be a name, a (name, options) pair, a factory or an instance, got {value!r}")
    return value, options
