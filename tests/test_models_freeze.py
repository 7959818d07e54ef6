"""models.freeze: layers that training leaves as they are."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import CrashAt, CrashError, equal, loop
from torchbasics import data, io, models
from torchbasics.training import fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05, "memory_format": "contiguous", "progress": False}


def images(n: int = 300) -> data.Images:
    return data.fashion_mnist_mini()[0][:n]


def trainable(model: nn.Module) -> set[str]:
    """The layers with parameters that require a gradient."""
    return {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad}


def changed(model: nn.Module, before: nn.Module) -> set[str]:
    """The layers whose parameters or buffers are no longer what they were."""
    old = before.state_dict()
    return {name.rpartition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, old[name])}


def normed(**arguments: Any) -> models.CNNModel:
    return models.CNNModel(batch_norm=True, **arguments)


LAYERS = {"conv1", "bn1", "conv2", "bn2", "fc1", "fc2"}


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        ((), LAYERS - {"fc2"}),
        (("conv1", "bn1"), {"conv1", "bn1"}),
        (("fc2",), {"fc2"}),
    ],
    ids=["all but the head", "two", "the head"],
)
def test_fit_changes_nothing_in_frozen_layers(names: tuple[str, ...], frozen: set[str]) -> None:
    """Neither parameters nor running statistics; everything in the others."""
    model = normed()
    before = copy.deepcopy(model)
    assert models.freeze(model, *names) is model
    fit(model, images(), epochs=1, **SGD)

    assert trainable(model) == LAYERS - frozen
    assert changed(model, before) == LAYERS - frozen


def test_without_gradients_alone_running_statistics_change() -> None:
    """Positive control: what freeze does beyond ``requires_grad_(False)``."""
    model = normed()
    before = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc2"))
    fit(model, images(), epochs=1, **SGD)

    assert changed(model, before) == {"bn1", "bn2", "fc2"}


def test_fit_of_a_frozen_model_ends_on_the_bits_of_the_loop() -> None:
    """The model says what is frozen, so the loop that everyone writes keeps it too."""
    model = models.freeze(normed())
    by_hand, train = copy.deepcopy(model), images()
    fit(model, train, epochs=2, batch_size=50, **SGD)
    loop(
        by_hand, train.inputs, train.targets,
        lambda parameters: torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.05),
        epochs=2, batch_size=50,
    )  # fmt: skip

    assert equal(model, by_hand)


def test_frozen_batch_norm_gives_in_training_what_it_gives_in_evaluation() -> None:
    """Outputs do not depend on the rest of the batch."""
    model = models.freeze(normed())
    x = images(20).inputs
    wanted = models.features(copy.deepcopy(model).eval(), "bn2")(x)

    assert torch.equal(models.features(model.train(), "bn2")(x), wanted)
    assert not torch.equal(models.features(normed().train(), "bn2")(x), wanted)  # positive control


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.BatchNorm1d(4, affine=False), (5, 4)),
        (lambda: nn.InstanceNorm1d(4, track_running_stats=True), (5, 4, 3)),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), (5, 4)),
    ],
    ids=["batch norm without parameters", "instance norm", "spectral norm"],
)
def test_buffers_of_all_kinds_stay(layer: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """What training mode would change; it does (control)."""
    for frozen in (True, False):
        model = nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(2))
        model(torch.ones(shape))
        before = copy.deepcopy(model)
        models.freeze(model, "0") if frozen else model[0].requires_grad_(False)
        model.train()(torch.randn(shape))
        assert equal(model, before) is frozen


def test_dropout_in_frozen_layers_goes_on() -> None:
    """The model's mode is its own: only what holds buffers stays in evaluation."""
    model = models.freeze(models.MLP(8, (64,), 2, batch_norm=True, dropout=0.5)).train()
    model(torch.randn(3, 8))

    assert {type(part).__name__ for part in model.modules() if not part.training} == {"BatchNorm1d"}


