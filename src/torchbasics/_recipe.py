"""A recipe: all that decides the result of a run, as plain data. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

from torchbasics import _checks

Precision = Literal["float32", "bfloat16", "float16"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]


@dataclass(frozen=True)
class EarlyStopping:
    """End a run that no longer gets better.

    Args:
        patience: Epochs without a new best value before the run ends.
        monitor: The history's column to watch; None = "validation_loss" where there is one, else "loss".
            Columns that end in "loss" or "error" are to fall, all others to rise.
        restore_best: Whether the model ends with the weights of its best epoch.

    >>> Recipe(epochs=100, early_stopping=EarlyStopping(patience=5, monitor="validation_accuracy")).early_stopping
    EarlyStopping(patience=5, monitor='validation_accuracy', restore_best=True)
    """

    patience: int
    monitor: str | None = None
    restore_best: bool = True

    def __post_init__(self) -> None:
        _checks.positive_int("patience", self.patience)
        _checks.flag("restore_best", self.restore_best)
        if self.monitor is not None and not isinstance(self.monitor, str):
            raise TypeError(f"monitor must be the name of a column, got {self.monitor!r}")


def tuples(value: Any) -> Any:
    """Return JSON data with tuples in the place of lists."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the result of a run; `fit` takes the same names as keyword arguments.

    Optimizer and schedule: a name, a (name, options) pair, a factory or an instance. Only names and numbers can be
    written to a file and repeated elsewhere; functions and instances are recorded by their qualified name.

    Raises:
        TypeError, ValueError: a value is not one that can be used; the message names it.

    >>> Recipe(epochs=3, lr=0.1).replace(lr=0.2).lr
    0.2
    """

    epochs: int = field(default=1, metadata={"help": "passes over the training data"})
    batch_size: int | None = field(default=None, metadata={"help": "samples of one update"})
    loss: Any = field(default=None, metadata={"help": "cross_entropy, mse, ...; by the targets when left out"})
    optimizer: Any = field(default=None, metadata={"help": "adamw, sgd, ..."})
    lr: float | None = field(default=None, metadata={"help": "learning rate; the peak where the schedule has one"})
    schedule: Any = field(default=None, metadata={"help": "onecycle, cosine, linear, constant"})
    step: Any = field(default=None, metadata={"help": "supervised or adversarial; the model's own when left out"})
    augment: Any = field(default=None, metadata={"help": "change each batch: flip, shift, shift1 (by one pixel)"})
    shuffle: bool = field(default=True, metadata={"help": "visit the samples in another order each epoch"})
    accumulate: int = field(
        default=1, metadata={"help": "parts into which the batch of one update is cut, to save memory"}
    )
    clip_norm: float | None = field(default=None, metadata={"help": "largest norm of the gradient"})
    precision: Precision = field(default="float32", metadata={"help": "float32, bfloat16 or float16 arithmetic"})
    memory_format: MemoryFormat = field(default="auto", metadata={"help": "auto, contiguous or channels_last"})
    compile: bool = field(default=False, metadata={"help": "run the model through torch.compile"})
    fused: bool = field(default=False, metadata={"help": "use the optimizer's fused kernels: faster, other last bits"})
    early_stopping: int | EarlyStopping | None = field(
        default=None, metadata={"help": "epochs without a better value before the run ends"}
    )
    ema: float | None = field(
        default=None, metadata={"help": "decay of an average of the weights, like 0.999, which the model ends with"}
    )
    seed: int | None = field(
        default=0, metadata={"help": "of the order, augmentation, dropout; none = from the global generators"}
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate"):
            self._set(name, _checks.positive_int(name, getattr(self, name)))
        for name in ("optimizer", "schedule", "augment"):  # as they come from a file
            self._set(name, tuples(getattr(self, name)))
        if self.ema is not None:
            self._set("ema", _checks.fraction("ema", self.ema))
        _checks.choice("precision", self.precision, ("float32", "bfloat16", "float16"))
        _checks.choice("memory_format", self.memory_format, ("auto", "contiguous", "channels_last"))
        for name in ("shuffle", "compile", "fused"):
            _checks.flag(name, getattr(self, name))
        for name, check in {
            "batch_size": _checks.positive_int,
            "lr": _checks.positive,
            "clip_norm": _checks.positive,
        }.items():
            if getattr(self, name) is not None:
                self._set(name, check(name, getattr(self, name)))
        if self.seed is not None:
            self._set("seed", _checks.positive_int("seed", self.seed, least=0))
            if self.seed >= 2**63:
                raise ValueError(f"seed must be below 2**63, got {self.seed!r}")
        stopping: Any = self.early_stopping
        if isinstance(stopping, dict):  # as it comes from a file
            self._set("early_stopping", EarlyStopping(**stopping))
        elif stopping is not None and not isinstance(stopping, EarlyStopping):
            _checks.positive_int("early_stopping", stopping)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen for everyone else

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some values changed.

        Raises:
            TypeError: there is no such value; the nearest is named.
        """
        for name in changes:
            if name not in NAMES:
                try:
                    _checks.choice("option", name, NAMES)
                except ValueError as e:
                    raise TypeError(str(e)) from None
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON data; functions and instances become their qualified names.

        >>> Recipe(epochs=2).as_dict()["epochs"]
        2
        """
        return {name: _plain(getattr(self, name)) for name in NAMES}

    def plain(self) -> Recipe:
        """Return the recipe with functions and instances replaced by their names: data that can go anywhere."""
        return Recipe(**self.as_dict())

    def describe(self) -> str:
        """Return the choices in one line, for people."""
        parts = [f"{_short(self.optimizer)}, lr {self.lr:g}" if self.lr else _short(self.optimizer)]
        parts += [] if self.schedule in (None, "constant") else [f"schedule {_short(self.schedule)}"]
        parts += [f"batch size {self.batch_size}"] if self.batch_size else []
        parts += [f"epochs {self.epochs}", self.precision, self.memory_format, f"seed {self.seed}"]
        return ", ".join(parts)


NAMES = tuple(f.name for f in fields(Recipe))

RECIPES = {
    # The setting of the tutorial that this library grew from; it learns slowly, and is here to be compared with.
    "tutorial": Recipe(epochs=10, batch_size=100, loss="cross_entropy", optimizer="sgd", lr=5e-4),
}


class Options(TypedDict, total=False):
    """The values of a `Recipe`, for the keyword arguments of `fit`."""

    batch_size: int | None
    loss: Any
    optimizer: Any
    lr: float | None
    schedule: Any
    step: Any
    augment: Any
    shuffle: bool
    accumulate: int
    clip_norm: float | None
    precision: Precision
    memory_format: MemoryFormat
    compile: bool
    fused: bool
    early_stopping: int | EarlyStopping | None
    ema: float | None
    seed: int | None


def make_recipe(recipe: Recipe | str | None, **options: Any) -> Recipe:
    """Make the recipe that `fit` is to follow: a whole one, a named one, or one of *options*, which always win.

    Raises:
        ValueError: no recipe has this name, or a value cannot be used.
        TypeError: there is no such option, or epochs are missing.
    """
    if isinstance(recipe, str):
        recipe = RECIPES[_checks.choice("recipe", recipe, RECIPES)]
    if recipe is None and "epochs" not in options:
        raise TypeError("fit needs epochs=... or recipe=...")
    return (recipe or Recipe()).replace(**options)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, EarlyStopping):
        return asdict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return str(value[0])
    return value if isinstance(value, str) else str(_plain(value)).rpartition(".")[2]
