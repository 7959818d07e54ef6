"""A recurrent classifier of sequences, and of images read row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn

from torchbasics import _checks
from torchbasics._model import Model
from torchbasics._zoo import register
from torchbasics.models._inputs import check_tensor, wrong_shape
from torchbasics.models._linear import Linear
from torchbasics.models._rnn import StackedRNN


@register("rnn_classifier", defaults={"input_size": 28, "hidden_size": 128, "num_layers": 1, "num_classes": 10})
class RNNClassifier(Model):
    """A recurrent classifier of sequences, or of images read row by row.

    Its linear head sees the last layer's state after the last step; if bidirectional, also the state of the reverse
    direction, which has then read the sequence from its end to its start.

    Shapes: ``(N, T, input_size)``, or images ``(N, C, H, W)`` with ``C * W == input_size`` as H steps
    -> ``(N, num_classes)``.

    Args:
        input_size: Features of each step: of images, the values in a row.
        hidden_size: Features of the state of each layer.
        num_layers: Layers on top of each other.
        num_classes: Logits per sequence.
        cell: "rnn", "lstm" or "gru".
        nonlinearity: "tanh" or "relu"; only of the cell "rnn".
        dropout: The share of values dropped between layers and before the head in training, in [0, 1).
        bidirectional: Whether each layer also reads the sequence from its end.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size is below 1, a name is unknown, or an option would have no effect.

    >>> RNNClassifier(28, 128, 1, 10)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        num_classes: int,
        *,
        cell: str = "gru",
        nonlinearity: str = "tanh",
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.input_size: int = _checks.positive_int("input_size", input_size)
        self.hidden_size: int = _checks.positive_int("hidden_size", hidden_size)
        self.num_layers: int = _checks.positive_int("num_layers", num_layers)
        self.num_classes: int = _checks.positive_int("num_classes", num_classes)
        self.cell = cell
        self.nonlinearity = nonlinearity
        self.dropout: float = _checks.fraction("dropout", dropout)
        self.bidirectional = bidirectional
        self.rnn: StackedRNN = StackedRNN(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            cell=cell,
            nonlinearity=nonlinearity,
            batch_first=True,
            dropout=0.0 if num_layers == 1 else self.dropout,
            bidirectional=bidirectional,
        )
        self.head: nn.Linear = Linear(self.hidden_size * (2 if bidirectional else 1), self.num_classes)

    if TYPE_CHECKING:

        def __call__(self, inputs: Tensor) -> Tensor: ...

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits: ``(N, T, input_size)`` or ``(N, C, H, W)`` -> ``(N, num_classes)``."""
        check_tensor(inputs, self.head.weight)
        x = inputs.transpose(1, 2).flatten(2) if inputs.ndim == 4 else inputs  # (N, C, H, W) -> (N, H, C * W)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            needs = f"(N, T, {self.input_size}), or images (N, C, H, W) with C * W = {self.input_size}"
            raise wrong_shape(inputs, f"RNNClassifier(input_size={self.input_size})", needs)
        _, hidden = self.rnn(x)
        state = hidden if isinstance(hidden, Tensor) else hidden[0]  # (D * num_layers, N, hidden_size)
        last = torch.cat([state[-2], state[-1]], dim=1) if self.bidirectional else state[-1]
        return self.head(F.dropout(last, self.dropout, self.training))  # type: ignore[no-any-return]  # (N, num_classes)

    def example_inputs(self, n: int = 1) -> Tensor:
        """Return zeros that fit *forward*: *n* sequences of as many steps as a step has features."""
        return self.head.weight.new_zeros(n, self.input_size, self.input_size)
