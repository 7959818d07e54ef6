"""Architectures as SVG, drawn from the models themselves: what ran, which shapes came out, how many parameters.

A model is run once. Hooks see its layers, and a mode of torch's the functions between them (pooling, activations); so a
change of a model changes its picture. ``python scripts/make_figures.py arch-cnn`` writes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchbasics import models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH = 760
# Functions that are shown, by the name torch has for them; modules go by the name of their class.
FUNCTIONS = {"relu": "ReLU", "tanh": "tanh", "max_pool2d": "max pool", "_max_pool2d": "max pool"}
WORDS = {"BatchNorm1d": "batch norm", "BatchNorm2d": "batch norm", "Dropout": "dropout"}


class Colours(NamedTuple):
    """Of a page."""

    ink: str
    faint: str
    line: str
    front: str
    top: str
    side: str


LIGHT = Colours("#1f2328", "#59636e", "#3b6ea5", "#dce9f7", "#c7dbf0", "#b3cce6")
DARK = Colours("#e6edf3", "#9da7b3", "#6cb0ff", "#1d3248", "#274460", "#16283a")


@dataclass
class Stage:
    """A layer, or a function that changes the shape, and what follows it without changing that."""

    shape: tuple[int, ...]
    name: str
    kind: str
    parameters: int = 0
    after: list[str] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """Sees what a model runs: leaf modules by hooks, functions outside them by being a mode."""

    def __init__(self, model: nn.Module, first: Stage) -> None:
        super().__init__()
        self.stages = [first]
        self.inside = 0
        self.names: dict[nn.Module, str] = {part: name for name, part in model.named_modules()}
        self.handles = []
        for part in self.names:
            if not list(part.children()):
                self.handles += [part.register_forward_pre_hook(self.enter), part.register_forward_hook(self.leave)]

    def enter(self, part: nn.Module, inputs: Any) -> None:
        """Be inside a layer."""
        self.inside += 1

    def leave(self, part: nn.Module, inputs: Any, output: Tensor) -> None:
        """Note a layer."""
        self.inside -= 1
        kind = type(part).__name__
        parameters = sum(p.numel() for p in part.parameters())
        size = getattr(part, "kernel_size", None)
        last = self.names[part].rpartition(".")[2]
        name = self.names[part] if last.isdigit() else last  # "net.0", for "0" says nothing
        self.add(name, WORDS.get(kind, kind) + (f" {'×'.join(map(str, size))}" if size else ""), parameters, output)

    def add(self, name: str, kind: str, parameters: int, output: Tensor) -> None:
        """Note what gave *output*: a new stage, or something that left the shape of the last one."""
        shape, last = tuple(output.shape[1:]), self.stages[-1]
        if shape == last.shape and kind.partition(" ")[0] not in {"Linear", "Conv2d", "ConvTranspose2d"}:
            last.after.append(kind)
            last.parameters += parameters
        else:
            self.stages.append(Stage(shape, name, kind, parameters))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and note it if it is one to be shown."""
        output = func(*args, **(kwargs or {}))
        word = FUNCTIONS.get(getattr(func, "__name__", ""))
        if word and not self.inside:
            self.add("", f"{word} {args[1]}×{args[1]}" if word == "max pool" else word, 0, output)
        return output


def stages(model: nn.Module, inputs: Tensor, name: str) -> list[Stage]:
    """Run *model* on *inputs*, which are called *name*, and return what happened."""
    recorder = Recorder(model, Stage(tuple(inputs.shape[1:]), name, ""))
    try:
        with recorder:
            model.eval()(inputs)
    finally:
        for handle in recorder.handles:
            handle.remove()
    if sum(stage.parameters for stage in recorder.stages) != sum(p.numel() for p in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has parameters that belong to no layer that was run; draw it otherwise"
        )
    return recorder.stages


