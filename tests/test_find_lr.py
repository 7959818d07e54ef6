"""`training.find_lr`: the losses of the loop written by hand with a growing rate, a rate that works, and no trace."""

from __future__ import annotations

import copy
import itertools
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import blobs, equal, small_images
from tests.test_doctor import half_trained, same, state_of
from torchbasics import data, models, training
from torchbasics.training import find_lr

X, Y = blobs(n=300)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return models.MLP(6, (16,), 3, dropout=0.2, batch_norm=True)


def test_the_losses_are_those_of_the_loop_written_by_hand() -> None:
    """Bit by bit: the order of `data.order`, dropout from the seed, each rate a constant factor above the one before."""
    model = mlp()
    by_hand = copy.deepcopy(model).train()

    found = find_lr(model, X, Y, lowest=1e-3, highest=1.0, steps=20, batch_size=30, optimizer="sgd", seed=4)

    optimizer = SGD(by_hand.parameters(), 1.0)
    losses = []
    torch.manual_seed(4)
    indices = [part for epoch in range(2) for part in torch.split(data.order(300, 4, epoch), 30)]
    for i, index in enumerate(indices):
        optimizer.param_groups[0]["lr"] = 1e-3 * 1000 ** (i / 19)
        optimizer.zero_grad()
        loss = functional.cross_entropy(by_hand(X[index]), Y[index])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert found.losses == losses
    assert found.rates == pytest.approx([1e-3 * 1000 ** (i / 19) for i in range(20)])


def test_the_suggestion_is_where_the_smoothed_loss_falls_fastest() -> None:
    """Smoothing is a running mean without bias; the test ends where the loss is far above its best."""
    found = find_lr(mlp(), X, Y, optimizer="sgd", highest=1e6)

    mean, smoothed = 0.0, []
    for i, loss in enumerate(found.losses, start=1):
        mean = 0.9 * mean + 0.1 * loss
        smoothed.append(mean / (1 - 0.9**i))
    falls = [a - b for a, b in pairwise(smoothed)]
    assert found.smoothed == pytest.approx(smoothed)
    assert found.suggestion == found.rates[falls.index(max(falls))]
    assert len(found.rates) == len(found.losses) == len(smoothed) < 100


def test_a_fall_from_a_peak_suggests_nothing() -> None:
    """A rate that is too high lets the loss rise, and at times fall back faster than it ever fell; further is progress."""
    course = [*[3.0] * 20, *torch.linspace(3, 1, 20).tolist(), *[6.0] * 5, *[1.5] * 20]
    values = itertools.chain(course, itertools.repeat(1.5))  # some are taken by the checks before

    def told(outputs: Tensor, _targets: Tensor) -> Tensor:
        return torch.add(outputs.sum() * 0, next(values))

    found = find_lr(mlp(), X, Y, loss=told, steps=len(course), batch_size=30)

    falls = [a - b for a, b in pairwise(found.smoothed)]
    assert len(found.rates) == len(course)
    assert falls.index(max(falls)) >= 40  # where it fell fastest is after the peak
    assert 15 <= found.rates.index(found.suggestion) < 40


@pytest.mark.parametrize("seed", range(4))
def test_the_first_losses_suggest_nothing(seed: int) -> None:
    """Their running mean is that of few, and so falls by chance faster than it ever will by learning."""
    x = torch.linspace(-1, 1, 1000).unsqueeze(1)
    torch.manual_seed(seed)

    found = find_lr(nn.Linear(1, 1), x, 2 * x, optimizer="sgd", highest=10, seed=seed)

    assert 0.03 < found.suggestion < 0.5


def test_noise_is_told_from_a_fall() -> None:
    """Nothing can be learned from labels that are drawn; the warning says so, and what may help."""
    labels = torch.randint(3, (len(X),), generator=torch.Generator().manual_seed(1))
    with pytest.warns(
        UserWarning, match=r"no more than 5.5 times its noise of .* give larger batches, or rates in another"
    ):
        find_lr(mlp(), X, labels, batch_size=10)


@pytest.mark.parametrize("options", [{"lowest": 1e-2}, {"steps": 12}, {"steps": 30}], ids=["high", "short", "shorter"])
def test_a_fall_that_begins_at_once_is_no_noise(options: dict[str, Any]) -> None:
    """The losses of the first updates have a trend, which is not taken for their noise."""
    train, _ = data.fashion_mnist_mini()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_lr(models.get_model("mlp"), train, **options)


@pytest.mark.parametrize("lowest", [5, 1e10])
def test_rates_that_are_all_too_high_are_warned_of(lowest: float) -> None:
    """Even where the squares of losses are beyond all numbers."""
    x = torch.linspace(-1, 1, 1000, dtype=torch.float64).unsqueeze(1)
    model = nn.Linear(1, 1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="or rates in another range$"):
        find_lr(model, x, 2 * x, optimizer="sgd", lowest=lowest, highest=100 * lowest)


