"""The model that the command line names: a file, or weights of the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _weights, _zoo
from torchbasics.io._model import load_described
from torchbasics.models import get_model

if TYPE_CHECKING:
    from torch import nn


def is_named(text: str) -> bool:
    """Whether *text* names weights, "MODEL" or "MODEL/WEIGHTS", and no file."""
    return text.partition("/")[0] in _zoo.list_models() and not Path(text).suffix and not Path(text).is_file()


def read_model(text: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model in the file *text*, or of the weights of that name, and what is known of its images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is refused, or there are no such weights.
    """
    if not is_named(text):
        try:
            return load_described(text)
        except FileNotFoundError as e:
            told = "" if Path(text).suffix else ", and no weights of this name; `torchbasics list` shows them"
            raise FileNotFoundError(f"{e}{told}") from None
    try:
        card = _weights.find_named(text)
    except ValueError as e:
        raise ValueError(f"there is no file {text!r}, and {e}") from None
    images = {"shape": card.input_shape} if len(card.input_shape) == 3 else {}
    return get_model(card.model, weights=card.name), {"classes": card.classes, "data": card.data["name"], **images}