class Drawing:
    """An SVG that grows."""

    def __init__(self, title: str, colours: Colours) -> None:
        self.title = title
        self.colours = colours
        self.parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, *, size: int = 12, faint: bool = False, anchor: str = "middle"
    ) -> None:
        """Write words around, or from, a point."""
        colour = self.colours.faint if faint else self.colours.ink
        look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(words)}</text>')

    def polygon(self, points: Sequence[tuple[float, float]], fill: str) -> None:
        """Fill a polygon, and draw its edges."""
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polygon points="{corners}" fill="{fill}" stroke="{self.colours.line}" stroke-linejoin="round"/>'
        )

    def box(self, x: float, y: float, width: float, height: float) -> None:
        """Draw a box with round corners."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" '
            f'fill="{self.colours.front}" stroke="{self.colours.line}"/>'
        )

    def block(self, x: float, y: float, width: float, height: float, depth: float) -> None:
        """Draw a cuboid whose front's corner is at (x, y)."""
        d, e = depth, depth / 2
        self.polygon([(x, y), (x + d, y - e), (x + width + d, y - e), (x + width, y)], self.colours.top)
        right = [(x + width, y), (x + width + d, y - e), (x + width + d, y + height - e), (x + width, y + height)]
        self.polygon(right, self.colours.side)
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], self.colours.front)

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw an arrow."""
        angle = math.atan2(y2 - y1, x2 - x1)
        head = [(x2 - 6 * math.cos(angle + turn), y2 - 6 * math.sin(angle + turn)) for turn in (0.4, -0.4)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [head[0], (x2, y2), head[1]])
        style = f'fill="none" stroke="{self.colours.faint}"'
        self.parts.append(
            f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" {style}/><polyline points="{points}" {style}/>'
        )

    def svg(self, height: float) -> str:
        """Return the file."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img"'
        font = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
        return "\n".join([f"{head} {font}>", f"<title>{escape(self.title)}</title>", *self.parts, "</svg>\n"])


def chain(drawing: Drawing, made: Sequence[Stage], top: float) -> float:
    """Draw stages from left to right, and return where the next thing may begin."""
    column, middle = WIDTH / len(made), top + 62
    ends = 0.0
    for i, stage in enumerate(made):
        centre = column * (i + 0.5)
        width, height, depth = size(stage.shape)
        left = centre - (width + depth) / 2
        if i:
            drawing.arrow(ends + 4, middle, left - 4, middle)
        drawing.block(left, middle - height / 2 + depth / 4, width, height, depth)
        ends = left + width + depth
        drawing.text(centre, top + 146, "×".join(map(str, stage.shape)), size=13)
        lines = [stage.name, stage.kind, *stage.after, f"{stage.parameters:,} parameters" if stage.parameters else ""]
        for row, line in enumerate(filter(None, lines)):
            drawing.text(centre, top + 164 + 15 * row, line, size=11, faint=True)
    rows = max(len([line for line in (s.name, s.kind, *s.after, s.parameters) if line]) for s in made)
    return top + 164 + 15 * rows


