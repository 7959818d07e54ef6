"""models.features: what layers inside a model give."""

from __future__ import annotations

import copy
import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import equal
from torchbasics import data, models
from torchbasics.training import fit, predict


def images(n: int = 4) -> Tensor:
    return data.fashion_mnist_mini()[1][:n].inputs


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_one_layer_gives_its_output() -> None:
    """What one would compute by hand up to there."""
    model = models.CNNModel()
    x = torch.relu(nn.functional.max_pool2d(model.conv1(images()), 2))  # type: ignore[operator]  # a layer
    x = torch.relu(nn.functional.max_pool2d(model.conv2(x), 2))  # type: ignore[operator]  # a layer

    torch.testing.assert_close(models.features(model, "fc1")(images()), model.fc1(x.flatten(1)))


def test_several_layers_give_a_dict_in_the_order_they_were_asked_for() -> None:
    """Each as it is alone."""
    model = models.CNNModel()
    found = models.features(model, "fc1", "conv1")(images())

    assert list(found) == ["fc1", "conv1"]
    assert all(torch.equal(output, models.features(model, name)(images())) for name, output in found.items())


def test_the_outputs_are_those_of_torchvision() -> None:
    """Of torchvision's own extractor, on a network whose activations work in place."""
    torchvision = pytest.importorskip("torchvision")
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model, x = torchvision.models.resnet18(num_classes=3).eval(), torch.randn(2, 3, 32, 32)
    wanted = extraction.create_feature_extractor(model, ["layer1", "layer3", "avgpool"])(x)

    found = models.features(model, *wanted)(x)
    assert all(torch.equal(found[name], output) for name, output in wanted.items())


def test_what_follows_in_place_does_not_change_an_output() -> None:
    """An activation that works in place has negative values before it, also within tuples, lists and dicts."""

    class Nested(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"a": [x, (x,)], "b": None, "c": nn.utils.rnn.pack_sequence([x[0]])}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nested = Nested()

        def forward(self, x: Tensor) -> Tensor:
            found = self.nested(x.clone())
            found["c"].data.zero_()
            return found["a"][0].zero_()  # type: ignore[no-any-return]  # a tensor

    x = torch.randn(5, 3)
    linear = nn.Linear(3, 3)
    assert torch.equal(models.features(nn.Sequential(linear, nn.ReLU(inplace=True)), "0")(x), linear(x))
    found = models.features(Model(), "nested")(x)
    assert torch.equal(found["a"][0], x)
    assert torch.equal(found["a"][1][0], x)
    assert torch.equal(found["c"].data, x[0])
    assert found["b"] is None


def test_a_recurrent_layer_gives_a_tuple() -> None:
    """The output at every step, and the state."""
    output, hidden = models.features(models.get_model("rnn_classifier", cell="gru"), "rnn")(images())

    assert (output.shape[:2], hidden.ndim) == ((4, 28), 3)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    """Its mode is used and kept, no hook stays, and the model is the same one."""
    model = models.CNNModel(dropout=0.5).train(training)
    before = copy.deepcopy(model)
    taken = models.features(model, "fc2")

    assert torch.equal(taken(images()), taken(images())) is not training  # dropout
    assert {part.training for part in taken.modules()} == {training}
    assert (hooks(model), taken.model) == (0, model)
    assert equal(model, before)


def test_no_hook_stays_after_an_error() -> None:
    """Of wrong inputs, or of a layer that has raised half-way."""
    model = models.CNNModel()
    model.fc1.forward = None  # type: ignore[assignment,method-assign]  # breaks it
    for inputs, error in ((images()[:, :, 1:], ValueError), (images(), TypeError)):
        with pytest.raises(error):
            models.features(model, "conv1", "fc2")(inputs)
        assert hooks(model) == 0


def test_gradients_reach_the_parameters_before_the_layer() -> None:
    """And no others."""
    model = models.CNNModel()
    torch.autograd.backward(models.features(model, "fc1")(images()).sum())

    assert [name for name, p in model.named_parameters() if p.grad is None] == ["fc2.weight", "fc2.bias"]


def test_a_data_set_is_turned_into_features_by_predict() -> None:
    """Batch by batch, in eval mode, without gradients."""
    _, test = data.fashion_mnist_mini()
    model = models.CNNModel(dropout=0.5)
    found = predict(models.features(model, "fc1"), test, batch_size=300)

    assert found.shape == (1000, 50)
    torch.testing.assert_close(found, models.features(model.eval(), "fc1")(test.inputs), rtol=1e-4, atol=1e-5)


