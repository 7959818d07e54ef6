"""What the loss does not count counts nowhere, and what it sums is divided."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import Stream, blobs, equal, loop, small_images
from torchbasics import models, training
from torchbasics.training import History, fit

if TYPE_CHECKING:
    from pathlib import Path

quiet = partial(fit, progress=False)


@pytest.mark.parametrize("batch_size", [7, 10, 60])
def test_a_summed_loss_is_reported_as_a_mean(batch_size: int) -> None:
    """reduction="sum": gradients are sums, the numbers in results are means over samples."""
    inputs, targets = blobs()
    model = nn.Linear(6, 3)
    expected = functional.cross_entropy(model(inputs), targets).item()

    result = training.evaluate(model, inputs, targets, loss=nn.CrossEntropyLoss(reduction="sum"), batch_size=batch_size)

    assert result["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_summed_loss_trains_on_the_sum() -> None:
    """The bits of the loop with that loss; whole or in parts."""
    inputs, targets = blobs()
    model = nn.Linear(6, 3).double()
    by_hand, parts = copy.deepcopy(model), copy.deepcopy(model)
    loss = nn.CrossEntropyLoss(reduction="sum")
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "lr": 0.001, "loss": loss}

    quiet(model, (inputs.double(), targets), **options)
    loop(by_hand, inputs.double(), targets, partial(SGD, lr=0.001), epochs=2, batch_size=16, loss=loss)
    quiet(parts, (inputs.double(), targets), accumulate=3, **options)

    assert equal(model, by_hand)
    torch.testing.assert_close(parts.weight, model.weight, rtol=1e-12, atol=1e-14)  # sums in another order


@pytest.mark.parametrize("loss", [None, "cross_entropy", nn.CrossEntropyLoss(), nn.CrossEntropyLoss(ignore_index=2)])
@pytest.mark.parametrize("batch_size", [7, 30, 60])
def test_ignored_targets_count_neither_in_the_loss_nor_in_metrics(loss: Any, batch_size: int) -> None:
    """Loss and accuracy are those of the samples that count, also where a whole batch does not."""
    inputs, targets = blobs()
    ignored = getattr(loss, "ignore_index", -100)
    targets = targets.clone()
    targets[:31] = ignored
    kept = targets != ignored
    model = nn.Linear(6, 3)
    logits = model(inputs)[kept]

    result = training.evaluate(model, inputs, targets, loss=loss, batch_size=batch_size, metrics=["accuracy", "f1"])

    assert result["loss"] == pytest.approx(functional.cross_entropy(logits, targets[kept]).item(), rel=1e-6)
    assert result["accuracy"] == (logits.argmax(1) == targets[kept]).sum().item() / int(kept.sum())


def test_evaluating_what_is_all_ignored_is_an_error() -> None:
    """There is no loss of nothing."""
    inputs, targets = blobs()

    with pytest.raises(ValueError, match="no target counts: the loss ignores all of them"):
        training.evaluate(nn.Linear(6, 3), inputs, torch.full_like(targets, -100))


@pytest.mark.parametrize("kind", ["pair", "loader"])
def test_accumulation_is_right_from_the_first_update_on(kind: str) -> None:
    """Class weights, a part that counts nothing, and data that is not known before."""
    inputs, targets = blobs(n=12)
    targets = targets.clone()
    targets[:4] = -100
    weights = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    data: Any = (inputs.double(), targets)
    options: dict[str, Any] = {"batch_size": 12, "shuffle": False}
    if kind == "loader":
        data, options = DataLoader(TensorDataset(*data), batch_size=12), {}
    whole = nn.Linear(6, 3).double()
    parts = copy.deepcopy(whole)
    options |= {"epochs": 1, "optimizer": "sgd", "lr": 0.1, "loss": nn.CrossEntropyLoss(weights)}

    quiet(whole, data, **options)
    quiet(parts, data, accumulate=3, **options)

    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-12, atol=1e-14)  # sums in another order


def test_counts_are_no_classes() -> None:
    """Integer targets of a loss for counts: no accuracy, and no label out of range."""
    inputs, targets = blobs()
    counts = (targets * 7).unsqueeze(1)

    history = quiet(nn.Linear(6, 1), (inputs, counts), epochs=1, loss=nn.PoissonNLLLoss(), lr=0.001)

    assert set(history[0]) == {"loss", "seconds"}


@pytest.mark.parametrize("loss", ["mse", nn.MSELoss(), nn.L1Loss(), "huber"], ids=str)
def test_regression_needs_floating_targets(loss: Any) -> None:
    """Not every torch has a gradient for integer ones."""
    inputs, targets = blobs()

    with pytest.raises(
        TypeError, match=r"targets are torch.int64, but this loss needs floating ones; call targets.float"
    ):
        quiet(nn.Linear(6, 1), (inputs, targets.unsqueeze(1)), epochs=1, loss=loss)


def test_labels_of_numpy_are_read_as_torch_wants_them() -> None:
    """int32 and int8 become int64."""
    inputs, targets = blobs()

    for kind in (np.int32, np.int8):
        assert "accuracy" in quiet(nn.Linear(6, 3), inputs.numpy(), targets.numpy().astype(kind), epochs=1)[0]


def test_collections_of_metrics_are_taken_apart() -> None:
    """Torchmetrics' MetricCollection: a column each."""
    inputs, targets = blobs()
    accuracy = torchmetrics.Accuracy("multiclass", num_classes=3, average="micro")
    collection = torchmetrics.MetricCollection(
        {"micro": accuracy, "f1": torchmetrics.F1Score("multiclass", num_classes=3)}
    )

    row = quiet(nn.Linear(6, 3), inputs, targets, epochs=1, metrics=[collection, "accuracy"])[0]

    assert row["micro"] == pytest.approx(row["accuracy"], rel=1e-6)
    assert "f1" in row


