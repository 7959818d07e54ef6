"""The multilayer perceptron."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics._model import Model
from torchbasics._zoo import register
from torchbasics.models._inputs import check_tensor, wrong_shape
from torchbasics.models._linear import Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardshrink": nn.Hardshrink,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "log_sigmoid": nn.LogSigmoid,
    "log_softmax": lambda: nn.LogSoftmax(dim=-1),
    "mish": nn.Mish,
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "rrelu": nn.RReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softmax": lambda: nn.Softmax(dim=-1),
    "softplus": nn.Softplus,
    "softshrink": nn.Softshrink,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "tanhshrink": nn.Tanhshrink,
}

INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming_normal": nn.init.kaiming_normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "normal": nn.init.normal_,
    "ones": nn.init.ones_,
    "orthogonal": nn.init.orthogonal_,
    "trunc_normal": nn.init.trunc_normal_,
    "uniform": nn.init.uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "zeros": nn.init.zeros_,
}


@register("mlp", defaults={"in_features": 784, "hidden": (256, 128), "out_features": 10})
class MLP(Model):
    """A multilayer perceptron: linear layers with an activation after each but the last.

    A hidden layer is linear, batch norm (if asked for), activation, dropout (if asked for). Everything after the
    first dimension is flattened, so images fit as they are.

    Shapes: ``(N, ...)`` with ``in_features`` values a sample -> ``(N, out_features)``.

    Args:
        in_features: Values per sample, such as 784 for images of 28x28.
        hidden: The widths of the hidden layers; empty for a linear model.
        out_features: Values per sample that come out, such as the number of classes.
        activation: The name of a torch.nn activation in snake case, such as "relu", "gelu", "softmax" (over features).
        dropout: The share of hidden values dropped in training, in [0, 1).
        batch_norm: Normalise each hidden layer over the batch.
        bias: Whether the linear layers add a bias.
        init: How weights start: None is torch's own way; a name, such as "xavier_normal", is the function of
            torch.nn.init of that name.
        output_activation: What follows the last layer, by the same names as *activation*; None is nothing.
        bias_init: How biases start, by the same names as *init*, as a row (1, width); None is torch's own way, or zero
            where *init* is a name.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a width is below 1, dropout is outside [0, 1), or a name is unknown.

    >>> MLP(784, (256, 128), 10)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        bias: bool = True,
        init: str | None = None,
        output_activation: str | None = None,
        bias_init: str | None = None,
    ) -> None:
        super().__init__()
        self.in_features: int = _checks.positive_int("in_features", in_features)
        if not isinstance(hidden, (tuple, list)):
            raise TypeError(f"hidden must be a tuple of widths, such as (256, 128), got {hidden!r}")
        self.hidden: Sequence[int] = _checks.positive_ints("hidden", hidden)
        self.out_features: int = _checks.positive_int("out_features", out_features)
        self.activation: str = _checks.choice("activation", activation, ACTIVATIONS)
        self.dropout: float = _checks.fraction("dropout", dropout)
        self.batch_norm: bool = _checks.flag("batch_norm", batch_norm)
        self.bias: bool = _checks.flag("bias", bias)
        self.init: str | None = _choice("init", init, INITS)
        self.output_activation: str | None = _choice("output_activation", output_activation, ACTIVATIONS)
        self.bias_init: str | None = _choice("bias_init", bias_init, INITS)

        widths = [self.in_features, *self.hidden]
        layers: dict[str, nn.Module] = {}  # dropout is not counted: weights fit with it and without
        count = itertools.count()
        for i, (width, following) in enumerate(pairwise(widths), start=1):
            layers[f"{next(count)}"] = Linear(width, following, bias)
            if batch_norm:
                layers[f"{next(count)}"] = nn.BatchNorm1d(following)
            layers[f"{next(count)}"] = ACTIVATIONS[activation]()
            if dropout:
                layers[f"dropout{i}"] = nn.Dropout(self.dropout)
        layers[f"{next(count)}"] = Linear(widths[-1], self.out_features, bias)
        if output_activation is not None:
            layers[f"{next(count)}"] = ACTIVATIONS[output_activation]()
        self.net: nn.Sequential = nn.Sequential(OrderedDict(layers))
        _initialise(self.net, init, "zeros" if bias_init is None and init is not None else bias_init)

    if TYPE_CHECKING:

        def __call__(self, inputs: Tensor) -> Tensor: ...

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs for *inputs*: ``(N, ...)`` -> ``(N, out_features)``."""
        first: Any = self.net[0]  # a linear layer, also without hidden ones
        check_tensor(inputs, first.weight)
        if inputs.ndim < 2 or inputs.shape[1:].numel() != self.in_features:
            raise wrong_shape(inputs, f"MLP(in_features={self.in_features})", f"(N, {self.in_features})")
        return self.net(inputs.flatten(1))  # type: ignore[no-any-return]  # (N, in_features) -> (N, out_features)

    def example_inputs(self, n: int = 1) -> Tensor:
        """Return zeros that fit *forward*: ``(n, in_features)``."""
        return next(self.parameters()).new_zeros(n, self.in_features)


def _choice(kind: str, name: str | None, choices: Iterable[str]) -> str | None:
    return None if name is None else _checks.choice(kind, name, choices)


@torch.no_grad()
def _initialise(net: nn.Sequential, init: str | None, bias_init: str | None) -> None:
    for layer in net:
        if isinstance(layer, nn.Linear):
            if init is not None:
                INITS[init](layer.weight)
            if bias_init is not None and layer.bias is not None:
                INITS[bias_init](layer.bias.unsqueeze(0))  # xavier and others need two dimensions
