"""Models by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from torchbasics import _weights, _zoo

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
        weights: None for an untrained model, "DEFAULT", or the name of one of ``get_weights(name)``.
        config: The model's constructor arguments; without any, the model fits Fashion-MNIST.

    Raises:
        ValueError: no model has this name, or there are no such weights.
        TypeError: the model has no such argument; the nearest is named.

    >>> get_model("mlp", hidden=(32,)).hidden
    (32,)
    """
    if weights is not None:
        _weights.get_weights(name)  # an unknown model is the first thing to say
        raise ValueError(f"{name!r} has no weights yet, got weights={weights!r}; leave it out for an untrained model")
    return _zoo.build(name, **config)
