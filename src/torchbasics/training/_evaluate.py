"""Evaluation and prediction, which leave the model and the random generators as they were."""

from __future__ import annotations

import copy
import warnings
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics import _checks, _parts, _world
from torchbasics._model import buffers_kept, check_module, modes_kept, unwrapped
from torchbasics._recipe import Precision, Recipe
from torchbasics._world import ALONE, World
from torchbasics.data._batches import Batches, PairBatches, make_batches
from torchbasics.training._loop import Meter, run_epoch
from torchbasics.training._metrics import Confusion, make_metrics
from torchbasics.training._random import forked
from torchbasics.training._step import Step, call
from torchbasics.training._steps import make_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchbasics.data._batch import Batch
    from torchbasics.training._step import Result

BATCH_SIZE = 200  # what the caches of a processor hold; larger ones are slower there


def evaluate(
    model: nn.Module,
    test: Any,
    targets: Any = None,
    *,
    batch_size: int | None = None,
    loss: Any = None,
    metrics: Any = None,
    step: Any = None,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
) -> dict[str, float]:
    """Measure *model* on *test*: each sample counts once, whatever the batch size.

    The model is in eval mode meanwhile; its modes, buffers and device, all random generators, gradient mode and
    autocast are put back, also after an error. Under torchrun each process runs its part of the samples, and all
    return the same.

    Args:
        model: Any module.
        test: An (inputs, targets) pair, a Dataset, a DataLoader or another iterable of batches.
        targets: The targets, where *test* is inputs alone.
        batch_size: Samples per forward pass, None = 200; only memory and speed depend on it.
        loss: As for `fit`: None = cross-entropy for integer targets, mean squared error for floating ones.
        metrics: Names, functions (outputs, targets) -> number, torchmetrics objects, a list or dict of them;
            None = "accuracy" for integer targets.
        step: As for `fit`.
        workers: Processes that read the samples of a Dataset.
        device: None = where the model is.
        precision: "float32", "bfloat16" or "float16".

    Returns:
        "loss", the metrics, and "samples", how many were counted.

    Raises:
        ValueError: the data is empty, does not fit the model, or holds a value that is not finite.

    >>> evaluate(nn.Linear(3, 2), torch.zeros(5, 3), torch.zeros(5, dtype=torch.long))["samples"]
    5
    """
    world = _world.join()
    with world.together():
        make_metrics(metrics)  # unknown ones are named before anything is run
        recipe = Recipe(loss=loss, step=step, precision=precision)
        batches = _batches(test, targets, batch_size, workers, world)
        with on_device(model, device) as here:
            bound = copy.copy(make_step(step, model))  # one of the user's own may be in a run
            bound.bind(model, recipe)
            check(bound, batches, here, metrics)
            world.agree("data to evaluate on", {"samples": batches.samples, "batches": batches.steps()})
            return measure(bound, batches, Meter(metrics, world), here, samples=True)


