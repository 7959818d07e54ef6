"""Pictures: what is in the figures."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchbasics import data, plot

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

pytest.importorskip("matplotlib")


def drawn(axes: Axes) -> Any:
    """Return the pixels that *axes* shows."""
    return axes.images[0].get_array()


def assert_png(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


class Fixed(nn.Module):
    """A model whose logits are given; it notes how it was called."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.logits = logits
        self.dropout = nn.Dropout()
        self.seen: dict[str, Any] = {}

    def forward(self, inputs: Tensor) -> Any:
        self.seen = {"training": self.training, "grad": torch.is_grad_enabled(), "inputs": inputs}
        return self.logits


# -- images


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (torch.tensor([0, 51, 255], dtype=torch.uint8), [0, 0.2, 1]),
        (torch.tensor([0.0, 0.2, 1.0]), [0, 0.2, 1]),
        (torch.tensor([-1.0, 0.0, 1.0]), [0, 0.5, 1]),
        (torch.tensor([0.0, 0.2, 1.0], requires_grad=True), [0, 0.2, 1]),
        (np.array([0.0, 0.25, 1.0]), [0, 0.25, 1]),
    ],
    ids=["uint8", "unit", "symmetric", "with-gradient", "array"],
)
def test_values_are_scaled_by_one_rule(images: Any, expected: list[float]) -> None:
    """uint8 by 255; floats as they are, or from [-1, 1] where one is negative."""
    (axes,) = plot.images(images.reshape(1, 1, 1, 3)).axes
    assert drawn(axes)[0].tolist() == pytest.approx(expected)
    assert axes.images[0].get_clim() == (0, 1)


@pytest.mark.parametrize(("shape", "pixels"), [((5, 1, 4, 6), (4, 6)), ((5, 4, 6), (4, 6)), ((5, 3, 4, 6), (4, 6, 3))])
def test_grey_and_colour_images_are_drawn(shape: tuple[int, ...], pixels: tuple[int, ...], tmp_path: Path) -> None:
    """(N, C, H, W) with 1 or 3 channels, and (N, H, W)."""
    figure = plot.images(torch.rand(shape), columns=2)
    assert [drawn(axes).shape for axes in figure.axes] == [pixels] * 5
    assert_png(figure, tmp_path / "a.png")


@pytest.mark.parametrize(("n", "columns", "grid"), [(3, 8, (1, 3)), (8, 8, (1, 8)), (9, 8, (2, 8)), (4, 1, (4, 1))])
def test_columns_is_the_number_of_images_in_a_row(n: int, columns: int, grid: tuple[int, int]) -> None:
    """The grid is as wide as asked for, or as there are images; unused cells are removed."""
    figure = plot.images(torch.rand(n, 4, 4), columns=columns)
    assert len(figure.axes) == n
    spec = figure.axes[0].get_subplotspec()
    assert spec is not None
    assert spec.get_gridspec().get_geometry() == grid


def test_titles_default_to_class_names() -> None:
    """data.Images brings its own titles; a tensor has none; given ones win."""
    _, test = data.fashion_mnist_mini()
    assert [axes.get_title() for axes in plot.images(test[:2]).axes] == ["Ankle boot", "Pullover"]
    assert [axes.get_title() for axes in plot.images(test[:2], titles=["x", "y"]).axes] == ["x", "y"]
    assert [axes.get_title() for axes in plot.images(test[:2].images).axes] == ["", ""]
    assert [axes.get_title() for axes in plot.images(data.Images(test.images[:1], [3])).axes] == [""]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(2, 2, 4, 4), {}, r"must have shape \(N, 1 or 3, H, W\) or \(N, H, W\), got \(2, 2, 4, 4\)"),
        (torch.rand(4, 4), {}, r"must have shape .*, got \(4, 4\)"),
        (torch.rand(0, 4, 4), {}, r"images are empty: their shape is \(0, 1, 4, 4\)"),
        (torch.tensor([[[0.0, 3.0]]]), {}, r"hold values from 0 to 3; floats must be in \[0, 1\] or in \[-1, 1\]"),
        (torch.tensor([[[0.0, torch.nan]]]), {}, "hold values from nan to nan; floats must be"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), {}, "images must be uint8 or floats, got torch.int64"),
        (torch.rand(2, 4, 4), {"titles": ["x"]}, "got 1 titles for 2 images; each image needs one"),
        (torch.rand(2, 4, 4), {"columns": 0}, "columns must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_named(images: Tensor, options: dict[str, Any], message: str) -> None:
    """Shapes, types, values and titles that fit no picture."""
    with pytest.raises(ValueError, match=message):
        plot.images(images, **options)


# -- predictions


def two_images(classes: tuple[str, ...] = ("cat", "dog")) -> data.Images:
    return data.Images(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), [0, 1], classes)


