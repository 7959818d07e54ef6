"""summary: counts that torchinfo and torch's flop counter agree with, and a model left as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchinfo
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torchbasics import models
from torchbasics.models import summary

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS: dict[str, Callable[[], Any]] = {
    "cnn": models.CNNModel,
    "cnn wide": lambda: models.CNNModel(3, image_size=(20, 31), channels=(4, 5, 6), batch_norm=True, kernel_size=3),
    "dcgan": lambda: models.DCGAN(width=4),
    "mlp": lambda: models.MLP(12, (7, 5), 3, batch_norm=True),
    "rnn": lambda: models.StackedRNN(4, 6, 2, bidirectional=True),
    "lstm": lambda: models.StackedRNN(4, 6, cell="lstm", batch_first=True),
    "gru": lambda: models.StackedRNN(4, 6, 2, cell="gru", bias=False),
    "rnn_classifier": lambda: models.RNNClassifier(28, 16, 1, 10),
}
all_models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@all_models
def test_multiply_adds_are_half_the_flops(make: Any) -> None:
    """The flop counter of torch counts a multiplication and an addition for each multiply-add."""
    model = make().double()  # in float32 an lstm may be one fused operation, which the counter does not know
    shape = model.example_inputs(3).shape
    with FlopCounterMode(display=False) as counter:
        model.eval()(model.example_inputs(3))

    assert summary(model, shape).multiply_adds * 2 == counter.get_total_flops()


def bias_additions(model: nn.Module, report: models._summary.Summary) -> int:
    """Return what torchinfo counts beside products: an addition for each bias, batch norm once per sample."""
    modules = dict(model.named_modules())
    count = 0
    for row in report.rows:
        layer, shape = modules[row.name], row.output_shape
        if shape is None:
            continue
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            count += row.parameters * shape[0]
        elif isinstance(layer, nn.RNNBase):
            biases = sum(p.numel() for name, p in layer.named_parameters() if name.startswith("bias"))
            count += biases * shape[0] * shape[1]
        elif getattr(layer, "bias", None) is not None:
            count += torch.Size(shape).numel()
    return count


@pytest.mark.parametrize("name", [name for name in MODELS if name != "dcgan"])
def test_agrees_with_torchinfo(name: str) -> None:
    """Parameters are equal, multiply-adds too but for the biases and batch norms that torchinfo adds to them.

    Transposed convolutions are left out: torchinfo counts zeros of the stride in, the flop counter does not.
    """
    model = MODELS[name]()
    inputs = model.example_inputs(3)
    ours = summary(model, inputs.shape)
    theirs = torchinfo.summary(model, input_data=inputs, verbose=0)

    assert ours.parameters == theirs.total_params
    assert ours.trainable_parameters == theirs.trainable_params
    assert ours.multiply_adds + bias_additions(model, ours) == theirs.total_mult_adds


def test_tutorial_network_row_by_row() -> None:
    """The numbers one gets by hand for the tutorial's network."""
    rows = summary(models.CNNModel(), (2, 1, 28, 28)).rows

    assert [(r.name, r.type, r.output_shape, r.parameters, r.multiply_adds) for r in rows] == [
        ("conv1", "Conv2d", (2, 10, 28, 28), 260, 2 * 28 * 28 * 10 * 25),
        ("conv2", "Conv2d", (2, 20, 14, 14), 5_020, 2 * 14 * 14 * 20 * 250),
        ("fc1", "Linear", (2, 50), 49_050, 2 * 980 * 50),
        ("fc2", "Linear", (2, 10), 510, 2 * 50 * 10),
    ]


@all_models
def test_parameters_of_the_rows_add_up(make: Any) -> None:
    """Every parameter is in some row, also where the input does not reach it."""
    report = summary(make(), make().example_inputs(2).shape)

    assert sum(row.parameters for row in report.rows) == report.parameters


