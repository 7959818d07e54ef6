"""Argument checks: one form of error for the whole library, written once."""

from __future__ import annotations

import difflib
import importlib
import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def positive_int(name: str, value: object, *, least: int = 1) -> int:
    """Return *value* if it is an integer of at least *least*.

    >>> positive_int("epochs", 0)
    Traceback (most recent call last):
        ...
    ValueError: epochs must be at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return int(value)


def positive_ints(name: str, values: Sequence[object]) -> Sequence[int]:
    """Return *values*, a list or a tuple, with Python's integers if all are integers of at least 1.

    >>> positive_ints("hidden", (256, 0))
    Traceback (most recent call last):
        ...
    ValueError: hidden[1] must be at least 1, got 0
    """
    ints = [positive_int(f"{name}[{i}]", value) for i, value in enumerate(values)]
    return ints if isinstance(values, list) else tuple(ints)


def positive(name: str, value: object) -> float:
    """Return *value* if it is a finite number greater than zero."""
    if number(name, value) <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return float(value)  # type: ignore[arg-type]  # number() has checked it


def fraction(name: str, value: object) -> float:
    """Return *value* if it lies in [0, 1): the share of dropped units, of validation samples, ..."""
    if not 0 <= number(name, value) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return float(value)  # type: ignore[arg-type]  # number() has checked it


def number(name: str, value: object) -> float:
    """Return *value* if it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def flag(name: str, value: object) -> bool:
    """Return *value* if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def choice(kind: str, value: object, choices: Iterable[str]) -> str:
    """Return *value* if it is one of *choices*; otherwise the error names the nearest of them.

    >>> choice("model", "mpl", ["cnn", "mlp"])
    Traceback (most recent call last):
        ...
    ValueError: unknown model 'mpl'; did you mean 'mlp'?
    """
    names = list(choices)
    if isinstance(value, str) and value in names:
        return value
    near = difflib.get_close_matches(value.lower(), names, n=1) if isinstance(value, str) else []
    way_out = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(map(repr, names))}"
    raise ValueError(f"unknown {kind} {told(value)}; {way_out}")


def told(value: object) -> str:
    """Return what an error calls *value*: one short line, so of a model with its layers the type.

    >>> told(["fc1"]), told("fc" * 100)[-6:], told({n: n for n in range(99)})
    ("['fc1']", "fc...'", 'dict')
    """
    text = repr(value)
    if len(text) <= 100 and "\n" not in text:
        return text
    return repr(f"{value[:80]}...") if isinstance(value, str) else type(value).__name__


def require(module: str, extra: str) -> Any:
    """Import *module*, which comes with the extra *extra*.

    Raises:
        ImportError: it is not installed; the message is the pip line to type.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        package = module.partition(".")[0] if "tensorboard" not in module else "tensorboard"
        raise ImportError(f"{package} is not installed; pip install 'torchbasics[{extra}]'") from e