class Viewed(nn.Module):
    """The network of many tutorials: it flattens by view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3 * 64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.conv(inputs)
        out: Tensor = self.fc(x.view(x.size(0), -1))
        return out


def test_anyones_convolutional_model_trains_as_it_is() -> None:
    """Its memory format is left alone: view() would fail on another."""
    history = quiet(Viewed(), small_images(), epochs=1, lr=0.01)

    assert history.recipe is not None
    assert history.recipe.memory_format == "contiguous"


def test_a_model_that_came_in_channels_last_stays_so() -> None:
    """What was found is what is left."""
    model = models.CNNModel(1, 4, image_size=8).to(memory_format=torch.channels_last)

    quiet(model, small_images(), epochs=1, lr=0.01)

    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr,operator]


def test_a_model_that_writes_to_its_inputs_leaves_the_data_alone() -> None:
    """Batches are copies, shuffled or not."""
    inputs, targets = blobs()
    before = inputs.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))

    quiet(model, inputs, targets, epochs=1, lr=0.01, shuffle=False)
    training.evaluate(model, inputs, targets)
    training.predict(model, inputs)

    assert torch.equal(inputs, before)


def test_inputs_alone_may_come_in_batches_of_one_part() -> None:
    """What a TensorDataset of one tensor gives."""
    inputs, _ = blobs()
    model = nn.Linear(6, 3)

    for given in (TensorDataset(inputs), DataLoader(TensorDataset(inputs), batch_size=7)):
        torch.testing.assert_close(training.predict(model, given), training.predict(model, inputs))


def test_streams_are_evaluated_once() -> None:
    """Each sample counts once; workers would read all of them each."""
    assert training.evaluate(nn.Linear(6, 3), Stream())["samples"] == 60
    with pytest.raises(ValueError, match="workers does not go with a stream"):
        training.evaluate(nn.Linear(6, 3), Stream(), workers=2)


def test_predictions_are_refused_for_values_that_are_not_finite() -> None:
    """And for batch sizes that are none, also of several inputs."""
    with pytest.raises(ValueError, match="inputs hold a value that is not finite, first in sample 1"):
        training.predict(nn.Linear(2, 2), torch.tensor([[1.0, 2.0], [float("inf"), 0.0]]))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        training.predict(nn.Linear(2, 2), (torch.zeros(3, 2),), batch_size=0)


def test_an_error_that_is_not_about_types_stays_what_it_is() -> None:
    """Integer inputs of an embedding are not told to become floats."""
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        training.predict(model, torch.zeros(5, 2, dtype=torch.long))


def test_the_recipe_of_a_history_is_data() -> None:
    """Functions and instances are names there; JSON gives the same recipe."""
    inputs, targets = blobs()
    model = nn.Linear(6, 3)
    once: Any = np.int64(1)
    rate: Any = np.float32(0.5)

    history = quiet(model, inputs, targets, epochs=once, optimizer=SGD(model.parameters(), 0.1))
    named = quiet(model, inputs, targets, epochs=1, optimizer=("sgd", {"momentum": 0.9}), lr=rate)

    assert history.recipe is not None
    assert history.recipe.optimizer == "torch.optim.sgd.SGD"
    assert history.recipe.epochs == 1
    assert History.from_json(named.to_json()).recipe == named.recipe
    assert named.recipe is not None
    assert named.recipe.lr == 0.5


@pytest.mark.parametrize(
    ("options", "optimizer", "lr"),
    [
        ({"optimizer": "sgd"}, "sgd", 1e-3),
        ({"optimizer": ("adam", {"lr": 0.3})}, ("adam", {"lr": 0.3}), 0.3),
        ({"schedule": "cosine"}, "adamw", 1e-2),
        ({"lr": 0.2}, "adamw", 0.2),
    ],
    ids=["name", "options", "schedule", "rate"],
)
def test_the_history_states_the_rate_that_was_used(options: Any, optimizer: Any, lr: float) -> None:
    """Also where it is the optimizer's own."""
    recipe = quiet(nn.Linear(6, 3), *blobs(), epochs=1, **options).recipe

    assert recipe is not None
    assert (recipe.optimizer, recipe.lr) == (optimizer, lr)


def test_a_named_recipe_goes_with_a_loader() -> None:
    """Its batch size is the recipe's, not asked for by the call."""
    loader = DataLoader(TensorDataset(*blobs()), batch_size=20)

    assert len(quiet(nn.Linear(6, 3), loader, recipe="tutorial", epochs=1)) == 1


@pytest.mark.parametrize("case", ["regression", "segmentation", "own step", "loader"])
def test_a_picture_never_ends_a_run(case: str, tmp_path: Path) -> None:
    """Images whose targets are no classes are shown without predictions."""
    images = small_images()
    inputs, n = images.inputs, len(images)
    options: dict[str, Any] = {}
    model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    data: Any = (inputs, torch.rand(n, 2))
    if case == "segmentation":
        model, data = nn.Conv2d(1, 5, 3, padding=1), (inputs, torch.randint(5, (n, 8, 8)))
    elif case == "own step":
        options["step"] = lambda m, x, y: m(x).square().mean()
        data = (inputs, images.targets)
    elif case == "loader":
        model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), DataLoader(images, batch_size=10)
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    quiet(model, data, epochs=1, lr=0.001, log_dir=tmp_path, **options)

    assert len(reader.EventAccumulator(str(tmp_path)).Reload().Images("predictions")) == 1
