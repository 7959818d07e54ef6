"""The way from a user's call to a run: choices made, everything checked, then trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchbasics import _checks, _parts, _world
from torchbasics._model import check_module, modes_kept
from torchbasics._recipe import EarlyStopping, Options, Recipe, make_recipe
from torchbasics.data._batches import Batches, LoaderBatches, make_batches, split_data
from torchbasics.training import _checkpoint, _random
from torchbasics.training._augment import make_augmentation
from torchbasics.training._callbacks import Stopper, make_progress
from torchbasics.training._ema import Average
from torchbasics.training._evaluate import BATCH_SIZE, check, evaluating, no_autocast
from torchbasics.training._metrics import make_metrics
from torchbasics.training._optim import default_rate
from torchbasics.training._parallel import Strategy, check_strategy, spread_over
from torchbasics.training._run import Run
from torchbasics.training._step import Step
from torchbasics.training._steps import make_step
from torchbasics.training._tensorboard import TensorBoard

if TYPE_CHECKING:
    from typing import Unpack

    from torchbasics._world import World
    from torchbasics.training._history import History

DEFAULT_BATCH_SIZE = 100


def fit(
    model: nn.Module,
    train: Any,
    targets: Any = None,
    *,
    epochs: int | None = None,
    recipe: Recipe | str | None = None,
    validation: Any = None,
    metrics: Any = None,
    workers: int = 0,
    device: torch.device | str | None = None,
    log_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    resume: _checkpoint.Resume = "auto",
    progress: bool | None = None,
    callbacks: Sequence[Any] = (),
    time_limit: float | None = None,
    strategy: Strategy | None = "ddp",
    **options: Unpack[Options],
) -> History:
    """Train *model*, and return what was measured.

    It ends on the parameters of the same loop written by hand: ``torch.manual_seed(seed)``, then for each epoch the
    batches of `torchbasics.data.order`, ``zero_grad``, loss, ``backward``, ``step``. For CNNModel and DCGAN the loop
    has model and images in channels_last, which is faster, unless ``memory_format="contiguous"`` is given.

    SIGTERM, SIGUSR1, Ctrl-C and *time_limit* end it at the next step, in validation too: a checkpoint is written, and
    the history of whole epochs is returned with ``stopped`` "signal" or "time". The same call goes on from there. A
    second Ctrl-C is a KeyboardInterrupt at once; a signal after the last step goes to the handler of before, once the
    run is over. Workers of your own DataLoader have to ignore the signals themselves.

    Under torchrun the same call trains on all processes: *batch_size* is the batch of all together, of which each takes
    its part, and the gradient is the mean over all of it. Process 0 prints and writes; callbacks run on every process.

    Args:
        model: Any module; it is trained in place, and left in the mode it was found in.
        train: An (inputs, targets) pair of tensors or arrays, a Dataset, or a DataLoader or iterable of batches.
        targets: The targets, where *train* is inputs alone.
        epochs: Passes over the data; needed unless *recipe* brings them.
        recipe: A whole `Recipe`, or the name of one; *options* change single values of it.
        validation: Data like *train*, or a share in (0, 1) of it; measured after each epoch.
        metrics: As for `evaluate`: None = "accuracy" for integer targets.
        workers: Processes that read the samples of a Dataset.
        device: None = where the model is; "auto" = the best there is; the model stays on it.
        log_dir: A folder for TensorBoard (extra ``tensorboard``).
        checkpoint: A folder that keeps all that is needed to go on after a crash.
        checkpoint_every: Updates between two checkpoints; None = one an epoch.
        keep: How many of the newest checkpoints stay, beside the best by validation loss.
        resume: "auto" = go on where *checkpoint* has one of this very run: same recipe, data, starting weights and
            model; True = it must have one, and data, starting weights, or what code does may have changed; False = it
            must have none; or the path of one elsewhere. Functions and classes are compared without what they call,
            data by values where they are tensors or a TensorDataset, other Datasets by length alone. A user's own
            DataLoader goes on exactly from the end of an epoch, and within one where it has ``state_dict`` and
            ``load_state_dict``; what a sampler of your own keeps is saved where it is a ``torch.Generator`` in its
            attribute ``generator``.
        progress: None = a bar on a terminal, else a line an epoch; True = a bar; False = nothing.
        callbacks: Objects with any of ``on_start``, ``on_step``, ``on_epoch``, ``on_stop``, ``on_end``, each called
            with a `State`; see `Callback`.
        time_limit: Seconds after which the run ends at the next step, ready to be gone on with.
        strategy: With several processes: "ddp" = each has the whole model (DistributedDataParallel); "fsdp" = each has
            a part of the parameters (FSDP2; on the CPU from torch 2.7), checkpoints are written in parts, and the model
            stays so: all processes have to call ``evaluate``, ``io.save`` and the like; None = the model is as it is to
            be used.
        **options: The values of `Recipe`: batch_size (100), loss, optimizer, lr, schedule, step, augment, shuffle,
            accumulate, clip_norm, precision, memory_format, compile, fused, early_stopping, ema, seed. With neither
            optimizer, lr nor schedule, AdamW with a one-cycle schedule is used. With ``ema`` validation measures the
            average of the weights, and the model ends with it.

    Raises:
        ValueError, TypeError: an argument cannot be used, or data and model do not fit; no weight was changed.
        FileNotFoundError, FileExistsError, CheckpointError: *resume* is not what *checkpoint* holds.
        RuntimeError: another process is writing to *checkpoint*.
        NonFiniteError: a loss or a gradient became nan or infinite; the model is as it was before that step.
        DistributedError: another process has failed, or is gone.

    >>> x = torch.linspace(-1, 1, 100).unsqueeze(1)
    >>> history = fit(nn.Linear(1, 1), x, 2 * x, epochs=50, lr=0.1, batch_size=20, progress=False)
    >>> history[-1]["loss"] < 0.01
    True
    """
    world = _world.join()
    with ExitStack() as stack:
        stack.enter_context(world.together())
        check_module(model)
        if epochs is not None:
            options = {**options, "epochs": epochs}  # type: ignore[typeddict-unknown-key]  # make_recipe takes it
        chosen = make_recipe(recipe, **options)
        check_strategy(strategy)
        _check_arguments(chosen, metrics, checkpoint_every, keep, progress, callbacks, time_limit)
        world.agree(
            "calls of fit",
            {
                "validation": validation if isinstance(validation, float) else validation is not None,
                "checkpoint": checkpoint is not None,
                "checkpoint_every": checkpoint_every,
                "keep": keep,
                "metrics": None if metrics is None else list(make_metrics(metrics)),
                "strategy": strategy,
                "resume": str(resume),
            },
        )
        kept = _checkpoint.open_folder(checkpoint, checkpoint_every, keep, resume, world, stack)
        seed = chosen.seed if chosen.seed is not None else kept.seed if kept is not None else None
        seed = world.exchange(int(torch.randint(2**31, ())) if seed is None else seed)[0]
        if isinstance(validation, float):
            train, validation = split_data(train, targets, validation, seed)
            targets = None
        batches = _train_batches(train, targets, chosen, workers, seed, options, world)
        held_out = None if validation is None else _validation_batches(validation, seed, workers, world)
        step = make_step(chosen.step, model)
        chosen = _resolve(chosen, step.defaults, model, batches)
        if kept is not None:
            kept.set_threads(stack)
        whole = (strategy != "fsdp" or world.size == 1) and not _parts.is_sharded(model)
        here = _place(model, device, chosen, stack, whole=whole)
        step.bind(model, chosen)
        columns = check(step, batches, here, metrics)
        if held_out is not None:
            columns = _joined(columns, check(step, held_out, here, metrics))
        _check_stopping(chosen, columns)
        _check_last_batch(step, batches, here)
        stack.enter_context(modes_kept(model))
        stack.enter_context(no_autocast(model))
        given = chosen.seed is None and world.first  # the others would draw the same masks from their own
        stack.enter_context(nullcontext() if given else _random.forked(world.seed(seed)))
        spread_over(world, strategy, step, batches)
        step.start(None if batches.steps() is None else batches.steps() * chosen.epochs)  # type: ignore[operator]
        run = Run(model, step, chosen, batches, held_out, metrics, here, time_limit, world)
        average = [] if chosen.ema is None else [Average(chosen.ema)]
        parts: list[Any] = [*average, *_stoppers(chosen), *callbacks]
        if log_dir is not None and world.first:
            classes = getattr(train, "classes", ())
            parts.append(TensorBoard(log_dir, held_out or batches, classes))
        parts += make_progress(progress if world.first else False)
        if kept is not None:
            _tell_opaque(batches)
            parts = kept.attach(run, resume, seed, parts)
        history = run.go(parts)
        world.spread(model.buffers())
        return history


def _check_arguments(
    recipe: Recipe, metrics: Any, every: int | None, keep: int, progress: Any, callbacks: Any, time_limit: Any
) -> None:
    """Check what needs no data and no model, before anything is run."""
    make_metrics(metrics)
    make_augmentation(recipe.augment)
    if time_limit is not None:
        _checks.positive("time_limit", time_limit)
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks must be a list of objects, got {callbacks!r}")
    if progress not in (None, True, False):
        raise TypeError(f"progress must be None, True or False, got {progress!r}")
    if every is not None:
        _checks.positive_int("checkpoint_every", every)
    _checks.positive_int("keep", keep)


def _train_batches(
    train: Any, targets: Any, recipe: Recipe, workers: int, seed: int, options: Any, world: World
) -> Batches:
    asked = {  # by the call, not by a recipe taken whole
        "batch_size": options.get("batch_size") is not None,
        "shuffle": "shuffle" in options,
        "workers": workers != 0,
    }
    batches = make_batches(
        train,
        targets,
        batch_size=recipe.batch_size,
        default_batch_size=DEFAULT_BATCH_SIZE,
        shuffle=recipe.shuffle,
        seed=seed,
        workers=workers,
        set_by_user=tuple(name for name, was_asked in asked.items() if was_asked),
        world=world,
    )
    if isinstance(batches, LoaderBatches) and batches.once and recipe.epochs > 1:
        raise ValueError(
            f"an iterator can be read once, not epochs={recipe.epochs!r} times; give a list or a DataLoader"
        )
    return batches


def _validation_batches(validation: Any, seed: int, workers: int, world: World) -> Batches:
    size = BATCH_SIZE * world.size
    held_out = make_batches(validation, batch_size=size, seed=seed, workers=workers, world=world)
    if isinstance(held_out, LoaderBatches) and held_out.once:
        raise ValueError("validation is an iterator, which can be read once; give a list or a DataLoader")
    return held_out


def _resolve(recipe: Recipe, defaults: Any, model: nn.Module, batches: Batches) -> Recipe:
    """Make the choices that the recipe leaves open."""
    if recipe.optimizer is None and recipe.lr is None and recipe.schedule is None:
        recipe = recipe.replace(**defaults)
        if batches.steps() is None:  # no schedule without an end in sight
            recipe = recipe.replace(schedule="constant")
    if recipe.optimizer is None:
        recipe = recipe.replace(optimizer=defaults["optimizer"], lr=recipe.lr or defaults["lr"])
    if recipe.lr is None:
        recipe = recipe.replace(lr=default_rate(recipe.optimizer))
    if recipe.batch_size is None and not isinstance(batches, LoaderBatches):
        recipe = recipe.replace(batch_size=DEFAULT_BATCH_SIZE)
    if recipe.memory_format == "auto":
        recipe = recipe.replace(memory_format=getattr(model, "default_memory_format", "contiguous"))
    return recipe.replace(schedule=recipe.schedule or "constant")


def _place(
    model: nn.Module, device: torch.device | str | None, recipe: Recipe, stack: ExitStack, *, whole: bool
) -> torch.device:
    """Move the model to its device, and for the time of the run into its memory format; parts of it have none."""
    if device is not None:
        from torchbasics._env import device as named

        model.to(named(str(device)))
    if recipe.memory_format == "channels_last" and whole and not _is_channels_last(model):
        model.to(memory_format=torch.channels_last)
        stack.callback(model.to, memory_format=torch.contiguous_format)
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _is_channels_last(model: nn.Module) -> bool:
    images = [p for p in model.parameters() if p.ndim == 4]
    return bool(images) and all(p.is_contiguous(memory_format=torch.channels_last) for p in images)


def _joined(columns: list[str] | None, validation: list[str] | None) -> list[str] | None:
    if columns is None or validation is None:
        return None
    return [*columns, *(f"validation_{name}" for name in validation)]


def _check_stopping(recipe: Recipe, columns: list[str] | None) -> None:
    monitor = recipe.early_stopping.monitor if isinstance(recipe.early_stopping, EarlyStopping) else None
    if columns is not None and monitor is not None and monitor not in columns:
        raise ValueError(f"early stopping watches {monitor!r}, which is not in the history: {', '.join(columns)}")


def _check_last_batch(step: Step, batches: Batches, device: torch.device) -> None:
    """Batch norm over vectors fails on one sample; better now than at the end of the first epoch."""
    parts, sizes, processes = step.recipe.accumulate, batches.sizes(), batches.world.size
    processes = 1 if batches.shared else processes  # the sizes are this process's own
    own = {max(1, (size + rank) // processes) for size in sizes for rank in range(processes)}
    alone = any(-(-size // parts) == 1 or size % -(-size // parts) == 1 for size in own)
    norms = any(isinstance(module, _BatchNorm) for module in step.model.modules())
    batch = batches.first(1) if alone and norms else None
    if batch is None:
        return
    told = ""
    with evaluating(step.model), torch.compiler.set_stance("force_eager"):
        step.model.train()
        try:
            step.check(batch.to(device), batches.targets)
        except Exception as e:  # a loss of the user's own may need more samples, too
            told = str(e)
    if "more than 1 value per channel" in told:
        cut = f", cut into accumulate={parts!r} parts," if parts > 1 else ""
        cut += f" of all {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"batches of {' and '.join(map(str, sorted(sizes, reverse=True)))} samples{cut} give batch norm 1 sample, "
            "which is too few; give another batch_size"
        )


def _tell_opaque(batches: Batches) -> None:
    name = batches.opaque() if isinstance(batches, LoaderBatches) else None
    if name is not None:
        warnings.warn(
            f"the state of a sampler {name} is in no checkpoint: a resumed run has the same batches where it draws "
            "from torch's global generator alone; else keep a torch.Generator in its attribute 'generator', or give "
            "the loader state_dict and load_state_dict",
            RuntimeWarning,
            stacklevel=3,
        )


def _stoppers(recipe: Recipe) -> list[Stopper]:
    if recipe.early_stopping is None:
        return []
    given = recipe.early_stopping
    return [Stopper(given if isinstance(given, EarlyStopping) else EarlyStopping(given))]
