"""The cards of the weights that ship with the library, and the way to them."""

from __future__ import annotations

from dataclasses import dataclass

from torchbasics import _checks, _zoo


@dataclass(frozen=True)
class Card:
    """What is known of weights: so far their name."""

    name: str


def get_weights(name: str) -> tuple[Card, ...]:
    """Return the cards of the weights for the model *name*, the default first; so far there are none.

    Raises:
        ValueError: no model has this name.

    >>> get_weights("cnn")
    ()
    """
    _checks.choice("model", name, _zoo.list_models())
    return ()