def predict(
    model: nn.Module,
    inputs: Any,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """Run *model* on *inputs* in eval mode, batch by batch.

    Shapes: ``(N, ...)`` -> ``(N, ...)`` of the model's output, on the CPU.

    Args:
        model: Any module that returns a tensor.
        inputs: A tensor or array, a tuple or dict of them, a Dataset or batches; targets in it are passed over.
        batch_size: Samples per forward pass, None = 200; only memory and speed depend on it.
        workers: Processes that read the samples of a Dataset.
        device: None = where the model is.
        precision: "float32", "bfloat16" or "float16".

    Raises:
        ValueError: *inputs* are empty, or hold a value that is not finite.
        TypeError: the model returns no tensor.

    >>> predict(nn.Linear(3, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    batches: Batches
    if isinstance(inputs, (tuple, dict)):  # several inputs of the model, not a pair with targets
        size = BATCH_SIZE if batch_size is None else _checks.positive_int("batch_size", batch_size)
        batches = PairBatches(inputs, None, batch_size=size, shuffle=False, seed=0)
    else:
        batches = _batches(inputs, None, batch_size, workers)
    _check_values(batches)
    outputs = []
    with on_device(model, device) as here, evaluating(model), closing(batches.epoch(0)) as epoch:
        step = make_step("supervised", model)
        step.bind(model, Recipe(precision=precision))
        for batch in epoch:
            with step.autocast():
                made = _explained(lambda b=batch: call(model, laid_out(step, b.to(here)).inputs), batch.inputs, model)
            if not isinstance(made, Tensor):
                raise TypeError(f"predict needs a model that returns a tensor, got {type(made).__name__}")
            outputs.append(made.cpu())
    return torch.cat(outputs)


def confusion_matrix(model: nn.Module, test: Any, targets: Any = None, *, batch_size: int | None = None) -> Tensor:
    """Count how often each true class (row) was taken for each class (column): int64, (classes, classes).

    Raises:
        ValueError: the data is empty or does not fit the model.

    >>> confusion_matrix(nn.Identity(), torch.eye(2), torch.tensor([0, 1])).tolist()
    [[1, 0], [0, 1]]
    """
    counts = Confusion()
    batches = _batches(test, targets, batch_size, 0)
    with on_device(model, None) as here:
        step = make_step("supervised", model)
        step.bind(model, Recipe())
        check(step, batches, here)
        with evaluating(model):
            for batch in batches.epoch(0):
                result = step.evaluate(laid_out(step, batch.to(here)))
                if result.outputs is None or result.targets is None:
                    raise TypeError("confusion_matrix needs a model that returns logits")
                counts.update(result.outputs, result.targets)
    return counts.counts()


def measure(
    step: Step,
    batches: Batches,
    meter: Meter,
    device: torch.device,
    after: Callable[[Batch, Result], object] | None = None,
    *,
    samples: bool = False,
) -> dict[str, float]:
    """Run an epoch of evaluation with a bound step; a true answer of *after* ends it, with nothing measured.

    Each process runs the model by itself on its part; what they have counted is added up once, at the end.
    """
    with evaluating(step.model), batches.own_generators_kept():
        ended = run_epoch(batches.epoch(0), lambda batch: step.evaluate(laid_out(step, batch)), meter, device, after)
        if ended:
            return {}
        total = meter.joined()
        return {**total.compute(), "samples": total.samples} if samples else total.compute()


def laid_out(step: Step, batch: Batch) -> Batch:
    """Return the batch in the memory format that the recipe names, or that suits the model; that of the model stays."""
    wanted = step.recipe.memory_format
    if wanted == "auto":
        wanted = getattr(unwrapped(step.model), "default_memory_format", "contiguous")
    return batch.channels_last() if wanted == "channels_last" else batch


def check(step: Step, batches: Batches, device: torch.device, metrics: Any = None) -> list[str] | None:
    """Try the first samples and look at values and targets, before anything is changed.

    Returns:
        The columns that the data will give, None where they cannot be known before.

    Raises:
        ValueError, TypeError: data, model and metrics do not fit.
    """
    _check_values(batches)
    with evaluating(step.model):
        batch = batches.first(2)
        if batch is None:
            return None
        here = batch.to(device)
        result = _explained(lambda: step.check(here, batches.targets), batch.inputs, step.model)
        if not result.weight:
            return None
        meter = Meter(metrics)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two samples are few for a metric
            meter.add(result, batch.size)
            return list(meter.compute())


def _check_values(batches: Batches) -> None:
    if not isinstance(batches, PairBatches):
        return
    for name, tensor in batches.named():
        # A sum is read in a fraction of the time; only where it is not finite each value is looked at.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            sample = int((~torch.isfinite(tensor)).nonzero()[0, 0])
            raise ValueError(f"{name} hold a value that is not finite, first in sample {sample}; clean or drop it")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put *model* in eval mode, without gradients and autocast.

    Afterwards each submodule's mode, the buffers, the generators, gradient mode and autocast are as before.
    """
    with modes_kept(model), buffers_kept(model), forked(seed=0), no_autocast(model), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            _parts.reshard(model)


@contextmanager
def no_autocast(model: nn.Module) -> Iterator[None]:
    """Turn off an autocast of the caller's, and put back what it was.

    Not ``torch.autocast(enabled=False)``: inside any autocast block torch keeps low-precision copies of the weights
    until the outermost one ends, also after the weights have changed.
    """
    kind = next((p.device.type for p in model.parameters()), "cpu")
    state = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled()
    torch.set_autocast_enabled(kind, False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.set_autocast_enabled(kind, state[0])
        torch.set_autocast_dtype(kind, state[1])
        torch.set_autocast_cache_enabled(state[2])
        torch.clear_autocast_cache()


@contextmanager
def on_device(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Give the device to work on; the model goes there, and back afterwards."""
    check_module(model)
    first = next((p.device for p in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    if device is None:
        yield first
        return
    from torchbasics._env import device as named

    there = named(str(device))
    try:
        model.to(there)
        yield there
    finally:
        model.to(first)


def _batches(data: Any, targets: Any, batch_size: int | None, workers: int, world: World = ALONE) -> Batches:
    given = {"batch_size": batch_size is not None, "workers": workers != 0}
    size = BATCH_SIZE if batch_size is None else _checks.positive_int("batch_size", batch_size)
    return make_batches(
        data,
        targets,
        batch_size=size * world.size,
        workers=workers,
        set_by_user=tuple(name for name, was_given in given.items() if was_given),
        world=world,
    )


def _explained(run: Any, inputs: Any, model: nn.Module) -> Any:
    """Run; when torch refuses the inputs' type, say so in the user's words."""
    try:
        return run()
    except RuntimeError as e:
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        told = isinstance(inputs, Tensor) and (inputs.is_floating_point() or inputs.dtype == torch.uint8)
        if not told or first is None or inputs.dtype == first.dtype or "type" not in str(e):
            raise
        way_out = (
            "wrap images in torchbasics.data.Images, or convert them"
            if inputs.dtype == torch.uint8
            else f"convert them with inputs.to({first.dtype})"
        )
        raise TypeError(f"inputs are {inputs.dtype}, but the model's parameters are {first.dtype}; {way_out}") from e
