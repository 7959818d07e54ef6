"""Models by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from torchbasics import _weights, _zoo
from torchbasics.models._pretrained import pretrained

if TYPE_CHECKING:
    from torch import nn

# The imports and overloads are written by scripts/generate.py from the model files.
# <generated>
if TYPE_CHECKING:
    from torchbasics.models._cnn import CNNModel
    from torchbasics.models._dcgan import DCGAN
    from torchbasics.models._mlp import MLP
    from torchbasics.models._rnn import StackedRNN
    from torchbasics.models._rnn_classifier import RNNClassifier


@overload
def get_model(name: Literal["cnn"], *, weights: str | None = None, **config: Any) -> CNNModel: ...
@overload
def get_model(name: Literal["dcgan"], *, weights: str | None = None, **config: Any) -> DCGAN: ...
@overload
def get_model(name: Literal["mlp"], *, weights: str | None = None, **config: Any) -> MLP: ...
@overload
def get_model(name: Literal["rnn_classifier"], *, weights: str | None = None, **config: Any) -> RNNClassifier: ...
@overload
def get_model(name: Literal["stacked_rnn"], *, weights: str | None = None, **config: Any) -> StackedRNN: ...


# </generated>


@overload
def get_model(name: str, *, weights: str | None = None, **config: Any) -> nn.Module: ...
def get_model(name: str, *, weights: str | None = None, **config: Any) -> nn.Module:
    """Make the model *name*.

    Args:
        name: One of ``list_models()``.
        weights: None for an untrained model; "DEFAULT", or the name of one of ``get_weights(name)``, for a trained one,
            in eval mode. Its file is checked against the SHA-256 in its card at every call.
        config: The model's constructor arguments; without any, the model fits Fashion-MNIST. With weights, they are
            the card's. Another ``num_classes`` (``out_features``) makes a new last layer; other ``in_channels`` share
            what the first one has learned: the sum of its weights, spread evenly. A warning names what has changed.

    Raises:
        ValueError: no model has this name, there are no such weights, or they do not fit a model of such arguments.
        TypeError: the model has no such argument; the nearest is named.
        CheckpointError: the file of the weights is not the one that its card describes.

    >>> get_model("mlp", hidden=(32,)).hidden
    (32,)
    >>> get_model("cnn", weights="DEFAULT").training
    False
    """
    model, _, of_card = str(name).partition("/")
    if of_card and model in _zoo.list_models():
        raise ValueError(f"unknown model {name!r}; for its weights write get_model({model!r}, weights={of_card!r})")
    return _zoo.build(name, **config) if weights is None else pretrained(_weights.find(name, weights), config)