def test_a_new_head_is_trained_on_features() -> None:
    """In a Sequential; a frozen model under it is as before."""
    train, _ = data.fashion_mnist_mini()
    model = models.freeze(models.CNNModel(batch_norm=True))
    before = copy.deepcopy(model)
    probe = nn.Sequential(models.features(model, "fc1"), nn.ReLU(), nn.Linear(50, 10))
    history = fit(probe, train[:1000], epochs=3, progress=False)

    assert history[-1]["loss"] < history[0]["loss"]
    assert equal(model, before)


@pytest.mark.parametrize("how", ["compile", "in place", "parts", "features"])
def test_compiled_code_gives_the_same(how: str) -> None:
    """Hooks are not seen by code that was compiled before; it is not used here."""
    plain = models.CNNModel()
    model: Any = copy.deepcopy(plain)
    if how == "compile":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    elif how == "parts":
        model.conv1.compile(backend="eager")
    model(images())
    taken: Any = models.features(model, "conv1")
    taken = torch.compile(taken, backend="eager") if how == "features" else taken

    assert torch.equal(taken(images()), models.features(plain, "conv1")(images()))


def test_inputs_by_keyword_and_several_are_passed_on() -> None:
    """As the model takes them."""
    layer = nn.TransformerDecoderLayer(4, 1, 8, batch_first=True, dropout=0.0)
    x, memory = torch.randn(2, 2, 3, 4)
    taken = models.features(layer, "linear2")

    assert torch.equal(taken(x, memory), taken(tgt=x, memory=memory))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("fc3",), r"^unknown layer of CNNModel 'fc3'; did you mean 'fc[12]'\?$"),
        (("fc1", "stem"), "^unknown layer of CNNModel 'stem'; choose from 'conv1', 'conv2', 'fc1', 'fc2'$"),
        (("",), "^unknown layer of CNNModel ''; choose from 'conv1', "),
        ((["fc1", "fc2"],), r"^unknown layer of CNNModel \['fc1', 'fc2'\]; "),
        ((), "^features needs the name of a layer of CNNModel$"),
    ],
    ids=["near", "far", "the model itself", "list", "none"],
)
def test_a_layer_that_there_is_not_is_answered_with_the_nearest(layers: Any, message: str) -> None:
    """At once, not when the model runs."""
    with pytest.raises(ValueError, match=message):
        models.features(models.CNNModel(), *layers)


def test_a_layer_without_layers_inside_says_so() -> None:
    """There is nothing to choose from."""
    with pytest.raises(ValueError, match=r"^Linear has no layers inside, got 'weight'$"):
        models.features(nn.Linear(2, 2), "weight")


def test_a_layer_that_is_not_called_is_named() -> None:
    """Such as the output layer of attention, whose weight is used and whose forward is not."""
    attention, x = nn.MultiheadAttention(4, 1), torch.randn(3, 2, 4)
    with pytest.raises(
        ValueError,
        match=r"^MultiheadAttention has not called its layer 'out_proj'; name the layer around it, or one beside it$",
    ):
        models.features(attention, "out_proj")(x, x, x)


def test_a_layer_that_is_called_more_than_once_is_named() -> None:
    """Two outputs are no output; under its other name the layer is the same one."""
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    for name in ("1", "3"):
        with pytest.raises(
            ValueError, match=f"^Sequential has called its layer '{name}' 2 times; name a layer that is called once$"
        ):
            models.features(model, name)(torch.ones(1, 2))


def test_repr_names_the_layers() -> None:
    """And shows the model."""
    text = repr(models.features(models.MLP(2, (), 2), "net.0"))

    assert text.startswith("Features(\n  'net.0'\n  (model): MLP(")


def test_threads_do_not_see_each_others_calls() -> None:
    """Several at once get what one gets, and torch compiles afterwards as before."""
    importlib.import_module("torch._dynamo")
    model = models.CNNModel().eval()
    inputs = torch.rand(20, 2, 1, 28, 28)
    expected = [models.features(model, "fc1")(images) for images in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(models.features(model, "fc1"), inputs))
    torch.testing.assert_close(found, expected)  # a thread of another number of threads adds in another order

    compiled: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    torch.compile(nn.Hardtanh(), backend=backend)(torch.ones(2))
    assert compiled
