"""`History` is plain data."""

from __future__ import annotations

import csv
import io
import pickle
from typing import TYPE_CHECKING

import pytest

from tests.helpers import blobs
from torchbasics import models, training
from torchbasics.training import History, Recipe

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    {"loss": 2.0, "accuracy": 0.5, "seconds": 0.1},
    {"loss": 1.5, "accuracy": 0.75, "validation_loss": 1.75, "seconds": 0.2},
]


def test_it_is_a_sequence_of_epochs() -> None:
    """Index, slice, length, iteration, columns."""
    history = History(ROWS)

    assert len(history) == 2
    assert history[-1]["loss"] == 1.5
    assert list(history[1:]) == ROWS[1:]
    assert history.column("accuracy") == [0.5, 0.75]
    assert history.column("validation_loss") == [1.75]
    assert history.columns == ["loss", "accuracy", "seconds", "validation_loss"]
    assert repr(history) == "History(2 epochs; loss 1.5, accuracy 0.75, validation_loss 1.75, seconds 0.2)"
    assert repr(History()) == "History(0 epochs; empty)"


def test_wall_time_does_not_count_in_equality() -> None:
    """Equal runs are equal."""
    slow = [{**row, "seconds": 9.0} for row in ROWS]

    assert History(ROWS) == History(slow)
    assert History(ROWS) != History(ROWS[:1])
    assert History(ROWS) != ROWS


def test_an_unknown_column_is_named() -> None:
    """With those there are."""
    with pytest.raises(KeyError, match="no column 'los'; there are loss, accuracy, seconds, validation_loss"):
        History(ROWS).column("los")
    with pytest.raises(KeyError, match="no column 'loss'; there are none"):
        History().column("loss")


def test_json_and_pickle_keep_all() -> None:
    """Rows, recipe, reason."""
    history = History(ROWS, recipe=Recipe(epochs=2, lr=0.1), stopped="early")

    for copy in (History.from_json(history.to_json()), pickle.loads(pickle.dumps(history))):
        assert copy.rows == history.rows
        assert copy.recipe == history.recipe
        assert copy.stopped == "early"
    assert History.from_json(History(ROWS).to_json()).recipe is None


def test_csv_has_a_row_an_epoch(tmp_path: Path) -> None:
    """Missing values are empty; epochs count from 1."""
    text = History(ROWS).to_csv(tmp_path / "history.csv")

    assert (tmp_path / "history.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["validation_loss"] == ""
    assert float(rows[1]["loss"]) == 1.5


def test_a_history_of_fit_holds_numbers_alone() -> None:
    """No tensors, no graphs; equal runs have equal histories."""
    histories = []
    for _ in range(2):
        model = models.get_model("mlp", in_features=6, hidden=(), out_features=3, init="zeros")
        histories.append(training.fit(model, blobs(), epochs=2, batch_size=16, progress=False))

    assert all(type(value) is float for row in histories[0] for value in row.values())
    assert histories[0] == histories[1]
    assert histories[0][0]["seconds"] > 0