def size(shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Return width, height and depth of what is drawn for a shape, all by logarithms."""
    if len(shape) == 3:
        channels, height, width = shape
        return 13 * math.log2(width + 1), 13 * math.log2(height + 1), 1.5 + 3.2 * math.log2(channels)
    return 10, 11 * math.log2(math.prod(shape) + 1), 3


def cnn(colours: Colours) -> str:
    """The tutorial's network."""
    model = models.CNNModel()
    drawing = Drawing("CNNModel, layer by layer", colours)
    bottom = chain(drawing, stages(model, model.example_inputs(), "images"), 0)
    return closed(drawing, model, bottom)


def mlp(colours: Colours) -> str:
    """The registered mlp."""
    model = models.get_model("mlp")
    drawing = Drawing("MLP, layer by layer", colours)
    bottom = chain(drawing, stages(model, model.example_inputs(), "inputs"), 0)
    return closed(drawing, model, bottom)


def dcgan(colours: Colours) -> str:
    """Generator above, discriminator below."""
    model = models.DCGAN()
    noise = model.example_inputs()
    drawing = Drawing("DCGAN: generator and discriminator, layer by layer", colours)
    drawing.text(0, 14, "generator", size=13, anchor="start")
    bottom = chain(drawing, stages(model.generator, noise, "noise"), 14)
    drawing.text(0, bottom + 22, "discriminator", size=13, anchor="start")
    bottom = chain(drawing, stages(model.discriminator, model.generator(noise), "images"), bottom + 22)
    return closed(drawing, model, bottom)


def rnn(colours: Colours) -> str:
    """Two recurrent layers, unrolled over the steps of a sequence."""
    model = models.StackedRNN(28, 128, num_layers=2)
    output, hidden = model(torch.zeros(28, 1, 28))
    steps, layers = ["1", "2", "3", "…", f"{len(output)}"], model.cells()
    drawing = Drawing("StackedRNN with two layers, unrolled in time", colours)
    left, column, row, wide, high = 150, 104, 78, 72, 40
    bottom = 44 + row * len(layers)
    x: float
    for layer, (cell, *_) in enumerate(layers):
        y = bottom - row * (layer + 1) + 18
        parameters = sum(p.numel() for p in cell.parameters())
        drawing.text(0, y + 12, f"layer {layer}", size=13, anchor="start")
        drawing.text(
            0,
            y + 28,
            f"{type(cell).__name__}({cell.input_size}, {cell.hidden_size})",
            size=11,
            faint=True,
            anchor="start",
        )
        drawing.text(0, y + 42, f"{parameters:,} parameters", size=11, faint=True, anchor="start")
        drawing.arrow(left - 18, y + high / 2, left - 3, y + high / 2)
        drawing.text(left - 25, y + high / 2 + 4, "0", size=12)
        for i, step in enumerate(steps):
            x = left + column * i
            if step == "…":
                drawing.text(x + wide / 2, y + high / 2 + 4, "…", size=16)
            else:
                drawing.box(x, y, wide, high)
                drawing.text(x + wide / 2, y + high / 2 + 4, "cell")
                drawing.arrow(x + wide / 2, y + high + row - high - 4, x + wide / 2, y + high + 3)
            drawing.arrow(x + wide + 3, y + high / 2, x + column - 3, y + high / 2)
        drawing.text(left + column * len(steps) + 2, y + high / 2 + 4, f"hidden[{layer}]", size=12, anchor="start")
    top = bottom - row * len(layers) + 18
    for i, step in enumerate(steps):
        x = left + column * i + wide / 2
        drawing.text(x, bottom + 32, "…" if step == "…" else f"x{sub(step)}")
        drawing.text(x, top - 26, "…" if step == "…" else f"output{sub(step)}")
        if step != "…":
            drawing.arrow(x, top - 3, x, top - 20)
    shapes = f"input {shape(torch.zeros(28, 1, 28))} → output {shape(output)}, hidden {shape(hidden)}"
    drawing.text(WIDTH / 2, bottom + 56, shapes, size=12, faint=True)
    return closed(drawing, model, bottom + 62)


def sub(digits: str) -> str:
    """Return a number as an index below the line."""
    return digits.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def shape(tensor: Any) -> str:
    """Return the shape for people."""
    return f"({', '.join(map(str, tensor.shape))})"


def closed(drawing: Drawing, model: nn.Module, bottom: float) -> str:
    """Write the total, and return the file."""
    total = sum(p.numel() for p in model.parameters())
    drawing.text(WIDTH / 2, bottom + 14, f"{type(model).__name__}: {total:,} parameters in all")
    return drawing.svg(bottom + 24)


DRAWINGS: dict[str, Callable[[Colours], str]] = {"arch-mlp": mlp, "arch-cnn": cnn, "arch-rnn": rnn, "arch-dcgan": dcgan}
