"""``torchbasics verify``: the weights in the package are what their cards say; without a network, in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _safetensors, _weights
from torchbasics.data import fashion_mnist_mini
from torchbasics.models import get_model
from torchbasics.training import evaluate

if TYPE_CHECKING:
    import argparse

    from torch import nn

TOLERANCE = 1e-4  # of golden outputs, relative and absolute: processors round differently
SPARE = 0.002  # of accuracy: two of the mini test images, for the same reason


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print what was checked of each of the weights.

    Raises:
        ValueError: there are no such weights, or something is not as the card says.
    """
    cards = (_weights.find_named(args.name),) if args.name else _weights.all_cards()
    if args.name and "/" not in args.name:
        cards = _weights.get_weights(args.name)
    checked = []
    for card in cards:
        found = verify(card)
        print(f"{card}: {', '.join(found.values())}")
        checked.append({"weights": str(card), **found})
    return {"verified": checked}


def verify(card: _weights.Weights) -> dict[str, str]:
    """Return what was checked of the weights of *card*, each in a few words.

    Raises:
        CheckpointError: a file is not the one that the card describes.
        ValueError: parameters, golden outputs or accuracy are not what the card says.
    """
    model: nn.Module = get_model(card.model, weights=card.name)
    found = {"sha256": f"SHA-256 {card.sha256[:12]}..."}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = card.path.stat().st_size
    if (parameters, size) != (card.parameters, card.size):
        said = f"{card.parameters} parameters in {card.size} bytes"
        raise ValueError(f"{card}: the card says {said}, but there are {parameters} in {size}")
    found["parameters"] = f"{parameters:,} parameters"
    difference = _golden(card, model)
    if not difference <= TOLERANCE:
        raise ValueError(f"{card}: golden outputs differ by {difference:.2g}, more than {TOLERANCE:g}")
    found["golden"] = f"golden outputs within {difference:.1g}"
    if "mini_accuracy" in card.metrics:
        _, test = fashion_mnist_mini()
        accuracy, expected = evaluate(model, test)["accuracy"], card.metrics["mini_accuracy"]
        if abs(accuracy - expected) > SPARE + 1e-9:
            raise ValueError(
                f"{card}: accuracy on the mini test images is {accuracy:.4f}, the card says {expected:.4f}"
            )
        found["accuracy"] = f"accuracy {accuracy:.3f} on {len(test):,} images"
    return found


@torch.no_grad()
def _golden(card: _weights.Weights, model: nn.Module) -> float:
    """Return the largest difference to the golden outputs, in their own scale where that is above one."""
    with _safetensors.opened(_weights.verified(card.golden_path, card.golden["sha256"])) as file:
        golden = file.read()
    inputs = golden["inputs"]
    outputs = model(card.transforms()(inputs) if inputs.dtype == torch.uint8 else inputs)
    return float(((outputs - golden["outputs"]).abs() / golden["outputs"].abs().clamp(min=1)).max())
