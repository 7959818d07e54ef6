"""The multilayer perceptron."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics._model import Model
from torchbasics._zoo import register
from torchbasics.models._inputs import check_tensor, wrong_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    "orthogonal": nn.init.orthogonal_,
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
            torch.nn.init of that name, and biases start at zero.

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
    ) -> None:
        super().__init__()
        self.in_features = _checks.positive_int("in_features", in_features)
        if not isinstance(hidden, (tuple, list)):
            raise TypeError(f"hidden must be a tuple of widths, such as (256, 128), got {hidden!r}")
        self.hidden = hidden
        self.out_features = _checks.positive_int("out_features", out_features)
        self.activation = _checks.choice("activation", activation, ACTIVATIONS)
        _checks.fraction("dropout", dropout)
        self.dropout = dropout
        self.batch_norm = _checks.flag("batch_norm", batch_norm)
        self.bias = _checks.flag("bias", bias)
        self.init = None if init is None else _checks.choice("init", init, INITS)

        widths = [in_features, *(_checks.positive_int(f"hidden[{i}]", width) for i, width in enumerate(hidden))]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers.append(nn.Linear(width, following, bias))
            layers += [nn.BatchNorm1d(following)] if batch_norm else []
            layers.append(ACTIVATIONS[activation]())
            layers += [nn.Dropout(dropout)] if dropout else []
        layers.append(nn.Linear(widths[-1], out_features, bias))
        self.net: nn.Sequential = nn.Sequential(*layers)
        if init is not None:
            _initialise(self.net, INITS[init])

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


@torch.no_grad()
def _initialise(net: nn.Sequential, init: Callable[[Tensor], Tensor]) -> None:
    for layer in net:
        if isinstance(layer, nn.Linear):
            init(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