def test_a_layer_can_be_trained_again() -> None:
    """With its running statistics; freezing it once more freezes it."""
    model = models.freeze(normed())
    models.freeze(model)
    model.get_submodule("bn1").requires_grad_(True)
    before = copy.deepcopy(model)
    fit(model, images(), epochs=1, **SGD)
    assert changed(model, before) == {"bn1", "fc2"}
    before = copy.deepcopy(model)
    fit(models.freeze(model), images(), epochs=1, **SGD)
    assert changed(model, before) == {"fc2"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_frozen_too(copied: Callable[[Any], Any]) -> None:
    """And apart."""
    model = copied(models.freeze(normed()))
    before = copy.deepcopy(model)
    fit(model, images(), epochs=1, **SGD)
    assert changed(model, before) == {"fc2"}


def test_a_saved_model_is_not_frozen(tmp_path: Path) -> None:
    """The file has the parameters, and nothing of what trains."""
    model = models.freeze(normed())
    io.save(model, tmp_path / "m.safetensors")
    loaded = io.load(tmp_path / "m.safetensors")

    assert equal(loaded, model)
    assert trainable(loaded) == LAYERS


def test_a_run_of_a_frozen_model_goes_on(tmp_path: Path) -> None:
    """After a crash, to the bits of a run that was not cut; not as one of a model that is not frozen."""
    start = models.freeze(normed())
    whole, resumed = copy.deepcopy(start), copy.deepcopy(start)
    call: dict[str, Any] = {"epochs": 2, "batch_size": 50, **SGD}
    fit(whole, images(), **call)
    with pytest.raises(CrashError):
        fit(copy.deepcopy(start), images(), **call, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(4)])
    with pytest.raises(ValueError, match="conv1"):
        fit(normed(), images(), **call, checkpoint=tmp_path)
    fit(resumed, images(), **call, checkpoint=tmp_path)
    assert equal(resumed, whole)


def test_a_frozen_model_compiles_as_one_graph() -> None:
    """And stays frozen in it, whatever mode it is put into."""
    model = models.freeze(normed())
    before = copy.deepcopy(model)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(2):
        compiled.train()
        compiled(images(4).inputs)
    assert equal(model, before)
    torch.export.export(model.eval(), (images(4).inputs,))


def test_a_wrapped_model_is_frozen_by_its_own_names() -> None:
    """Of torch.compile's and others' wrappers the names say nothing."""
    compiled: Any = torch.compile(normed(), backend="eager")
    assert models.freeze(compiled, "fc1") is compiled
    assert trainable(compiled._orig_mod) == LAYERS - {"fc1"}


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "vit_b_32", "squeezenet1_1"])
@pytest.mark.slow
def test_the_head_of_other_libraries_models_is_found(name: str) -> None:
    """Their last layer: what has as many outputs as there are classes."""
    torchvision = pytest.importorskip("torchvision")
    model = models.freeze(getattr(torchvision.models, name)(num_classes=7))

    assert {len(p) for p in model.parameters() if p.requires_grad} == {7}


@pytest.mark.parametrize("name", ["cnn", "mlp", "rnn_classifier"])
def test_the_head_of_our_models_is_their_last_layer(name: str) -> None:
    """The one that other classes need anew."""
    model = models.freeze(models.get_model(name))

    assert {len(p) for p in model.parameters() if p.requires_grad} == {10}
    assert len(trainable(model)) == 1


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (models.CNNModel(), ("conv1", "cnov2"), r"^unknown layer of CNNModel 'cnov2'; did you mean 'conv2'\?$"),
        (nn.Linear(2, 2), (), "^Linear has no layer before its head that could be frozen; name the layers$"),
        (nn.Sequential(nn.Linear(2, 2)), (), "^Sequential has no layer before its head that could be frozen"),
        (nn.ReLU(), (), "^ReLU has no layer before its head that could be frozen"),
        (models.DCGAN(width=4), (), "^DCGAN is two networks, each with a head; name the layers$"),
    ],
    ids=["unknown", "one layer", "one inside", "none", "two networks"],
)
def test_what_cannot_be_frozen_is_said(model: nn.Module, names: tuple[str, ...], message: str) -> None:
    """Nothing is frozen then."""
    with pytest.raises(ValueError, match=message):
        models.freeze(model, *names)
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_that_is_frozen_as_a_whole_is_not_trained() -> None:
    """It is said before anything runs."""
    model = models.freeze(models.MLP(784, (4,), 10), "net")
    with pytest.raises(ValueError, match="no parameter that requires a gradient; there is nothing to train"):
        fit(model, images(), epochs=1, progress=False)
    assert isinstance(model.net, nn.Sequential)
    assert isinstance(model(images(2).inputs), Tensor)


@pytest.mark.parametrize(
    "wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm]
)
def test_a_parametrized_head_is_trained_whole(wrap: Any) -> None:
    """Its bias, and what its weight is made from."""
    model = models.freeze(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), wrap(nn.Linear(8, 2))))

    assert {n.partition(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"2"}
    assert all(p.requires_grad for p in model[2].parameters())


def test_a_lazy_head_is_a_head() -> None:
    """Its weight has no dimensions yet."""
    model = models.freeze(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.LazyLinear(2)))

    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["2.weight", "2.bias"]


def test_a_head_that_shares_its_weight_has_to_be_named() -> None:
    """Frozen before the head, it would be frozen in it."""
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8), nn.Linear(8, 5, bias=False))
    model[2].weight = model[0].weight

    with pytest.raises(ValueError, match="the head of Sequential shares a parameter with a layer before it; name the"):
        models.freeze(model)
    assert all(p.requires_grad for p in model.parameters())
