"""The data that the command line names, and models made to fit it."""

from __future__ import annotations

import inspect
from ast import literal_eval
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchbasics import _checks, _zoo, data
from torchbasics._model import modes_kept
from torchbasics.data._folder import GIVE_SIZE
from torchbasics.data._order import split

if TYPE_CHECKING:
    import argparse

    from torch import nn

    from torchbasics.data import Images

NAMES = ("mini", "fashion_mnist", "mnist")
TEST_SHARE = 0.2  # of a folder that has no parts of its own


def load_data(args: argparse.Namespace, name: str) -> tuple[Images, Images]:
    """Return the train and test parts of the data *name*: one of `NAMES`, or a folder.

    Raises:
        ValueError: neither a name nor a folder, or options that do not go with it.
        FileNotFoundError: files are missing.
    """
    is_folder = name not in NAMES
    if is_folder and not Path(name).is_dir():
        _checks.choice("data", name, (*NAMES, "FOLDER"))
    if args.root and name not in ("fashion_mnist", "mnist"):
        raise ValueError(f"--root goes with --data fashion_mnist or mnist, got --data {name}")
    if not is_folder and (args.size or args.grey):
        raise ValueError(f"--size and --grey go with a folder of images, got --data {name}")
    if is_folder:
        return _folder(Path(name), args.size, 1 if args.grey else 3)
    if name == "mini":
        return data.fashion_mnist_mini()
    return data.fashion_mnist(args.root) if name == "fashion_mnist" else data.mnist(args.root)


def _folder(folder: Path, size: tuple[int, int] | None, channels: Any) -> tuple[Images, Images]:
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _images(folder / "train", size, channels), _images(folder / "test", size, channels)
    both = _images(folder, size, channels)
    if len(both) < 1 / TEST_SHARE:
        raise ValueError(f"{str(folder)!r} holds only {len(both)} images; a fifth of them has to be left for the test")
    first, second = split(len(both), TEST_SHARE, 0)  # the same every time: evaluate sees what train left out
    return both[first], both[second]


def _images(folder: Path, size: tuple[int, int] | None, channels: Any) -> Images:
    try:
        return data.images(folder, size=size, channels=channels)
    except ValueError as e:
        raise ValueError(str(e).replace(GIVE_SIZE, "give --size")) from e


def make_model(name: str, given: dict[str, Any], images: Images) -> nn.Module:
    """Make the model *name* to fit *images*; *given* are arguments that win.

    Raises:
        TypeError, ValueError: there is no such model or argument, or what it makes of inputs is no tensor.
    """
    model = _zoo.build(name, **fit_config(name, given, images))
    example: Any = getattr(model, "example_inputs", None)
    if example is not None:
        inputs = example()
        with torch.no_grad(), modes_kept(model):
            outputs = model.eval()(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"{name!r} is a layer, not a classifier: it returns a {type(outputs).__name__}, not logits; "
                f"did you mean {_alike(name)!r}?"
            )
    return model


def _alike(name: str) -> str:
    """Return the classifier that shares most arguments with the model *name*."""
    own = set(_zoo.parameters(_zoo.entry(name).cls))
    known = {other: set(_zoo.parameters(_zoo.entry(other).cls)) for other in _zoo.BUILT_IN if other != name}
    return max((other for other in known if "num_classes" in known[other]), key=lambda other: len(known[other] & own))


def fit_config(name: str, given: dict[str, Any], images: Images) -> dict[str, Any]:
    """Return *given* with the sizes that *images* ask for, where the model has such arguments."""
    channels, height, width = images.images.shape[1:]
    classes = len(images.classes) or int(images.targets.max()) + 1
    fitting = {
        "num_classes": classes,
        "out_features": classes,
        "in_channels": channels,
        "out_channels": channels,
        "image_size": height if height == width else (height, width),
        "in_features": channels * height * width,
        "input_size": channels * width,
    }
    arguments = _zoo.parameters(_zoo.entry(name).cls)
    return {key: value for key, value in fitting.items() if key in arguments} | given


def read_config(name: str, pairs: list[str]) -> dict[str, Any]:
    """Return the model's arguments from texts such as "hidden=64,32".

    Raises:
        ValueError: a text is no NAME=VALUE.
    """
    entry = _zoo.entry(name)
    defaults = {p.name: p.default for p in inspect.signature(entry.cls).parameters.values()} | dict(entry.defaults)
    config = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set takes NAME=VALUE, got {pair!r}")
        value = _value(text)
        alone = isinstance(defaults.get(key), tuple) and not isinstance(value, tuple)
        config[key] = (value,) if alone else value  # hidden=64 means (64,)
    return config


def _value(text: str) -> Any:
    if "," in text or not text:
        return tuple(_value(part) for part in text.split(",") if part)
    try:
        return literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        return text  # a name, such as relu