def test_titles_are_the_predicted_class_and_its_probability(tmp_path: Path) -> None:
    """Green where it is right; red where it is wrong, with the true class."""
    logits = torch.tensor([[0.75, 0.25], [0.9, 0.1]]).log()
    figure = plot.predictions(Fixed(logits), two_images())
    right, wrong = figure.axes
    assert right.get_title() == "cat 75%"
    assert wrong.get_title() == "cat 90%\n(is dog)"
    assert right.title.get_color() == "#1a7f37"
    assert wrong.title.get_color() == "#cf222e"
    assert [float(drawn(axes)[0, 0]) for axes in figure.axes] == [0, 1]
    assert_png(figure, tmp_path / "a.png")


def test_classes_without_names_are_numbers() -> None:
    """So are labels that the model does not know."""
    figure = plot.predictions(Fixed(torch.zeros(2, 1)), two_images(classes=()))
    assert [axes.get_title() for axes in figure.axes] == ["0 100%", "0 100%\n(is 1)"]


def test_n_limits_the_images() -> None:
    """The first n are drawn, or all where there are fewer."""
    model = Fixed(torch.zeros(1, 2))
    assert len(plot.predictions(model, two_images(), 1).axes) == 1
    assert len(plot.predictions(Fixed(torch.zeros(2, 2)), two_images(), n=99).axes) == 2


def test_the_model_is_asked_in_eval_mode_and_left_as_it_was() -> None:
    """Modules in training and in eval mode both keep their mode; no gradient is recorded; inputs are in [0, 1]."""
    model = Fixed(torch.zeros(2, 2))
    model.dropout.eval()
    plot.predictions(model, two_images())
    assert (model.seen["training"], model.seen["grad"]) == (False, False)
    assert torch.equal(model.seen["inputs"], two_images().inputs)
    assert (model.training, model.dropout.training) == (True, False)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(2, 3), ValueError, r"outputs have shape \(2, 3\), but logits of shape \(N, 2\) are needed"),
        (torch.zeros(2), ValueError, r"outputs have shape \(2,\), but logits of shape \(N, 2\) are needed"),
        (torch.zeros(5, 2), ValueError, r"outputs have shape \(5, 2\), but logits"),
        ((1, 2), TypeError, "the model must return logits, a tensor, got tuple"),
    ],
)
def test_outputs_that_are_no_logits_are_named(logits: Any, error: type[Exception], message: str) -> None:
    """What the model gives must be logits for the classes; its mode is restored all the same."""
    model = Fixed(logits)
    with pytest.raises(error, match=message):
        plot.predictions(model, two_images())
    assert model.training


def test_predictions_need_labelled_images() -> None:
    """A bare tensor has no labels to compare with."""
    with pytest.raises(TypeError, match=r"images must be data.Images, got Tensor"):
        plot.predictions(Fixed(torch.zeros(2, 2)), torch.rand(2, 1, 4, 4))  # type: ignore[arg-type]


def test_predictions_need_an_image() -> None:
    """Nothing to predict is an error, not an empty picture."""
    with pytest.raises(ValueError, match=r"images are empty: their shape is \(0, 1, 1, 1\)"):
        plot.predictions(Fixed(torch.zeros(0, 2)), two_images(())[:0])