def test_losses_that_go_up_and_down_are_no_divergence() -> None:
    """Those of few samples, by a model that knows most: the test goes on until a rate is too high."""
    train, _ = data.fashion_mnist_mini()
    with pytest.warns(UserWarning, match="A model that has learned already"):
        found = find_lr(models.get_model("mlp", weights="DEFAULT"), train, batch_size=16)

    assert found.rates[-1] > 1e-2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_suggested_rate_learns(optimizer: str) -> None:
    """Five epochs with it end far below five with a hundredth of it."""
    model = mlp()
    found = find_lr(model, X, Y, optimizer=optimizer)

    def loss_with(rate: float) -> float:
        trained = copy.deepcopy(model)
        training.fit(trained, X, Y, epochs=5, optimizer=optimizer, lr=rate, progress=False)
        return training.evaluate(trained, X, Y)["loss"]

    assert loss_with(found.suggestion) < 0.5 * loss_with(found.suggestion / 100)


def test_a_search_leaves_no_trace() -> None:
    """Parameters, buffers, gradients, modes, a given optimizer and all generators keep their bits."""
    model, optimizer, loader = half_trained()
    before = state_of(model, optimizer, loader)
    rate = optimizer.param_groups[0]["lr"]

    find_lr(model, loader, optimizer=optimizer, steps=20)

    assert same(before, state_of(model, optimizer, loader))
    assert optimizer.param_groups[0]["lr"] == rate


@pytest.mark.parametrize("part", ["copies", "without_trace"])
def test_without_its_precautions_a_search_leaves_traces(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: training the model itself, or drawing from the generators as they are, is seen."""
    model, optimizer, loader = half_trained()
    before = state_of(model, optimizer, loader)
    replaced = {"copies": lambda *parts: parts, "without_trace": lambda *_: torch.enable_grad()}[part]
    monkeypatch.setattr(f"torchbasics.training._find_lr.{part}", replaced)

    find_lr(model, loader, optimizer=optimizer, steps=20)

    assert not same(before, state_of(model, optimizer, loader))


def test_an_instance_is_searched_with_its_own_moments() -> None:
    """A copy of the optimizer goes on from its state, on the copied parameters."""
    model, optimizer, _ = half_trained()

    own = find_lr(model, X, Y, optimizer=optimizer, steps=20)
    fresh = find_lr(model, X, Y, optimizer=Adam, steps=20)

    assert own.losses[0] == fresh.losses[0]
    assert own.losses[2:] != fresh.losses[2:]


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (models.CNNModel(1, 4, image_size=8), small_images()),
        (models.DCGAN(latent_dim=8, width=4, depth=1), small_images(size=16)),
        (nn.Linear(6, 1), (X, X[:, :1])),
        (nn.Linear(6, 3), DataLoader(TensorDataset(X, Y), batch_size=50)),
        (nn.Linear(6, 3), [(X, Y)]),
    ],
    ids=["images", "adversarial", "regression", "loader", "one batch"],
)
def test_it_searches_with_whatever_fit_takes(model: nn.Module, given: Any) -> None:
    """Twice the same, and the model stays."""
    before = copy.deepcopy(model)

    found = find_lr(model, given, steps=12)

    assert found == find_lr(model, given, steps=12)
    assert found.suggestion in found.rates
    assert equal(model, before)


def test_a_search_reads_as_one_line() -> None:
    """For print."""
    found = training.RateSearch([1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0], [2.0, 1.5, 2.0], 1e-3)

    assert str(found) == "lr 0.001 of 3 tried from 0.001 to 0.1, lowest loss 1.5"


class Breaks(nn.Linear):
    """Gives nan in train mode."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) / (0.0 if self.training else 1.0)


@pytest.mark.parametrize(
    ("model", "given", "options", "error", "message"),
    [
        (mlp(), (X, Y), {"steps": 9}, ValueError, "steps must be at least 10, got 9"),
        (mlp(), (X, Y), {"lowest": 0}, ValueError, "lowest must be positive, got 0"),
        (mlp(), (X, Y), {"lowest": 2.0}, ValueError, "lowest must be less than highest, got 2.0 and 1.0"),
        (mlp(), (X, Y), {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        (mlp(), [(X, Y)], {"batch_size": 5}, ValueError, "list brings its own batches; leave out batch_size"),
        (mlp(), (X, Y), {"optimizer": "sdg"}, ValueError, "unknown optimizer 'sdg'; did you mean 'sgd'"),
        (mlp(), iter([(X, Y)]), {}, ValueError, "an iterator can be read once, and would be used up here"),
        (mlp(), (X, Y + 7), {}, ValueError, "target 7 is out of range: the model has 3 classes"),
        (Breaks(6, 3), (X, Y), {}, training.NonFiniteError, "the loss is not finite at the learning rate 1e-06; give"),
    ],
    ids=["steps", "lowest", "range", "batch size", "loader", "optimizer", "iterator", "label", "nan"],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(model: Any, given: Any, options: Any, error: Any, message: str) -> None:
    """One clear error."""
    with pytest.raises(error, match=message):
        find_lr(model, given, **options)
