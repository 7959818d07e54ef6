"""Directives for the pages of the model zoo, whose facts come from the models themselves.

``models`` is the table of all; ``model`` says of one: its arguments, layers, names in the state_dict, and weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    for name, (path, line) in _zoo.BUILT_IN.items():
        model, cls = models.get_model(name), path.partition(":")[2]
        parameters = sum(p.numel() for p in model.parameters())
        rows.append((f"[`{name}`]({name}.md)", f"{{py:class}}`~torchbasics.models.{cls}`", line, f"{parameters:,}"))
    return table(("name", "class", "what it is", "parameters by default"), rows)


def one_model(name: str) -> str:
    """Return what there is to know of the model *name*."""
    model, cls = models.get_model(name), _zoo.BUILT_IN[name][0].partition(":")[2]
    generator = getattr(model, "generator", None)
    inputs = model.example_inputs() if generator is None else model.noise(2)
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    shapes = [tuple(t.shape) for t in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]
    parameters = sum(p.numel() for p in model.parameters())
    facts = [
        ("class", f"{{py:class}}`torchbasics.models.{cls}`"),
        ("example", f"`{tuple(inputs.shape)}` → {', '.join(f'`{shape}`' for shape in shapes)}"),
        ("parameters", f"{parameters:,}"),
        ("weights", cards(name)),
    ]
    config = [(f"`{key}`", f"`{value!r}`") for key, value in _zoo.config_of(model).items()]
    state = [
        (f"`{key}`", f"`{tuple(tensor.shape)}`", f"`{str(tensor.dtype).removeprefix('torch.')}`")
        for key, tensor in model.state_dict().items()
    ]
    parts = [table(("by default", ""), facts)]
    if (IMAGES / f"arch-{name}.svg").is_file():
        parts.append(f":::{{figure}} ../images/arch-{name}.svg\n:alt: The layers of {name}.\n:::\n")
    parts.append("## Layers\n")
    for part, shape in [(model, inputs.shape)] if generator is None else [(generator, inputs.shape), (model.discriminator, shapes[0])]:
        parts.append(f"```text\n{models.summary(part, shape)}\n```\n")
    parts += [
        f'## Configuration\n\n`get_model("{name}")` takes these by keyword; the values are the defaults.\n',
        table(("argument", "value"), config),
        "## Names in the state_dict\n\nThey stay as they are: files of older versions fit.\n",
        table(("name", "shape", "dtype"), state),
    ]
    return "\n".join(parts)


class Models(SphinxDirective):
    """The table of all models."""

    def run(self) -> list[Node]:
        """Return its nodes."""
        return self.parse_text_to_nodes(all_models())


class Model(SphinxDirective):
    """What there is to know of one model."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Return its nodes."""
        return self.parse_text_to_nodes(one_model(self.arguments[0]), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("models", Models)
    app.add_directive("model", Model)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
