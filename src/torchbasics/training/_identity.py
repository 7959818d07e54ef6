"""What makes a run the run it is, and what it is computed with: recorded, and compared when it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchbasics import _env, _files
from torchbasics._model import COMPILED, Model, plain_state, unwrapped
from torchbasics._parts import whole
from torchbasics._recipe import Recipe
from torchbasics._zoo import class_of
from torchbasics.data._batches import Batches
from torchbasics.training._metrics import make_metrics
from torchbasics.training._shards import is_told
from torchbasics.training._source import Teller, digest, settings
from torchbasics.training._step import Step

if TYPE_CHECKING:
    from torchbasics.training._run import Run

SHOWN = 3  # differences between two models in a message
LONGEST = 60  # characters of a value that are kept to be shown

# What a run goes on after a change of when it is told to: by a digest, or by texts of which not all can be told.
DIGESTS = {
    "data": "the data",
    "validation": "the validation data",
    "weights": "the starting weights",
    "source": "the source of the model's class",
    "settings": "the attributes of the model",
    "objects": "the code or the values of the recipe's",
    "metrics_source": "the code of the metrics (in the middle of an epoch)",
}

# Values of a recipe that may be functions or instances.
OBJECTS = ("loss", "optimizer", "schedule", "step", "augment")


def identify(run: Run) -> dict[str, Any]:
    """Return what a run is, as plain data: recipe, model, data, starting weights and source."""
    recipe, bare = run.state.recipe, unwrapped(run.model)
    names = _names(bare)
    tell = Teller({key: f"the model's {name}" for key, name in names.items()})
    return {
        "recipe": recipe.as_dict(),
        "objects": {name: digest(_told(tell, getattr(recipe, name))) for name in OBJECTS},
        "model": _describe(bare),
        "modules": {name: _describe(module) for name, module in _parts(bare)},
        "settings": {
            f"{path}.{name}".lstrip("."): _short(tell(value))
            for path, module in _parts(bare)
            for name, value in settings(module).items()
        },
        "trained": _trained(run.step, bare, names),
        "optimizers": _options(run.step, recipe, tell),
        "samples": run.train.samples,
        "batches": run.train.steps(),
        "loader": run.train.describe(),
        "data": run.train.digest(),
        "validation": _validation(run.validation),
        "weights": weights_digest(plain_state(run.model, whole=False)),
        "source": source_digest(run.model),
        "metrics": None if run.metrics is None else list(make_metrics(run.metrics)),
        "metrics_source": None if run.metrics is None else _metrics_digest(run.metrics, tell),
    }


def weights_digest(state: Mapping[str, Any]) -> str:
    """Return one digest of a model's state, wherever it lies, in whatever memory format, and in parts or not."""
    return _files.tensors_digest((name, whole(value)) for name, value in state.items())


def source_digest(model: nn.Module) -> str:
    """Digest the source of the model's classes, torch's and this package's left out: those have versions.

    A class without a file, as a notebook makes it, is known by the compiled code of its methods.
    """
    classes = {class_of(module) for module in unwrapped(model).modules()}
    return digest("\n".join(map(Teller(), sorted(classes, key=lambda cls: (cls.__module__, cls.__qualname__)))))


def changes(then: Mapping[str, Any], now: Mapping[str, Any], run: Run, *, own: bool) -> list[str]:
    """Name what would silently alter the run of the checkpoint *then*; more epochs alter nothing without a schedule.

    Args:
        then: The checkpoint.
        now: The run's identity.
        run: The run.
        own: Whether the model comes from the run of the checkpoint; the optimizer given then has moved with it.
    """
    before, after = then["recipe"], now["recipe"]
    free = {"epochs"} if after["schedule"] in (None, "constant") else set()  # other schedules depend on the total
    found = [
        f"{k} was {before.get(k)!r} and is {v!r}" for k, v in after.items() if k not in free and before.get(k) != v
    ]
    if then["model"] != now["model"]:
        found.append(f"the model was {then['model']} and is {now['model']}")
    else:
        found += _differences(
            _layout(then["model_state"]), _layout(plain_state(run.model, whole=False))
        ) or _differences(then["modules"], now["modules"])
    if not found:  # else these follow from it
        found += _other_optimizers(then, now, moved=own and isinstance(run.state.recipe.optimizer, Optimizer))
    if after["epochs"] < len(then["history"]):
        found.append(f"{len(then['history'])} epochs are done, and epochs={after['epochs']!r}")
    if stops_by_validation(run.state.recipe) and then["validation"] != now["validation"]:
        found.append("early stopping would compare other validation data")
    if then["position"] and then["metrics"] != now["metrics"]:
        found.append(f"metrics were {then['metrics']} and are {now['metrics']}, in the middle of an epoch")
    found += [
        f"the data had {then[unit]!r} {unit} and has {now[unit]!r}"
        for unit in ("samples", "batches")
        if then[unit] != now[unit] and not (unit == "batches" and now["samples"])
    ]
    return found + [
        f"the data's {name} was {then['loader'].get(name)!r} and is {value!r}"
        for name, value in now["loader"].items()
        if then["loader"].get(name) != value
    ]


