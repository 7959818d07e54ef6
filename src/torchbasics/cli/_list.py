"""``torchbasics list``: the models and their weights, without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import _weights, _zoo

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print a line for each model, and one for each of its weights."""
    lines = {name: described(name) for name in _zoo.list_models()}
    cards = {name: _weights.get_weights(name) for name in lines}
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:{width}}  {text}")
        for card in cards[name]:
            print(f"{'':{width}}  - {card}: {headline(card)}")
    models = [{"name": name, "description": text, "weights": _briefly(cards[name])} for name, text in lines.items()]
    return {"models": models}


def described(name: str) -> str:
    """Return what the model *name* is, or where it comes from."""
    if name in _zoo.BUILT_IN:
        return _zoo.BUILT_IN[name][1]
    return " and ".join(map(str, _zoo.declared().get(name, ()))) or "registered by you"


def headline(card: _weights.Weights) -> str:
    """Return what there is to say of weights in a line."""
    figures = [f"{label} {card.metrics[key]:.4g}" for key, label in FIGURES.items() if key in card.metrics]
    return f"{', '.join(figures)}; {card.parameters:,} parameters, {card.size / 1e6:.2f} MB"


FIGURES = {
    "accuracy": "test accuracy",
    "frechet_distance": "Fréchet distance",
    "train_test": "train against test",
}


def _briefly(cards: tuple[_weights.Weights, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": card.name,
            "default": card.default,
            "parameters": card.parameters,
            "size": card.size,
            **{key: card.metrics[key] for key in FIGURES if key in card.metrics},
        }
        for card in cards
    ]
