"""What a run measured, epoch by epoch, as plain data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, overload

from torchbasics._recipe import Recipe


class History(Sequence[Mapping[str, float]]):
    """A sequence of epochs, each a mapping from a column's name to its value.

    "loss", metrics such as "accuracy", the same with ``validation_`` before them, and "seconds", the wall time of the
    epoch, which alone differs between equal runs and does not count in ``==``.

    Attributes:
        rows: The epochs: plain dicts of floats.
        recipe: What was chosen for the run, automatic choices resolved.
        stopped: Why the run ended before its last epoch: None, "early", "signal", "time", or what a callback gave.

    >>> history = History([{"loss": 2.0, "seconds": 0.1}, {"loss": 1.5, "seconds": 0.1}])
    >>> history[-1]["loss"], history.column("loss")
    (1.5, [2.0, 1.5])
    """

    def __init__(
        self, rows: Iterable[Mapping[str, float]] = (), *, recipe: Recipe | None = None, stopped: str | None = None
    ) -> None:
        self.rows: list[dict[str, float]] = [dict(row) for row in rows]
        self.recipe: Recipe | None = None if recipe is None else recipe.plain()
        self.stopped: str | None = stopped

    def column(self, name: str) -> list[float]:
        """Return one column: a value for each epoch that has it.

        Raises:
            KeyError: no epoch has it; the message lists those there are.
        """
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns) or 'none'}")
        return [row[name] for row in self.rows if name in row]

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_json(self) -> str:
        """Return the history as JSON text; `from_json` reads it back."""
        recipe: Any = self.recipe.as_dict() if self.recipe else None
        return json.dumps({"stopped": self.stopped, "recipe": recipe, "epochs": self.rows}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> History:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        recipe = Recipe(**data["recipe"]) if data["recipe"] else None
        return cls(data["epochs"], recipe=recipe, stopped=data["stopped"])

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the history as CSV text, first column "epoch", counted from 1; write it to *path* where given."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *self.columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"epoch": i, **row} for i, row in enumerate(self.rows, start=1))
        if path is not None:
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    @overload
    def __getitem__(self, index: int) -> Mapping[str, float]: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, float] | History:
        if isinstance(index, slice):
            return History(self.rows[index], recipe=self.recipe, stopped=self.stopped)
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, float]]:
        return iter(self.rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, History):
            return NotImplemented
        return [_timeless(row) for row in self.rows] == [_timeless(row) for row in other.rows]

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # a history grows

    def __repr__(self) -> str:
        last = ", ".join(f"{k} {v:.4g}" for k, v in self.rows[-1].items()) if self.rows else "empty"
        return f"History({len(self)} epochs; {last})"


def _timeless(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "seconds"}
