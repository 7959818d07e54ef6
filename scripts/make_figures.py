"""Draw the pictures of the documentation: ``python scripts/make_figures.py [NAME...]`` writes docs/images.

Pictures with words come twice, NAME.png for light pages and NAME-dark.png for dark ones; the others suit both. The
architectures are drawn by scripts/architectures.py. The same weights, seeds and versions give the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import architectures
import matplotlib as mpl
import numpy as np
import torch
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from torchbasics import data, models, plot, training

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/images"
WIDTH = 7.6  # inches: with DPI, about the width of a page's text
DPI = 120
COLOURS = 128  # of the palette of a picture
BINS = 15  # of the reliability diagram, as of the cards' calibration error

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
LIGHT = {**STYLE, "axes.prop_cycle": cycler(color=["#2f6db3", "#c8651b", "#3a8f4d"])}
INK, PAPER = "#ced6dd", "#14181e"  # of dark pages: the theme's own background
DARK = {
    **STYLE,
    "axes.prop_cycle": cycler(color=["#6cb0ff", "#f0a35e", "#5ac77b"]),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": "#8b949e",
}
ON_DARK = {"#1a7f37": "#3fb950", "#cf222e": "#ff7b72"}  # plot's right and wrong, bright enough


def predictions() -> Callable[[], Figure]:
    """What the pretrained cnn takes test images for: the first ten it gets right, and the first two it gets wrong."""
    model = models.get_model("cnn", weights="DEFAULT")
    _, test = data.fashion_mnist_mini()
    right = training.predict(model, test).argmax(1) == test.targets
    shown = torch.cat([right.nonzero()[:10, 0], (~right).nonzero()[:2, 0]])
    return lambda: plot.predictions(model, test[shown], columns=6)


def curves() -> Callable[[], Figure]:
    """The learning curves of a short training on the packaged images."""
    train, _ = data.fashion_mnist_mini()
    torch.manual_seed(0)
    history = training.fit(models.CNNModel(), train, epochs=10, validation=0.2, progress=False)

    def draw() -> Figure:
        figure = plot.history(history)
        figure.set_size_inches(WIDTH, 3)
        return figure

    return draw


def confusion() -> Callable[[], Figure]:
    """The confusion matrix on the card of the pretrained cnn: 10,000 test images."""
    card = models.get_weights("cnn")[0]
    return lambda: plot.confusion(card.metrics["confusion"], card.classes)


def feature_maps() -> Callable[[], Figure]:
    """What the two convolutions of the pretrained cnn give for one image, all at one scale."""
    model = models.get_model("cnn", weights="DEFAULT")
    _, test = data.fashion_mnist_mini()
    image = test.inputs[:1]  # an ankle boot
    maps = models.features(model, "conv1", "conv2")(image)
    parts = {"image": beside(image[0], 1)}
    for name, part in maps.items():
        parts[f"{name}: {'x'.join(map(str, part.shape[1:]))}"] = beside(part[0], 5)

    def draw() -> Figure:
        figure = Figure(figsize=(WIDTH, 1.9))
        sizes = [part.shape[1] for part in parts.values()]
        grid = {"width_ratios": sizes, "left": 0.01, "right": 0.99, "bottom": 0.02, "top": 0.88, "wspace": 0.12}
        for axes, (title, part) in zip(figure.subplots(1, 3, gridspec_kw=grid), parts.items(), strict=True):
            axes.imshow(part, cmap="gray", interpolation="nearest", vmin=0, vmax=1)
            axes.set_axis_off()
            axes.set_anchor("NW")
            axes.set_title(title, loc="left")
        return figure

    return draw


def activations() -> Callable[[], Figure]:
    """Four activations, and their derivatives by autograd."""
    x = torch.linspace(-4, 4, 401, requires_grad=True)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "ReLU": torch.relu,
        "LeakyReLU (0.1)": lambda x: torch.nn.functional.leaky_relu(x, 0.1),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }

    def draw() -> Figure:
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        for axes, (name, function) in zip(figure.subplots(1, 4, sharex=True), functions.items(), strict=True):
            y = function(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
            axes.plot(x.detach(), y.detach(), label="f(x)")
            axes.plot(x.detach(), slope, "--", linewidth=1.2, label="f'(x)")
            axes.set_title(name)
            axes.set_xticks([-4, 0, 4])
            axes.grid(visible=True)
        figure.axes[0].legend(loc="upper left")
        return figure

    return draw


def images_sample() -> Callable[[], Figure]:
    """Twelve training images of each class."""
    train, _ = data.fashion_mnist_mini()
    rows = [torch.cat([*train.images[train.targets == label][:12, 0]], dim=1) for label in range(len(train.classes))]

    def draw() -> Figure:
        figure = Figure(figsize=(WIDTH, 5.6))
        axes = figure.add_axes((0.12, 0, 0.88, 1))
        axes.imshow(torch.cat(rows), cmap="gray", interpolation="nearest")
        axes.set_yticks([28 * i + 13.5 for i in range(len(rows))], train.classes, fontsize=10)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return figure

    return draw


def fine_tuning() -> Callable[[], Figure]:
    """What examples/fine_tune.py measures; its table is printed."""
    spec = importlib.util.spec_from_file_location("fine_tune", ROOT / "examples/fine_tune.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("examples/fine_tune.py")
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    table = example.measure([10, 50, 200], 3, 300)
    print(example.markdown(table))

    def draw() -> Figure:
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel="labels per class", ylabel="test accuracy")
        for way in example.WAYS:
            rows = [row[way] for row in table.values()]
            spread = [*map(example.spread, rows)]
            axes.errorbar([*table], [*map(statistics.mean, rows)], spread, label=way, marker="o", capsize=3)
        axes.set_xticks([*table], [*map(str, table)], minor=False)
        axes.minorticks_off()
        axes.grid(visible=True)
        axes.legend()
        return figure

    return draw


def reliability() -> Callable[[], Figure]:
    """How often the pretrained cnn is right where it is so sure, on the 10,000 official test images."""
    model, card = models.get_model("cnn", weights="DEFAULT"), models.get_weights("cnn")[0]
    _, test = data.fashion_mnist()  # where TORCHBASICS_DATA says that they are
    sure, guesses = training.predict(model, test).softmax(1).max(1)
    right = guesses == test.targets
    of = (sure * BINS).long().clamp(max=BINS - 1)
    counts = of.bincount(minlength=BINS)
    accuracy = of.bincount(right.double(), BINS) / counts.clamp(min=1)
    error = card.metrics["calibration"]["error"]
    centres = (torch.arange(BINS) + 0.5) / BINS
    enough = counts >= 20  # fewer say nothing of a share

    def draw() -> Figure:
        figure = Figure(figsize=(4.6, 4.0), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], "--", color="C1", linewidth=1.2, label="as sure as right")
        upper.bar(centres[enough], accuracy[enough], 0.9 / BINS, label=f"calibration error {error:.4f}")
        upper.set(ylabel="share that is right", ylim=(0, 1), xlim=(0, 1))
        upper.legend(loc="upper left")
        lower.bar(centres, counts, 0.9 / BINS)
        lower.set(xlabel="probability of the class it names", ylabel="images", yscale="log")
        return figure

    return draw


def dcgan_grid() -> npt.NDArray[np.uint8]:
    """64 images of the pretrained dcgan."""
    model = models.get_model("dcgan", weights="DEFAULT")
    return tiles(model.sample(64, generator=torch.Generator().manual_seed(0)), columns=16, scale=2)


def latent_walk() -> npt.NDArray[np.uint8]:
    """Four ways between two points of the latent space each, along the great circle between them."""
    model = models.get_model("dcgan", weights="DEFAULT").eval()
    ends = model.noise(8, generator=torch.Generator().manual_seed(1)).view(4, 2, 1, -1)
    start, end = ends[:, 0], ends[:, 1]
    angle = torch.acos(torch.cosine_similarity(start, end, dim=-1))[..., None]
    way = torch.linspace(0, 1, 12)[None, :, None]
    noise = (start * torch.sin((1 - way) * angle) + end * torch.sin(way * angle)) / torch.sin(angle)
    with torch.no_grad():
        return tiles(model(noise.flatten(0, 1)), columns=12, scale=2)


def beside(channels: Tensor, columns: int) -> npt.NDArray[np.float32]:
    """Return channels (C, H, W), each from its least value to its greatest, in rows; NaN, drawn as paper, between."""
    low, high = channels.amin((1, 2), keepdim=True), channels.amax((1, 2), keepdim=True)
    framed = torch.nn.functional.pad((channels - low) / (high - low), (0, 1, 0, 1), value=float("nan"))
    made: npt.NDArray[np.float32] = (
        torch.cat([torch.cat([*row], 1) for row in torch.split(framed, columns)]).detach().numpy()
    )
    return made


def tiles(images: Tensor, *, columns: int, scale: int) -> npt.NDArray[np.uint8]:
    """Return grey images (N, 1, H, W) in [-1, 1] side by side, each pixel *scale* times as large."""
    grey = ((images[:, 0] + 1) * 127.5).round().to(torch.uint8)  # (N, H, W)
    rows = [torch.cat([*row], dim=1) for row in torch.split(grey, columns)]
    made: npt.NDArray[np.uint8] = np.kron(torch.cat(rows).numpy(), np.ones((scale, scale), np.uint8))
    return made


def write(image: Image.Image, path: Path) -> None:
    """Write a small PNG: few colours, no metadata."""
    image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def write_figure(draw: Callable[[], Figure], style: Any, path: Path) -> None:
    """Draw in a style and write."""
    with mpl.rc_context(style):
        figure = draw()
        if style is DARK:
            darken(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    write(Image.open(file), path)


def darken(figure: Figure) -> None:
    """Change the colours that `torchbasics.plot` chose for light pages."""
    for axes in figure.axes:
        title: Any = axes.title
        title.set_color(ON_DARK.get(title.get_color(), title.get_color()))
        for image in axes.images:
            if image.get_cmap().name == "Blues":  # a confusion matrix
                image.set_cmap(LinearSegmentedColormap.from_list("dark blues", ["#1c2530", "#58a6ff"]))
                for text in axes.texts:
                    text.set_color(PAPER if text.get_color() == "white" else INK)


FIGURES = {
    "predictions": predictions,
    "curves": curves,
    "confusion": confusion,
    "feature-maps": feature_maps,
    "activations": activations,
    "images-sample": images_sample,
    "fine-tuning": fine_tuning,
    "reliability": reliability,
}
MOSAICS = {"dcgan-grid": dcgan_grid, "latent-walk": latent_walk}
NAMES = [*FIGURES, *MOSAICS, *architectures.DRAWINGS]


def main(arguments: list[str] | None = None) -> None:
    """Write the pictures of these names, by default all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []], help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, default=OUT, help="the folder (default: docs/images)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or NAMES:
        if name in FIGURES:
            draw = FIGURES[name]()
            write_figure(draw, LIGHT, args.out / f"{name}.png")
            write_figure(draw, DARK, args.out / f"{name}-dark.png")
        elif name in MOSAICS:
            write(Image.fromarray(MOSAICS[name]()), args.out / f"{name}.png")
        else:
            for suffix, colours in (("", architectures.LIGHT), ("-dark", architectures.DARK)):
                text = architectures.DRAWINGS[name](colours)
                (args.out / f"{name}{suffix}.svg").write_text(text, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
