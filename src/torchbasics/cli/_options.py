"""Options of the command line, computed from the recipe and read without torch."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torchbasics._recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCHS = 10


def add_recipe_options(command: argparse.ArgumentParser) -> None:
    """Add a flag for each value of a `Recipe`; those not given are left out of the result."""
    group = command.add_argument_group("recipe")
    group.add_argument("--recipe", metavar="NAME", help=f"start from a named one: {', '.join(RECIPES)}")
    for field in fields(Recipe):
        kind = str(field.type)  # "int", "float | None", "bool", ...
        default = EPOCHS if field.name == "epochs" else field.default
        shown = "" if default is None else f" (default: {default})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": field.metadata["help"] + shown}
        if kind == "bool":
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": _names if field.name == "augment" else _reader(kind), "metavar": field.name.upper()}
        group.add_argument(f"--{field.name.replace('_', '-')}", **options)


def recipe_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values that the user gave, as `fit` takes them."""
    given = {field.name: getattr(args, field.name) for field in fields(Recipe) if hasattr(args, field.name)}
    return given if args.recipe else {"epochs": EPOCHS, **given}


def add_data_options(command: argparse.ArgumentParser) -> None:
    """Add what names the data and the device."""
    group = command.add_argument_group("data")
    group.add_argument(
        *("--data",), metavar="DATA",
        help="mini (the images in the package), fashion_mnist, mnist, or a folder with a folder of images per class",
    )  # fmt: skip
    group.add_argument("--root", metavar="FOLDER", help="where the files of fashion_mnist and mnist are")
    group.add_argument(
        *("--size",), type=_size, metavar="SIDE|H,W", help="scale the images of a folder to this size"
    )  # fmt: skip
    group.add_argument("--grey", action="store_true", help="read the images of a folder without colour")
    command.add_argument("--device", default="auto", help="cpu, cuda, mps, ... (default: auto)")


def _reader(kind: str) -> Callable[[str], Any]:
    """Return what makes a value of the text: a number, or the text itself, or None where that is allowed."""
    convert: Callable[[str], Any] = int if kind.startswith("int") else float if kind.startswith("float") else str

    def read(text: str) -> Any:
        return None if "None" in kind and text.lower() == "none" else convert(text)

    read.__name__ = convert.__name__  # argparse names it in its message
    return read


def _names(text: str) -> str | tuple[str, ...]:
    return tuple(name for name in text.split(",") if name) if "," in text else text


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) if side.isdecimal() else 0 for side in text.split(",")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"takes pixels, SIDE or H,W, of at least 1, got {text!r}")
    return sides[0], sides[-1]


def share(text: str) -> float:
    """Return the share of the data that *text* says, for argparse.

    Raises:
        ArgumentTypeError: it is none that leaves something on both sides.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 1), got {text!r}")
    return value
