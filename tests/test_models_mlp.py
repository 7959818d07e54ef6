"""MLP: what its arguments mean, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchbasics.models import MLP
from torchbasics.models._linear import Linear
from torchbasics.models._mlp import ACTIVATIONS, INITS


def test_equals_the_layers_written_out() -> None:
    """The network is linear, activation, ..., linear, with torch's own start of the weights."""
    torch.manual_seed(0)
    model = MLP(6, (5, 4), 3)
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    inputs = torch.randn(7, 6)

    assert torch.equal(model(inputs), layers(inputs))


def test_no_hidden_layer_is_a_linear_model() -> None:
    """An empty tuple leaves one linear layer."""
    model = MLP(6, (), 3)

    assert [type(layer) for layer in model.net] == [Linear]
    assert model(torch.zeros(2, 6)).shape == (2, 3)


def test_options_add_their_layers_in_order() -> None:
    """A hidden layer is linear, batch norm, activation, dropout."""
    model = MLP(6, (5,), 3, activation="tanh", dropout=0.5, batch_norm=True, bias=False)

    assert [type(m) for m in model.net] == [Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout, Linear]
    assert [m.bias for m in model.net if isinstance(m, nn.Linear)] == [None, None]


def test_weights_fit_with_dropout_and_without() -> None:
    """It has no name of its own among the numbers, so that a trained model may be trained on with it."""
    plain, dropped = (MLP(6, (5, 4), 3, batch_norm=True, dropout=dropout).eval() for dropout in (0.0, 0.5))
    inputs = torch.randn(2, 6)

    assert not torch.equal(dropped(inputs), plain(inputs))
    dropped.load_state_dict(plain.state_dict())
    assert torch.equal(dropped(inputs), plain(inputs))
    assert list(dict(dropped.net.named_children())) == ["0", "1", "2", "dropout1", "3", "4", "5", "dropout2", "6"]


def test_images_are_flattened() -> None:
    """Everything after the first dimension is one sample's values."""
    model = MLP(12, (5,), 3)
    inputs = torch.randn(2, 3, 2, 2)

    assert torch.equal(model(inputs), model(inputs.reshape(2, 12)))


def test_widths_are_stored_as_given() -> None:
    """A list stays a list, a tuple a tuple; changing the list afterwards changes no model."""
    widths = [5, 4]
    model = MLP(6, widths, 3)
    widths.append(2)

    assert model.hidden == [5, 4]
    assert MLP(6, (5, 4), 3).hidden == (5, 4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_the_torch_module_of_that_name(name: str) -> None:
    """Each name is that of its class in torch.nn, in snake case."""
    module = MLP(4, (3,), 2, activation=name).net[1]

    assert type(module) is getattr(nn, type(module).__name__)
    assert type(module).__name__.lower() == name.replace("_", "")
    assert module(torch.randn(2, 3)).shape == (2, 3)


def test_softmax_is_over_features() -> None:
    """The tutorial's softmax activation sums to one in each sample."""
    hidden = MLP(4, (3,), 2, activation="softmax").net[:2](torch.randn(5, 4))

    torch.testing.assert_close(hidden.sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("name", INITS)
def test_init_is_the_torch_function_of_that_name(name: str) -> None:
    """Weights are what torch.nn.init gives, layer after layer; biases are zero."""
    torch.manual_seed(0)
    model = MLP(6, (5,), 3, init=name)
    torch.manual_seed(0)
    expected = MLP(6, (5,), 3)
    for layer in (expected.net[0], expected.net[2]):
        assert isinstance(layer, nn.Linear)
        getattr(nn.init, f"{name}_")(layer.weight)
        nn.init.zeros_(layer.bias)

    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("name", INITS)
def test_bias_init_is_that_function_on_a_row(name: str) -> None:
    """Biases are what torch.nn.init gives for a row (1, width); weights stay as torch made them."""
    torch.manual_seed(0)
    model = MLP(6, (5,), 3, bias_init=name)
    torch.manual_seed(0)
    expected = MLP(6, (5,), 3)
    for layer in (expected.net[0], expected.net[2]):
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            getattr(nn.init, f"{name}_")(layer.bias.view(1, -1))

    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected.parameters(), strict=True))


