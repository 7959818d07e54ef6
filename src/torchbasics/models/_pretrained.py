"""Models with the weights of a card, and with other sizes at their two ends."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _safetensors, _weights, _zoo
from torchbasics._model import versioned, versions_of
from torchbasics._recipe import tuples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

HEADS = ("num_classes", "out_features")  # arguments that are the length of the last layer's output
STEM = "in_channels"
FUNCTIONS = ("activation", "output_activation")  # arguments that change what is computed, without parameters
SAME = {None, "identity"}


def pretrained(card: _weights.Weights, config: Mapping[str, Any]) -> nn.Module:
    """Make the model of *card* in eval mode, with *config* in the place of the card's arguments.

    Raises:
        ValueError: the weights do not fit such a model.
        TypeError: the model has no such argument.
        CheckpointError: the file is not the one that the card describes.
    """
    with _safetensors.opened(_weights.verified(card.path, card.sha256)) as file:
        tensors = file.read()
    changed = {key: value for key, value in config.items() if tuples(value) != card.config.get(key)}
    # A model that is filled from the file draws nothing; a new layer draws what it would draw without weights.
    with torch.random.fork_rng(devices=[], enabled=not changed):
        model = _zoo.build(card.model, **{**card.config, **config})
    state = model.state_dict()
    notes: list[str] = []
    problems: list[str] = []
    for key in sorted({*state, *tensors}):
        if key not in state or key not in tensors:
            problems.append(f"{key} is {'not in the model' if key in tensors else 'not in the weights'}")
        elif state[key].shape != tensors[key].shape:
            tensors[key], note = _adapted(key, tensors[key], state[key], card.config, changed)
            (notes if note else problems).append(note or f"{key} has shape {tuple(state[key].shape)}")
    if problems:
        given = ", ".join(f"{key}={value!r}" for key, value in changed.items())
        free = [*(name for name in (*HEADS, STEM) if name in card.config), "arguments without parameters"]
        raise ValueError(
            f"the weights {str(card)!r} do not fit {card.model!r} with {given}: {'; '.join(problems)}; "
            f"only {' and '.join(free)} can differ from the card's config"
        )
    functions = [(key, changed[key], card.config[key]) for key in FUNCTIONS if key in changed]
    notes += [f"{key} is {now!r}, and was {then!r} in training" for key, now, then in functions if {now, then} != SAME]
    model.load_state_dict(versioned(tensors, versions_of(state)))
    if notes:
        warnings.warn(f"the weights {str(card)!r} are adapted: {'; '.join(notes)}", UserWarning, stacklevel=3)
    return model.eval()


def _adapted(
    name: str, old: Tensor, new: Tensor, before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[Tensor, str]:
    """Return the tensor for a model of another size, and what was done; "" where nothing can be."""
    same = old.ndim == new.ndim
    for head in HEADS:
        if (
            head in now
            and same
            and old.shape[1:] == new.shape[1:]
            and (len(old), len(new)) == (before[head], now[head])
        ):
            return new, f"{name} is newly initialised for {head}={now[head]!r}"
    spread = same and old.ndim == 4 and len(old) == len(new) and old.shape[2:] == new.shape[2:]
    if STEM in now and spread and old.shape[1] == before[STEM]:
        # Images with equal channels get the outputs that they had.
        text = f"{name} spreads the sum over its {before[STEM]} input channels over {now[STEM]}"
        return (old.sum(1, keepdim=True) / now[STEM]).expand_as(new), text
    return new, ""
