"""What a model is made of: layers, shapes, parameters, multiply-adds."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from torchbasics._model import check_module, modes_kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Row:
    """One layer: *output_shape* is None where the input does not reach it."""

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """The layers of a model in the order they run, and its totals; ``str(summary)`` is a table."""

    rows: tuple[Row, ...]
    parameters: int
    trainable_parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        cells = [("layer", "type", "output shape", "parameters", "multiply-adds")]
        for row in self.rows:
            shape = "not reached" if row.output_shape is None else str(row.output_shape)
            cells.append((row.name or "(model)", row.type, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}"))
        cells.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        form = "  ".join(f"{{:{side}{width}}}" for side, width in zip("<<<>>", widths, strict=True))
        lines = [form.format(*line) for line in cells]
        rule = "-" * len(lines[0])
        frozen = self.parameters - self.trainable_parameters
        note = [f"{frozen:,} of the parameters are frozen"] if frozen else []
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *note])


def summary(model: nn.Module, input_shape: Sequence[int]) -> Summary:
    """Run *model* once on zeros of *input_shape* and report on each of its layers.

    Multiply-adds are those of the weights of linear, convolution (also transposed) and recurrent layers, for the whole
    batch: half of the operations that ``torch.utils.flop_counter`` counts. Biases, activations, pooling and
    normalisation are not counted. The model is left as it was: mode, buffers, random numbers.

    Args:
        model: Any module that takes one tensor.
        input_shape: The shape of the input with the batch in front, such as ``(1, 1, 28, 28)``.

    >>> print(summary(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (2, 4)))
    layer  type    output shape  parameters  multiply-adds
    ------------------------------------------------------
    0      Linear  (2, 3)                15             24
    1      ReLU    (2, 3)                 0              0
    ------------------------------------------------------
    total                                15             24
    """
    check_module(model)
    layers = {
        layer: name
        for name, layer in model.named_modules()
        if not list(layer.children()) or list(layer.parameters(recurse=False))
    }
    rows: dict[nn.Module, Row] = {}

    def add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        earlier = rows[layer].multiply_adds if layer in rows else 0
        count = _multiply_adds(layer, (*args, *kwargs.values()), output)
        rows[layer] = _row(layer, layers[layer], _shape(output), earlier + count)

    weight = next(model.parameters(), torch.empty(0))
    handles = [layer.register_forward_hook(add, with_kwargs=True) for layer in layers]
    try:
        with _undisturbed(model), torch.no_grad():
            model(torch.zeros(tuple(input_shape), dtype=weight.dtype, device=weight.device))
    finally:
        for handle in handles:
            handle.remove()
    missed = [_row(layer, name, None, 0) for layer, name in layers.items() if layer not in rows]
    parameters = list(model.parameters())
    return Summary(
        rows=(*rows.values(), *(row for row in missed if row.parameters)),
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=sum(row.multiply_adds for row in rows.values()),
    )


def _row(layer: nn.Module, name: str, shape: tuple[int, ...] | None, multiply_adds: int) -> Row:
    own = sum(p.numel() for p in layer.parameters(recurse=False))
    return Row(name, type(layer).__name__, shape, own, multiply_adds)


def _tensor(value: Any) -> Tensor | None:
    """Return the first tensor in a layer's input or output: of a recurrent layer, its output at every step."""
    while isinstance(value, (tuple, list)) and value and not isinstance(value, PackedSequence):
        value = value[0]
    value = value.data if isinstance(value, PackedSequence) else value
    return value if isinstance(value, Tensor) else None


def _shape(output: Any) -> tuple[int, ...] | None:
    tensor = _tensor(output)
    return () if tensor is None else tuple(tensor.shape)


def _multiply_adds(layer: nn.Module, inputs: Any, output: Any) -> int:
    """Each weight of a layer is used once at each position; count the positions."""
    x, y = _tensor(inputs), _tensor(output)
    if x is None or y is None:
        return 0
    if isinstance(layer, nn.Linear):
        return layer.weight.numel() * math.prod(y.shape[:-1])
    if isinstance(layer, nn.modules.conv._ConvNd):
        # A convolution uses its kernel at each output pixel, a transposed one at each input pixel.
        channels, positions = (layer.in_channels, x) if layer.transposed else (layer.out_channels, y)
        return layer.weight.numel() * positions.numel() // channels
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        steps = x.numel() // layer.input_size
        return steps * sum(p.numel() for name, p in layer.named_parameters() if name.startswith("weight"))
    return 0


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Run in eval mode; then put back every module's mode and buffers, and torch's random numbers."""
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with modes_kept(model), torch.random.fork_rng(devices=list(cuda)):
            model.eval()
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                setattr(module, name, buffer.copy_(before))