def test_init_works_without_biases() -> None:
    """A named start has no need of biases."""
    model = MLP(6, (5,), 3, bias=False, init="zeros", bias_init="ones")

    assert not any(p.any() for p in model.parameters())


def test_tutorials_sequential_is_an_mlp() -> None:
    """Linear, sigmoid, linear, softmax, with all weights and biases drawn by xavier: the same bits."""
    torch.manual_seed(0)
    model = MLP(
        6, (5,), 3, activation="sigmoid", output_activation="softmax", init="xavier_uniform", bias_init="xavier_uniform"
    )
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3), nn.Softmax(dim=1))
    for p in layers.parameters():
        nn.init.xavier_uniform_(p.data.view(-1, p.shape[-1]))
    inputs = torch.randn(7, 6)

    assert list(model.net.state_dict()) == list(layers.state_dict())
    assert torch.equal(model(inputs), layers(inputs))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_output_activation_follows_the_last_layer(name: str) -> None:
    """Any activation can come last, with hidden layers and without."""
    for hidden in ((), (5,)):
        net = MLP(6, hidden, 3, output_activation=name).net

        assert isinstance(net[-2], nn.Linear)
        assert type(net[-1]) is type(MLP(6, (5,), 3, activation=name).net[1])


def test_log_softmax_is_over_features() -> None:
    """Its exponentials sum to one in each sample."""
    outputs = MLP(4, (), 3, output_activation="log_softmax")(torch.randn(5, 4))

    torch.testing.assert_close(outputs.exp().sum(dim=1), torch.ones(5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_features": 0}, ValueError, r"^in_features must be at least 1, got 0$"),
        ({"in_features": 2.5}, TypeError, r"^in_features must be an integer, got 2\.5$"),
        ({"out_features": -1}, ValueError, r"^out_features must be at least 1, got -1$"),
        ({"hidden": 256}, TypeError, r"^hidden must be a tuple of widths, such as \(256, 128\), got 256$"),
        ({"hidden": (8, 0)}, ValueError, r"^hidden\[1\] must be at least 1, got 0$"),
        ({"hidden": ("8",)}, TypeError, r"^hidden\[0\] must be an integer, got '8'$"),
        ({"activation": "rellu"}, ValueError, r"^unknown activation 'rellu'; did you mean 'relu'\?$"),
        ({"activation": None}, ValueError, r"^unknown activation None; choose from 'celu', "),
        ({"dropout": 1.0}, ValueError, r"^dropout must be in \[0, 1\), got 1\.0$"),
        ({"batch_norm": 1}, TypeError, r"^batch_norm must be True or False, got 1$"),
        ({"bias": "no"}, TypeError, r"^bias must be True or False, got 'no'$"),
        ({"init": "xavier"}, ValueError, r"^unknown init 'xavier'; "),
        ({"bias_init": "one"}, ValueError, r"^unknown bias_init 'one'; did you mean 'ones'\?$"),
        (
            {"output_activation": "sofmax"},
            ValueError,
            r"^unknown output_activation 'sofmax'; did you mean 'softmax'\?$",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each argument is checked at construction."""
    with pytest.raises(error, match=message):
        MLP(**dict[str, Any](in_features=4, hidden=(3,), out_features=2) | arguments)


@pytest.mark.parametrize("shape", [(4, 5), (3,), (), (2, 3, 3)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """The message has both shapes."""
    with pytest.raises(ValueError, match=r"^inputs have shape \(.*\), but MLP\(in_features=3\) needs \(N, 3\)$"):
        MLP(3, (), 2)(torch.zeros(shape))