def digests_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return which of `DIGESTS` changed, each with words for it."""
    words = {name: text for name, text in DIGESTS.items() if then[name] != now[name]}
    if "settings" in words:
        words["settings"] += f" ({'; '.join(_differences(then['settings'], now['settings']))})"
    if "objects" in words:
        changed = [name for name in OBJECTS if then["objects"][name] != now["objects"][name]]
        words["objects"] += f" {', '.join(changed)}"
    if not then["position"]:
        words.pop("metrics_source", None)
    return words


def stops_by_validation(recipe: Recipe) -> bool:
    """Whether early stopping watches what the validation data gives."""
    if recipe.early_stopping is None:
        return False
    monitor = getattr(recipe.early_stopping, "monitor", None)
    return monitor is None or monitor.startswith("validation_")


def numerics(device: torch.device, recipe: Recipe) -> dict[str, Any]:
    """Return what the last bits depend on."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "instructions": _env.instructions(),
        "reduced float32": _env.of_float32(device.type),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "layout": recipe.memory_format,
    }


def tell_numerics(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log where a resumed run is not computed as before; the order of the data is the same all the same."""
    other = [f"{k} was {then[k]!r} and is {v!r}" for k, v in now.items() if then.get(k, v) != v]
    if other:
        logging.getLogger("torchbasics").warning(
            "the run goes on with the same data order, but not to the same last bits: %s", "; ".join(other)
        )


def _describe(module: nn.Module) -> str:
    """Return a module's class, and its arguments where it tells them."""
    told, name = module.extra_repr(), class_of(module).__qualname__
    return f"{name}({told})" if told or isinstance(module, Model) else name


def _layout(state: Mapping[str, Any]) -> dict[str, str]:
    return {name: _form(value) for name, value in state.items()}


def _form(value: Any) -> str:
    if is_told(value):
        return f"{tuple(value['shape'])} of {value['dtype']}"
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    told = [f"{name!r} was {before.get(name, 'absent')} and is {after.get(name, 'absent')}" for name in names[:SHOWN]]
    return told + ([f"and {len(names) - SHOWN} more differences"] if len(names) > SHOWN else [])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... (SHA-256 {digest(text)[:16]})"


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules in a model by the names that they have without any wrapper."""
    for name, module in model.named_modules():
        if not hasattr(module, "_orig_mod"):
            yield f"{name}.".replace(COMPILED, "")[:-1], module


def _names(model: nn.Module) -> dict[int, str]:
    """Return the names of a model's tensors and modules by id."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {id(module): name for name, module in _parts(model)} | {
        id(tensor): name.replace(COMPILED, "") for name, tensor in tensors
    }


def _told(tell: Teller, value: Any) -> str:
    return tell.attributes(value) if isinstance(value, Step) else tell(value)


def _validation(batches: Batches | None) -> list[Any] | None:
    if batches is None:
        return None
    steps = None if batches.samples else batches.steps()  # of a known number of samples they are cut for the processes
    return [batches.samples, steps, batches.digest(), batches.describe()]


def _metrics_digest(metrics: Any, tell: Teller) -> str:
    made = make_metrics(metrics).items()
    return digest("\n".join(f"{name} {tell(m) if callable(m) else tell.attributes(m)}" for name, m in made))


def _trained(step: Step, model: nn.Module, names: Mapping[int, str]) -> dict[str, str]:
    """Return which parameters are trained and which are not, by name, in the optimizers' order."""
    told = {}
    groups = [group for optimizer in step.optimizers for group in optimizer.param_groups]
    for i, group in enumerate(groups):
        for j, parameter in enumerate(group["params"]):
            name = names.get(id(parameter), f"outside the model: {j} of group {i}")
            told[name] = f"{_state(parameter)} (group {i})"
    rest = {names[id(p)]: _state(p) for p in model.parameters() if names[id(p)] not in told}
    return told | rest


def _state(parameter: Tensor) -> str:
    return "trained" if parameter.requires_grad else "frozen"


def _options(step: Step, recipe: Recipe, tell: Teller) -> dict[str, str]:
    """Return the classes and options of optimizers, and of schedules that have no name in the recipe."""
    told = {f"class of optimizer {i}": type(o).__qualname__ for i, o in enumerate(step.optimizers)}
    groups = [group for optimizer in step.optimizers for group in optimizer.param_groups]
    for i, group in enumerate(groups):
        told |= {f"{k} of group {i}": _short(tell(v)) for k, v in group.items() if k not in ("params", "param_names")}
    named = recipe.schedule[0] if isinstance(recipe.schedule, tuple) else recipe.schedule
    for i, schedule in enumerate([] if isinstance(named, str) else step.schedules):
        told |= {f"{k} of schedule {i}": _short(tell(v)) for k, v in schedule.state_dict().items()}
    return told


def _other_optimizers(then: Mapping[str, Any], now: Mapping[str, Any], *, moved: bool) -> list[str]:
    found = _differences(then["trained"], now["trained"])
    if not found and list(then["trained"]) != list(now["trained"]):
        found = ["the optimizer had the parameters in another order"]
    before, after = then["optimizers"], now["optimizers"]
    common = [name for name in before if name in after]  # releases of torch add options
    if moved:
        common = [name for name in common if name.startswith("class")]
    return found + _differences({name: before[name] for name in common}, {name: after[name] for name in common})