def test_table_shows_totals_unreached_layers_and_frozen_parameters() -> None:
    """The table is readable as it is printed."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(4, 300)
            self.unused = nn.Linear(4, 2).requires_grad_(requires_grad=False)

        def forward(self, x: Tensor) -> Any:
            return self.used(x)

    model = Half()

    assert str(summary(model, (2, 4))).splitlines() == [
        "layer   type    output shape  parameters  multiply-adds",
        "-------------------------------------------------------",
        "used    Linear  (2, 300)           1,500          2,400",
        "unused  Linear  not reached           10              0",
        "-------------------------------------------------------",
        "total                              1,510          2,400",
        "10 of the parameters are frozen",
    ]


def test_a_model_that_is_one_layer_has_one_row() -> None:
    """A layer by itself has no name of its own in the table."""
    assert "(model)  Linear" in str(summary(nn.Linear(4, 3), (2, 4)))


def test_a_layer_used_twice_is_one_row_with_both_uses() -> None:
    """Its parameters count once, its multiply-adds each time."""
    layer = nn.Linear(4, 4)
    report = summary(nn.Sequential(layer, nn.ReLU(), layer), (1, 4))

    assert (report.parameters, report.multiply_adds) == (20, 32)
    assert [row.type for row in report.rows] == ["Linear", "ReLU"]


def test_grouped_and_transposed_convolutions_agree_with_the_flop_counter() -> None:
    """Groups and strides are counted as torch does."""
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, stride=2), nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2), nn.Flatten(0)
    )
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 4, 9, 9))

    assert summary(model, (2, 4, 9, 9)).multiply_adds * 2 == counter.get_total_flops()


class Odd(nn.Module):
    """A module of a user's own: packed input inside, a counter, random numbers, an output that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)
        self.norm = nn.BatchNorm1d(6, momentum=None)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls = self.calls + 1
        packed = nn.utils.rnn.pack_padded_sequence(x, [5, 2], batch_first=True)
        return {"y": self.norm(self.rnn(packed)[1][-1]) + torch.rand(6)}


class Keywords(nn.Module):
    """A module that calls its layers by keyword, one of them with no tensor at all."""

    def __init__(self) -> None:
        super().__init__()
        self.ones = Ones()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.linear(input=x + self.ones())


class Ones(nn.Module):
    """A module without inputs."""

    def forward(self) -> Tensor:
        return torch.ones(4)


def test_layers_called_by_keyword_or_without_inputs_are_counted() -> None:
    """How a layer is called does not matter."""
    report = summary(Keywords(), (2, 4))

    assert [(row.name, row.output_shape, row.multiply_adds) for row in report.rows] == [
        ("ones", (4,), 0),
        ("linear", (2, 3), 24),
    ]


def test_packed_sequences_count_their_steps() -> None:
    """A recurrent layer on a packed sequence is counted for the steps there are; unknown outputs do no harm."""
    report = summary(Odd(), (2, 5, 4))

    assert report.multiply_adds == (5 + 2) * (3 * 6 * 4 + 3 * 6 * 6)
    assert [row.output_shape for row in report.rows] == [(7, 6), (2, 6)]


def test_model_is_left_as_it_was() -> None:
    """Modes of single layers, buffers (the object too), random numbers, gradients and hooks stay."""
    model = Odd()
    model.norm.eval()
    modes = [m.training for m in model.modules()]
    buffers = {name: (b, b.clone()) for name, b in model.named_buffers()}
    state = torch.get_rng_state()
    summary(model, (2, 5, 4))

    assert [m.training for m in model.modules()] == modes
    assert all(b is buffers[name][0] and torch.equal(b, buffers[name][1]) for name, b in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_model_is_left_as_it_was_after_an_error() -> None:
    """A shape that does not fit is the model's own error; mode and hooks are put back."""
    model = models.CNNModel()
    with pytest.raises(ValueError, match=r"^inputs have shape \(1, 28, 28\), but CNNModel"):
        summary(model, (1, 28, 28))

    assert all(m.training and not m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_inputs_have_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    """A model of another floating dtype is summarised as it is."""
    assert summary(models.CNNModel().to(dtype), (1, 1, 28, 28)).multiply_adds == 1_225_500


def test_a_model_without_parameters_has_zeros() -> None:
    """There is nothing to count, and nothing fails."""
    report = summary(nn.Flatten(), (2, 3, 4))

    assert (report.parameters, report.multiply_adds, report.rows[0].output_shape) == (0, 0, (2, 12))