@pytest.mark.parametrize("options", [{"n": 0}, {"columns": 0}])
def test_bad_numbers_are_named(options: dict[str, int]) -> None:
    """Both n and columns are at least 1."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1, got 0"):
        plot.predictions(Fixed(torch.zeros(2, 2)), two_images(), **options)


# -- history


EPOCHS = [
    {"loss": 2.0, "accuracy": 0.2, "seconds": 9.0},
    {"loss": 1.0, "accuracy": 0.6, "validation_loss": 1.5, "validation_accuracy": 0.5, "seconds": 9.0},
]


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    points = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    return {label: [(x, y) for x, y in line] for label, line in points.items()}


def test_losses_and_metrics_have_a_diagram_each(tmp_path: Path) -> None:
    """Losses left, metrics right, at the epochs that have them, counted from 1; seconds are left out."""
    figure = plot.history(EPOCHS)
    left, right = figure.axes
    assert lines(left) == {"loss": [(1, 2.0), (2, 1.0)], "validation loss": [(2, 1.5)]}
    assert lines(right) == {"accuracy": [(1, 0.2), (2, 0.6)], "validation accuracy": [(2, 0.5)]}
    assert (left.get_xlabel(), left.get_ylabel(), right.get_ylabel()) == ("epoch", "loss", "accuracy")
    assert_png(figure, tmp_path / "a.png")


def test_validation_is_dashed_in_the_same_colour() -> None:
    """What belongs together looks alike."""
    training, validation = plot.history(EPOCHS).axes[0].lines
    assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    assert training.get_color() == validation.get_color()


def test_other_metrics_have_other_colours_and_a_common_diagram() -> None:
    """Two metrics share the second diagram, two losses the first."""
    figure = plot.history([{"generator_loss": 1.0, "discriminator_loss": 2.0, "f1": 0.5, "accuracy": 0.6}])
    assert [sorted(lines(axes)) for axes in figure.axes] == [
        ["discriminator loss", "generator loss"],
        ["accuracy", "f1"],
    ]
    for axes in figure.axes:
        assert len({line.get_color() for line in axes.lines}) == 2
        assert axes.get_ylabel() == ""


def test_losses_alone_are_one_diagram() -> None:
    """No empty second diagram."""
    assert len(plot.history([{"loss": 1.0}]).axes) == 1


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ([], "history has no epochs; nothing to draw"),
        ([{"seconds": 1.0}], r"history has no values to draw, only \['seconds'\]"),
    ],
)
def test_an_empty_history_is_named(epochs: list[dict[str, float]], message: str) -> None:
    """Nothing to draw is an error, not an empty picture."""
    with pytest.raises(ValueError, match=message):
        plot.history(epochs)


# -- confusion


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_rows_are_true_classes(kind: Any, tmp_path: Path) -> None:
    """Counts as text, the share of the row as colour, true classes down, predicted ones across."""
    figure = plot.confusion(kind([[3, 1], [0, 0]]), ["cat", "dog"])
    (axes,) = figure.axes
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "3"),
        ((1, 0), "1"),
        ((0, 1), "0"),
        ((1, 1), "0"),
    ]
    assert drawn(axes).tolist() == [[0.75, 0.25], [0, 0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert [text.get_color() for text in axes.texts][:2] == ["white", "0.25"]
    assert_png(figure, tmp_path / "a.png")


def test_many_classes_have_no_numbers(tmp_path: Path) -> None:
    """Beyond 20 classes colour alone is readable, and names are numbers where none are given."""
    figure = plot.confusion(torch.eye(25, dtype=torch.int64))
    assert not figure.axes[0].texts
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:3] == ["0", "1", "2"]
    assert_png(figure, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("matrix", "classes", "message"),
    [
        ([[1, 2]], (), r"matrix must have shape \(C, C\), got \(1, 2\)"),
        ([], (), r"matrix must have shape \(C, C\), got \(0,\)"),
        ([[0.5]], (), "matrix must hold counts, integers of at least 0, got float32 from 0.5"),
        ([[-1]], (), "matrix must hold counts, integers of at least 0, got int64 from -1"),
        ([[1]], ("a", "b"), "got 2 classes for a 1x1 matrix; each row needs one"),
    ],
)
def test_what_is_no_confusion_matrix_is_named(matrix: Any, classes: Any, message: str) -> None:
    """Not square, not counts, or other classes."""
    with pytest.raises(ValueError, match=message):
        plot.confusion(matrix, classes)


# -- matplotlib itself


def test_a_missing_matplotlib_says_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named when a picture is asked for."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib is not installed; pip install 'torchbasics\[plot\]'"):
        plot.images(torch.rand(1, 4, 4))


def test_matplotlib_is_imported_on_use_and_pyplot_never() -> None:
    """Importing the module loads no matplotlib; drawing and saving load no pyplot."""
    code = (
        "import io, sys, torch; from torchbasics import plot; assert 'matplotlib' not in sys.modules; "
        "plot.images(torch.rand(1, 4, 4)).savefig(io.BytesIO()); plot.history([{'loss': 1.0}]).savefig(io.BytesIO()); "
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
