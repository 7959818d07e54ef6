"""Stacked recurrent layers: rnn, lstm and gru."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from torchbasics import _checks
from torchbasics._model import Model
from torchbasics._zoo import register
from torchbasics.models._gru import fits, gru
from torchbasics.models._inputs import check_tensor, wrong_shape

if TYPE_CHECKING:
    from collections.abc import Callable

Hidden: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""The state after the last step; of an lstm, the pair of hidden and cell state."""

# What runs all steps of all layers in one call, by torch's name of the mode; and the module that is one step of it.
_RUN: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "LSTM": torch.lstm,
    "GRU": torch.gru,
}
_CELL: dict[str, type[nn.RNNCellBase]] = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


@register("stacked_rnn", defaults={"input_size": 28, "hidden_size": 128})
class StackedRNN(Model, nn.RNNBase):
    """Recurrent layers on top of each other: RNN, LSTM and GRU under one name.

    The numbers, the shapes and the state_dict are those of torch.nn's modules; packed sequences and single, unbatched
    sequences are welcome too. Only of a float32 gru on the CPU, trained or of wide layers, may the last bits
    differ, for its speed.

    Shapes: ``(T, N, input_size)``, with *batch_first* ``(N, T, input_size)``, or ``(T, input_size)`` -> the same with
    ``D * hidden_size``, and the state ``(D * num_layers, N, hidden_size)``, D being 2 if bidirectional, else 1.

    Args:
        input_size: Features of each step.
        hidden_size: Features of the state of each layer.
        num_layers: Layers on top of each other.
        cell: "rnn", "lstm" or "gru".
        nonlinearity: "tanh" or "relu"; only of the cell "rnn".
        bias: Whether the cells add biases.
        batch_first: Whether inputs and outputs have the batch in front of the steps; the state never has.
        dropout: The share of values dropped between layers in training, in [0, 1).
        bidirectional: Whether each layer also reads the sequence from its end.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size is below 1, a name is unknown, or an option would have no effect.

    >>> output, hidden = StackedRNN(8, 16, num_layers=2, cell="gru")(torch.zeros(5, 3, 8))
    >>> output.shape, hidden.shape
    (torch.Size([5, 3, 16]), torch.Size([2, 3, 16]))
    """

    weight_ih_l0: nn.Parameter  # of the first layer; all are made by RNNBase

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str = "rnn",
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        input_size = _checks.positive_int("input_size", input_size)
        hidden_size = _checks.positive_int("hidden_size", hidden_size)
        num_layers = _checks.positive_int("num_layers", num_layers)
        _checks.choice("cell", cell, _CELL)
        _checks.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        if cell != "rnn" and nonlinearity != "tanh":
            raise ValueError(f"nonlinearity {nonlinearity!r} is for cell='rnn'; cell={cell!r} has its own")
        for name, value in {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}.items():
            _checks.flag(name, value)
        dropout = _checks.fraction("dropout", dropout)
        if dropout and num_layers == 1:
            raise ValueError(f"dropout acts between layers, got dropout={dropout!r} with num_layers=1; use 2 or more")
        mode = f"RNN_{nonlinearity}" if cell == "rnn" else cell
        super().__init__(mode.upper(), input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        self.cell = cell
        self.nonlinearity = nonlinearity

    if TYPE_CHECKING:

        @overload
        def __call__(self, input: Tensor, hx: Hidden | None = None) -> tuple[Tensor, Hidden]: ...
        @overload
        def __call__(self, input: PackedSequence, hx: Hidden | None = None) -> tuple[PackedSequence, Hidden]: ...
        def __call__(self, input: Any, hx: Hidden | None = None) -> Any: ...  # noqa: A002

    def forward(self, input: Tensor | PackedSequence, hx: Hidden | None = None) -> Any:  # noqa: A002  # torch's name
        """Return the last layer's output at every step, and the state of every layer after its last step.

        Args:
            input: Sequences; unbatched ones are without N in everything that goes in and comes out.
            hx: The state to start from; None is zeros. An lstm has a pair of them.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        check_tensor(input, self.weight_ih_l0, name="input")
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            batch = "N, T" if self.batch_first else "T, N"
            needs = f"({batch}, {self.input_size}), or (T, {self.input_size}) for one sequence"
            raise wrong_shape(input, f"StackedRNN(input_size={self.input_size})", needs, name="input")
        if input.ndim == 3:
            states = self._states(hx, input, (input.shape[0 if self.batch_first else 1],))
            output, *states = self._run(input, states, self.batch_first)
            return output, self._hidden(states)
        states = [state.unsqueeze(1) for state in self._states(hx, input, ())]
        output, *states = self._run(input.unsqueeze(1), states, False)
        return output.squeeze(1), self._hidden([state.squeeze(1) for state in states])

    def cells(self) -> list[list[nn.RNNCellBase]]:
        """Return one torch.nn cell per layer and direction, ``cells()[layer][direction]``, sharing the parameters.

        A cell is one step: ``h = cell(x, h)``. Layer 0 steps over the inputs, the next over the outputs of layer 0.

        >>> StackedRNN(8, 16, num_layers=2).cells()
        [[RNNCell(8, 16)], [RNNCell(16, 16)]]
        """
        directions = 2 if self.bidirectional else 1
        cells = []
        for i, weights in enumerate(self.all_weights):
            input_size = self.input_size if i < directions else directions * self.hidden_size
            options = {"nonlinearity": self.nonlinearity} if self.cell == "rnn" else {}
            cell = _CELL[self.cell](input_size, self.hidden_size, self.bias, device="meta", **options)  # type: ignore[arg-type]
            for (name, _), weight in zip(list(cell.named_parameters()), weights, strict=True):
                setattr(cell, name, weight)
            cells.append(cell.train(self.training))
        return [cells[i : i + directions] for i in range(0, len(cells), directions)]

    def example_inputs(self, n: int = 1) -> Tensor:
        """Return zeros that fit *forward*: *n* sequences of five steps."""
        shape = (n, 5) if self.batch_first else (5, n)
        return self.weight_ih_l0.new_zeros(*shape, self.input_size)

    def _forward_packed(self, packed: PackedSequence, hx: Hidden | None) -> tuple[PackedSequence, Hidden]:
        data, sizes, order, back = packed
        check_tensor(data, self.weight_ih_l0, name="input")
        if data.shape[-1] != self.input_size:
            needs = f"packed sequences of {self.input_size} features"
            raise wrong_shape(data, f"StackedRNN(input_size={self.input_size})", needs, name="input")
        states = self._states(hx, data, (int(sizes[0]),))
        if hx is not None and order is not None:
            states = [state.index_select(1, order) for state in states]
        output, *states = self._run(data, states, sizes)
        if back is not None:
            states = [state.index_select(1, back) for state in states]
        return PackedSequence(output, sizes, order, back), self._hidden(states)

    def _run(self, data: Tensor, states: list[Tensor], layout: bool | Tensor) -> tuple[Tensor, ...]:
        """Run all steps; *layout* is whether the batch comes first, or a packed sequence's batch sizes."""
        weights = [weight for weights in self.all_weights for weight in weights]
        hx = states if self.cell == "lstm" else states[0]
        options = (weights, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        if isinstance(layout, Tensor):
            return _RUN[self.mode](data, layout, hx, *options)
        if self.cell == "gru" and not self.bidirectional and fits(data, states[0], self.all_weights):
            steps = data.transpose(0, 1) if layout else data
            output, hidden = gru(steps, states[0], self.all_weights, self.dropout, self.training)
            return output.transpose(0, 1) if layout else output, hidden
        return _RUN[self.mode](data, hx, *options, layout)

    def _states(self, hx: Hidden | None, data: Tensor, batch: tuple[int, ...]) -> list[Tensor]:
        """Return *hx*, checked, or zeros, as a list of states: two of an lstm, else one."""
        shape = (self.num_layers * (2 if self.bidirectional else 1), *batch, self.hidden_size)
        if hx is None:
            zeros = torch.zeros(shape, dtype=data.dtype, device=data.device)
            return [zeros, zeros] if self.cell == "lstm" else [zeros]
        if isinstance(hx, Tensor) == (self.cell == "lstm") or (self.cell == "lstm" and len(hx) != 2):
            kind = "a pair of tensors (hidden, cell)" if self.cell == "lstm" else "one tensor"
            raise TypeError(f"hx must be {kind} for cell={self.cell!r}, got {type(hx).__name__}")
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        for state in states:
            check_tensor(state, data, name="hx")
            if state.shape != shape:
                raise wrong_shape(state, "this input", str(shape), name="hx")
        return states

    def _hidden(self, states: list[Tensor]) -> Hidden:
        return (states[0], states[1]) if self.cell == "lstm" else states[0]
