"""Pictures: images, predictions, learning curves, confusion matrices, as matplotlib figures.

Every function returns a new `matplotlib.figure.Figure`: save it with ``figure.savefig("name.png")``; a notebook shows
it after ``%matplotlib inline``. No window is opened and nothing of pyplot's state is touched.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics._model import modes_kept
from torchbasics.data import Images

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _WRONG = "#1a7f37", "#cf222e"  # green, red
_MAX_NUMBERED = 20  # classes; more counts than of these would be unreadable


def images(
    images: Images | Tensor | npt.NDArray[Any], *, titles: Sequence[str] | None = None, columns: int = 8
) -> Figure:
    """Draw images side by side.

    uint8 goes from black, 0, to white, 255. Floats go from 0 to 1, or from -1 to 1 where any of them is negative, as in
    the output of a generator that ends in tanh.

    Args:
        images: (N, C, H, W) with 1 or 3 channels, or (N, H, W).
        titles: One for each image; None = the class names of `torchbasics.data.Images`, nothing for others.
        columns: Images in a row.

    Raises:
        ValueError: another shape, no images, values outside these ranges, or another number of titles.

    >>> figure = images(torch.rand(10, 1, 28, 28))
    >>> len(figure.axes)
    10
    """
    _checks.positive_int("columns", columns)
    if isinstance(images, Images):
        if titles is None:
            titles = [images.classes[i] for i in images.targets.tolist()] if images.classes else None
        images = images.images
    return _grid(_pixels(torch.as_tensor(images).detach().cpu()), titles, columns)


def predictions(model: nn.Module, images: Images, n: int = 16, *, columns: int = 8) -> Figure:
    """Draw the first *n* images with what a classifier takes them for, and how probable that is to it.

    Green is right; red is wrong, with the true class below. The model computes in eval mode on its own device, and is
    left in the mode it was in.

    Args:
        model: (N, C, H, W) in [0, 1] -> logits (N, classes).
        images: The images; ``images[indices]`` chooses others than the first.
        n: How many at most.
        columns: Images in a row.

    Raises:
        TypeError: *images* are not `torchbasics.data.Images`.
        ValueError: the model's outputs are no logits for these classes.

    >>> from torchbasics import data
    >>> figure = predictions(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), data.fashion_mnist_mini()[1])
    >>> len(figure.axes)
    16
    """
    if not isinstance(images, Images):
        raise TypeError(f"images must be data.Images, got {type(images).__name__}")
    _checks.positive_int("columns", columns)
    shown = images[: _checks.positive_int("n", n)]
    pixels = _pixels(shown.images)
    logits = _forward(model, shown.inputs)
    wanted = f"(N, {len(shown.classes)})" if shown.classes else "(N, classes)"
    if logits.ndim != 2 or len(logits) != len(shown) or (shown.classes and logits.shape[1] != len(shown.classes)):
        raise ValueError(
            f"the model's outputs have shape {tuple(logits.shape)}, but logits of shape {wanted} are needed"
        )
    probabilities, guesses = logits.float().softmax(1).max(1)
    names = shown.classes or tuple(str(i) for i in range(max(logits.shape[1], int(shown.targets.max()) + 1)))
    titles, colors = [], []
    for probability, guess, true in zip(probabilities.tolist(), guesses.tolist(), shown.targets.tolist(), strict=True):
        right = guess == true
        titles.append(f"{names[guess]} {probability:.0%}" + ("" if right else f"\n(is {names[true]})"))
        colors.append(_RIGHT if right else _WRONG)
    return _grid(pixels, titles, columns, colors)


def history(history: Iterable[Mapping[str, float]]) -> Figure:
    """Draw the learning curves: losses in one diagram, all other metrics in a second one, if there are any.

    Values of the validation data (``validation_...``) are dashed, in the colour of the training's; "seconds" is left
    out.

    Args:
        history: For each epoch its values by name, such as `torchbasics.training.fit` returns.

    Raises:
        ValueError: it has no epochs, or no values.

    >>> figure = history([{"loss": 2.0, "accuracy": 0.2}, {"loss": 1.0, "accuracy": 0.7}])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss', 'accuracy']
    """
    epochs = list(history)
    if not epochs:
        raise ValueError("history has no epochs; nothing to draw")
    keys = [key for key in dict.fromkeys(itertools.chain.from_iterable(epochs)) if key != "seconds"]
    losses = [key for key in keys if key.endswith("loss")]
    groups = [group for group in (losses, [key for key in keys if key not in losses]) if group]
    if not groups:
        raise ValueError(f"history has no values to draw, only {list(dict.fromkeys(k for e in epochs for k in e))!r}")
    figure = _figure(5 * len(groups), 3.6)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        _curves(axes, epochs, group)
    return figure


def confusion(matrix: Tensor | npt.NDArray[Any] | Sequence[Sequence[int]], classes: Sequence[str] = ()) -> Figure:
    """Draw a confusion matrix: a row for each true class, a column for each predicted one.

    Numbers are counts; the colour is the share of the row.

    Args:
        matrix: Counts, (C, C).
        classes: C names; empty = numbers.

    Raises:
        ValueError: *matrix* is not square, or holds other than counts; another number of *classes*.

    >>> figure = confusion([[9, 1], [2, 8]], ["cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['9', '1', '2', '8']
    """
    counts = torch.as_tensor(matrix).detach().cpu().numpy()
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise ValueError(f"matrix must have shape (C, C), got {counts.shape!r}")
    if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise ValueError(f"matrix must hold counts, integers of at least 0, got {counts.dtype} from {counts.min()}")
    size = len(counts)
    if classes and len(classes) != size:
        raise ValueError(f"got {len(classes)} classes for a {size}x{size} matrix; each row needs one")
    names = list(classes) or [str(i) for i in range(size)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = _figure(*[min(2.2 + 0.5 * size, 14)] * 2)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if size <= _MAX_NUMBERED:
        for row, column in itertools.product(range(size), repeat=2):
            color = "white" if shares[row, column] > 0.5 else "0.25"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=9, color=color)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure: Figure = _checks.require("matplotlib.figure", "plot").Figure(figsize=(width, height), layout="constrained")
    return figure


def _grid(
    pixels: npt.NDArray[Any], titles: Sequence[str] | None, columns: int, colors: Sequence[str] | None = None
) -> Figure:
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(f"got {len(titles)} titles for {len(pixels)} images; each image needs one")
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=0) if titles else 0
    cell = 1.0 if titles is None else 1.3  # inches: a title is wider than a small image
    figure = _figure(cell * columns, (cell + 0.16 * lines) * rows)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i >= len(pixels):
            axes.remove()
            continue
        axes.imshow(pixels[i], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        if titles is not None:
            title = axes.set_title(titles[i], fontsize=8, pad=3)
            title.set_color(colors[i] if colors else title.get_color())
    return figure


def _pixels(images: Tensor) -> npt.NDArray[Any]:
    """Return *images* as matplotlib draws them: floats in [0, 1], (N, H, W) or (N, H, W, 3)."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or images.shape[1] not in {1, 3}:
        raise ValueError(f"images must have shape (N, 1 or 3, H, W) or (N, H, W), got {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"images are empty: their shape is {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        scaled = images.float() / 255
    elif images.is_floating_point():
        scaled = images.float()
        low, high = (float(x) for x in scaled.aminmax())
        if not (low >= -1 and high <= 1):  # also where they are NaN
            raise ValueError(f"images hold values from {low:g} to {high:g}; floats must be in [0, 1] or in [-1, 1]")
        scaled = scaled if low >= 0 else (scaled + 1) / 2
    else:
        raise ValueError(f"images must be uint8 or floats, got {images.dtype}")
    array: npt.NDArray[Any] = scaled.permute(0, 2, 3, 1).cpu().numpy()  # (N, H, W, C)
    return array[..., 0] if array.shape[-1] == 1 else array


def _forward(model: nn.Module, inputs: Tensor) -> Tensor:
    held = next(itertools.chain(model.parameters(), model.buffers()), inputs)
    with modes_kept(model), torch.no_grad():
        outputs = model.eval()(inputs.to(held.device))
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the model must return logits, a tensor, got {type(outputs).__name__}")
    return outputs.cpu()


def _curves(axes: Axes, epochs: Sequence[Mapping[str, float]], keys: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    bases = list(dict.fromkeys(key.removeprefix("validation_") for key in keys))
    for key in keys:
        base = key.removeprefix("validation_")
        points = [(i, epoch[key]) for i, epoch in enumerate(epochs, 1) if key in epoch]
        style = "-" if key == base else "--"
        label = key.replace("_", " ")
        axes.plot(*zip(*points, strict=True), style, color=f"C{bases.index(base)}", marker=".", label=label)
    axes.set(xlabel="epoch", ylabel=bases[0].replace("_", " ") if len(bases) == 1 else "")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
