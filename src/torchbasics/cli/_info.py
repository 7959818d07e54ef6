"""``torchbasics info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _weights
from torchbasics.cli._list import headline

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the report on versions, devices and extras, or the card of weights."""
    if args.name:
        try:
            card = _weights.find_named(args.name)
        except ValueError:
            if not Path(args.name).is_file():
                raise
            raise ValueError(f"{args.name!r} is a file; torchbasics inspect shows what is in it") from None
        print(format_card(card))
        return card.as_dict()
    from torchbasics import _env  # with torch

    report = _env.info()
    print(_env.format_info(report))
    return report


def format_card(card: _weights.Weights) -> str:
    """Return a card as lines for people."""
    metrics, training = card.metrics, card.training
    seeds = metrics["seeds"]
    others = [other for other in _weights.get_weights(card.model) if other.name != card.name]
    seen = training["teacher"] or training.get("classifier")
    lines = {
        "weights": f"{card}{' (the default)' if card.default else ''}: {card.description}",
        "measured": headline(card),
        "over seeds": f"{seeds['mean']:.4f} ± {seeds['sd']:.4f} ({len(seeds['values'])} seeds)",
        "again by": metrics["command"],
        "trained by": f"{training['command']}, {training['seconds']:.0f} s of processor time"
        + (", not counting the teacher's pass over the images" if training.get("without_teacher") else ""),
        **({"learned from": seen["weights"]} if seen else {}),
        "data": f"{card.data['name']}, {card.data['licence']}",
        "classes": ", ".join(card.classes) or "none",
        "input": f"{'x'.join(map(str, card.input_shape))}",
        "multiply-adds": f"{card.multiply_adds:,}",
        "sha256": card.sha256,
        "torch": card.torch,
        "limits": card.limits,
        **({"others": ", ".join(map(str, others))} if others else {}),
    }
    per_class = metrics.get("per_class", {})
    if per_class:
        lines["by class"] = ", ".join(f"{name} {value:.3f}" for name, value in per_class.items())
    return "\n".join(f"{name:14}{text}" for name, text in lines.items())
