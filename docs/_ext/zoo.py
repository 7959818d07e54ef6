"""Directives for the pages of the model zoo, whose facts come from the models themselves.

``models`` is the table of all; ``model-facts`` and ``model-details`` tell of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sphinx.util.docutils import SphinxDirective

from torchbasics import _zoo, models

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from docutils.nodes import Node
    from sphinx.application import Sphinx

IMAGES = Path(__file__).resolve().parents[1] / "images"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def cards(name: str) -> str:
    """Return links to the cards of a model's weights."""
    return ", ".join(f"[`{c}`](../weights/{c.model}-{c.name}.md)" for c in models.get_weights(name)) or "none"


def all_models() -> str:
    """Return the table of the library's own models, with their default configuration."""
    rows = []
    for name, (_, line) in _zoo.BUILT_IN.items():
        parameters = sum(p.numel() for p in models.get_model(name).parameters())
        rows.append((f"[`{name}`]({name}.md)", line, f"{parameters:,}"))
    return table(("name", "what it is", "parameters by default"), rows)


def facts(name: str) -> str:
    """Return what there is to know of the model *name* at a glance."""
    model, cls = models.get_model(name).eval(), _zoo.BUILT_IN[name][0].partition(":")[2]
    inputs = _inputs(model)
    with torch.no_grad():
        outputs = model(inputs)
    shapes = [tuple(t.shape) for t in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]
    rows = [
        ("class", f"{{py:class}}`torchbasics.models.{cls}`"),
        ("example", f"`{tuple(inputs.shape)}` → {', '.join(f'`{shape}`' for shape in shapes)}"),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("weights", cards(name)),
    ]
    return table(("by default", ""), rows) + drawing(name)


def drawing(name: str) -> str:
    """Return the figure of the architecture, light and dark; none where it is not drawn."""
    stem = f"arch-{name.removeprefix('stacked_')}"
    if not (IMAGES / f"{stem}.svg").is_file():
        return ""
    figure = "\n:::{{figure}} ../images/{0}.svg\n:alt: The layers of {1}.\n:class: only-{2}\n:figclass: only-{2}\n:::\n"
    return figure.format(stem, name, "light") + figure.format(f"{stem}-dark", name, "dark")


def details(name: str) -> str:
    """Return the layers, the configuration and the names in the state_dict of the model *name*, as sections."""
    model: Any = models.get_model(name)
    inputs = _inputs(model)
    runs = [(model, inputs.shape)]
    if hasattr(model, "generator"):
        runs = [(model.generator, inputs.shape), (model.discriminator, model(inputs).shape)]
    layers = "\n\n".join(f"```text\n{models.summary(part, shape)}\n```" for part, shape in runs)
    config = [(f"`{key}`", f"`{value!r}`") for key, value in _zoo.config_of(model).items()]
    state = [
        (f"`{key}`", f"`{tuple(tensor.shape)}`", f"`{str(tensor.dtype).removeprefix('torch.')}`")
        for key, tensor in model.state_dict().items()
    ]
    return f"""
## Layers

{layers}

## Configuration

`get_model("{name}")` takes these by keyword; the values are the defaults.

{table(("argument", "value"), config)}

## Names in the state_dict

They stay as they are, so that files of older versions fit.

{table(("name", "shape", "dtype"), state)}
"""


def _inputs(model: Any) -> torch.Tensor:
    inputs: torch.Tensor = model.noise(1) if hasattr(model, "generator") else model.example_inputs()
    return inputs


class Models(SphinxDirective):
    """The table of all models."""

    def run(self) -> list[Node]:
        """Return its nodes."""
        return self.parse_text_to_nodes(all_models())


class Facts(SphinxDirective):
    """What there is to know of one model at a glance."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Return its nodes."""
        return self.parse_text_to_nodes(facts(self.arguments[0]))


class Details(SphinxDirective):
    """The sections about one model; they have to come last on their page."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Return its nodes."""
        return self.parse_text_to_nodes(details(self.arguments[0]), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("models", Models)
    app.add_directive("model-facts", Facts)
    app.add_directive("model-details", Details)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
