"""The pictures of the documentation: there, small, for light and dark pages, and of today's models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from tests.helpers import module_at

if TYPE_CHECKING:
    pass

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
SHOWN = re.compile(r"[\w./-]*images/([\w-]+\.(?:png|svg))")


DRAWN = module_at("scripts/architectures.py")


@pytest.mark.parametrize("suffix", ["", "-dark"])
@pytest.mark.parametrize("name", DRAWN.DRAWINGS)
def test_an_architecture_is_drawn_as_its_model_is(name: str, suffix: str) -> None:
    """`python scripts/make_figures.py NAME` would change nothing."""
    drawn = DRAWN.DRAWINGS[name](DRAWN.DARK if suffix else DRAWN.LIGHT)

    assert IMAGES.joinpath(f"{name}{suffix}.svg").read_text(encoding="utf-8") == drawn


def test_a_drawing_tells_what_ran() -> None:
    """Layers and the functions between them, the shapes that came out, parameters; in their order."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.last = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Any:
            x = torch.max_pool2d(torch.relu(self.norm(self.first(x))), 4)
            return self.last(x.flatten(1))

    found = DRAWN.stages(Net(), torch.zeros(1, 1, 6, 6), "images")

    assert [(s.name, s.kind, s.shape, s.parameters, s.after) for s in found] == [
        ("images", "", (1, 6, 6), 0, []),
        ("first", "Conv2d 3×3", (4, 4, 4), 48, ["batch norm", "ReLU"]),
        ("", "max pool 4×4", (4, 1, 1), 0, []),
        ("last", "Linear", (4,), 20, []),
    ]


def test_a_drawing_leaves_no_parameter_out() -> None:
    """A layer that is not run is told."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.used(x)

    with pytest.raises(ValueError, match="Net has parameters that belong to no layer that was run"):
        DRAWN.stages(Net(), torch.zeros(1, 2), "x")


def test_pages_show_pictures_that_are_there() -> None:
    """Each that a page names; one for light pages has its twin for dark ones."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    named = {name for page in pages for name in SHOWN.findall(page.read_text(encoding="utf-8"))}
    there = {path.name for path in IMAGES.iterdir()}

    assert named
    assert named <= there
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.count(":class: only-light") == text.count(":class: only-dark"), page


def test_pictures_are_small() -> None:
    """All of them take 1.5 MB at most."""
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) < 1_500_000
