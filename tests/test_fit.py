"""`fit`: the bits of the loop it replaces, its choices, and what it refuses."""

from __future__ import annotations

import copy
import multiprocessing
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, StepLR
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset

from tests.helpers import Squares, Stream, blobs, equal, loop, small_images
from torchbasics import data, models, training
from torchbasics.data._order import split
from torchbasics.training import EarlyStopping, Recipe, fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

quiet = partial(fit, progress=False)


def make(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    if name == "mlp":
        return models.MLP(6, (16, 8), 3, dropout=0.2, batch_norm=True), *blobs()
    images = small_images()
    if name == "cnn":
        return models.CNNModel(1, 4, image_size=8, dropout=0.3), images.inputs, images.targets
    return models.RNNClassifier(8, 12, 2, 4, dropout=0.1), images.inputs, images.targets


OPTIMIZERS: dict[str, tuple[Any, Callable[[Any], Optimizer]]] = {
    "sgd": ({"optimizer": "sgd", "lr": 0.05}, partial(SGD, lr=0.05)),
    "adam": ({"optimizer": "adam", "lr": 0.01}, partial(Adam, lr=0.01)),
    "momentum": (
        {"optimizer": ("sgd", {"momentum": 0.9}), "lr": 0.02, "clip_norm": 0.5},
        partial(SGD, lr=0.02, momentum=0.9),
    ),
}


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["mlp", "cnn", "rnn_classifier"])
def test_fit_ends_on_the_bits_of_the_loop_written_by_hand(name: str, optimizer: str, shuffle: bool) -> None:
    """Parameters and buffers are torch.equal, with dropout, batch norm and a last small batch."""
    model, inputs, targets = make(name)
    by_hand = copy.deepcopy(model)
    options, factory = OPTIMIZERS[optimizer]

    history = quiet(
        model,
        (inputs, targets),
        epochs=3,
        batch_size=16,
        shuffle=shuffle,
        memory_format="contiguous",
        seed=5,
        **options,
    )
    losses = loop(
        by_hand, inputs, targets, factory,
        epochs=3, batch_size=16, shuffle=shuffle, seed=5, clip_norm=options.get("clip_norm"),
    )  # fmt: skip

    assert equal(model, by_hand)
    sizes = [16] * (len(inputs) // 16) + [len(inputs) % 16]
    last = np.average(losses[-len(sizes) :], weights=sizes)
    assert history[-1]["loss"] == pytest.approx(last, rel=1e-12)  # float64 sums in another order


def test_another_order_ends_on_other_bits() -> None:
    """Positive control: the comparison above can fail."""
    model, inputs, targets = make("mlp")
    other = copy.deepcopy(model)

    quiet(model, (inputs, targets), epochs=2, batch_size=16, lr=0.01, seed=0)
    quiet(other, (inputs, targets), epochs=2, batch_size=16, lr=0.01, seed=1)

    assert not equal(model, other)


def test_channels_last_is_the_bits_of_a_channels_last_loop_and_is_undone() -> None:
    """The automatic memory format of a convolutional model is what one would write by hand."""
    model, inputs, targets = make("cnn")
    by_hand = copy.deepcopy(model).to(memory_format=torch.channels_last)
    inputs = inputs.contiguous(memory_format=torch.channels_last)

    history = quiet(model, (inputs, targets), epochs=2, batch_size=16, optimizer="adam", lr=0.01)
    loop(by_hand, inputs, targets, partial(Adam, lr=0.01), epochs=2, batch_size=16)

    assert history.recipe is not None
    assert history.recipe.memory_format == "channels_last"
    assert equal(model, by_hand)
    assert model.conv2.weight.is_contiguous()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("schedule", "factory"),
    [
        ("onecycle", lambda o: OneCycleLR(o, 0.02, total_steps=12)),
        ("cosine", lambda o: CosineAnnealingLR(o, 12)),
        ("linear", lambda o: LinearLR(o, 1.0, 0.0, 12)),
        (("onecycle", {"pct_start": 0.5}), lambda o: OneCycleLR(o, 0.02, total_steps=12, pct_start=0.5)),
        (partial(StepLR, step_size=4), partial(StepLR, step_size=4)),
    ],
    ids=["onecycle", "cosine", "linear", "with options", "factory"],
)
def test_schedules_step_once_an_update(schedule: Any, factory: Any) -> None:
    """By name, with options or by factory: the bits of the hand-written loop."""
    model, inputs, targets = make("mlp")
    by_hand = copy.deepcopy(model)
    schedules: dict[int, Any] = {}

    def make_and_keep(parameters: Any) -> Optimizer:
        optimizer = AdamW(parameters, lr=0.02)
        schedules[0] = factory(optimizer)
        return optimizer

    quiet(model, (inputs, targets), epochs=3, batch_size=16, optimizer="adamw", lr=0.02, schedule=schedule)
    loop(by_hand, inputs, targets, make_and_keep, epochs=3, batch_size=16, each_step=lambda _: schedules[0].step())

    assert equal(model, by_hand)


def test_optimizer_and_schedule_instances_are_used_as_they_are() -> None:
    """An instance keeps its state and its parameters."""
    model, inputs, targets = make("mlp")
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = StepLR(optimizer, step_size=2, gamma=0.5)

    quiet(model, (inputs, targets), epochs=1, batch_size=15, optimizer=optimizer, schedule=schedule)

    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**2


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    """Also where the last batch and the last part are smaller: float64, no batch norm, to rounding."""
    inputs, targets = blobs(n=23)
    torch.manual_seed(0)
    whole = models.MLP(6, (5,), 3).double()
    parts = copy.deepcopy(whole)
    options: Any = {"epochs": 2, "batch_size": 9, "optimizer": "sgd", "lr": 0.1}

    a = quiet(whole, (inputs.double(), targets), **options)
    b = quiet(parts, (inputs.double(), targets), accumulate=4, **options)

    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)  # sums in another order
    assert a[-1]["loss"] == pytest.approx(b[-1]["loss"], rel=1e-12)
    assert a[-1]["accuracy"] == b[-1]["accuracy"]


def test_accumulation_weighs_class_weights_and_ignored_targets_as_torch_does() -> None:
    """The parts have torch's own denominators."""
    inputs, targets = blobs(n=20)
    targets[[1, 5, 6]] = -100
    torch.manual_seed(0)
    whole = models.MLP(6, (5,), 3).double()
    parts = copy.deepcopy(whole)
    options: Any = {
        "epochs": 1, "batch_size": 10, "optimizer": "sgd", "lr": 0.1, "metrics": [],
        "loss": nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)),
    }  # fmt: skip

    a = quiet(whole, (inputs.double(), targets), **options)
    b = quiet(parts, (inputs.double(), targets), accumulate=3, **options)

    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert a[0]["loss"] == pytest.approx(b[0]["loss"], rel=1e-12)


def test_nothing_given_is_adamw_with_one_cycle() -> None:
    """The defaults that learn; the history tells what was chosen."""
    model, inputs, targets = make("mlp")

    recipe = quiet(model, inputs, targets, epochs=1).recipe
    history = quiet(model, inputs, targets, epochs=20, batch_size=5)

    assert recipe is not None
    assert (recipe.optimizer, recipe.schedule, recipe.batch_size) == ("adamw", "onecycle", 100)
    assert history[-1]["accuracy"] > 0.8


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"optimizer": "sgd"}, {"schedule": "linear"}], ids=str)
def test_any_choice_of_ones_own_leaves_the_schedule_alone(options: Any) -> None:
    """No schedule unless asked."""
    model, inputs, targets = make("mlp")

    recipe = quiet(model, inputs, targets, epochs=1, **options).recipe

    assert recipe is not None
    assert recipe.schedule == options.get("schedule", "constant")


def test_the_tutorials_setting_is_a_named_recipe() -> None:
    """SGD 5e-4; single values can be changed."""
    model, inputs, targets = make("mlp")

    recipe = quiet(model, inputs, targets, recipe="tutorial", epochs=1).recipe

    assert recipe is not None
    assert (recipe.optimizer, recipe.lr, recipe.epochs, recipe.batch_size) == ("sgd", 5e-4, 1, 100)


def test_all_kinds_of_data_train_to_the_same_bits() -> None:
    """A pair, arrays, TensorDataset, Dataset, DataLoader and a list of batches."""
    inputs, targets = blobs()
    start = models.MLP(6, (16, 8), 3, batch_norm=True)  # no dropout: a DataLoader draws from the global generator
    pair = list(zip(torch.split(inputs, 16), torch.split(targets, 16), strict=True))
    plain = {"shuffle": False, "batch_size": 16}
    kinds: dict[str, tuple[Any, Any]] = {
        "pair": ((inputs, targets), plain),
        "arrays": ((inputs.numpy(), targets.numpy()), plain),
        "TensorDataset": (TensorDataset(inputs, targets), plain),
        "Dataset": (Squares(noise=False), plain),
        "DataLoader": (DataLoader(TensorDataset(inputs, targets), batch_size=16), {}),
        "list": (pair, {}),
        "stream": (Stream(), {"batch_size": 16}),
    }
    ends = {}
    for kind, (given, options) in kinds.items():
        ends[kind] = copy.deepcopy(start)
        history = quiet(ends[kind], given, epochs=2, optimizer="adam", lr=0.01, **options)
        assert "accuracy" in history[-1], kind

    assert [kind for kind, model in ends.items() if not equal(model, ends["pair"])] == []


def test_a_samples_random_numbers_do_not_depend_on_workers() -> None:
    """Randomness in a sample is a function of (seed, epoch, index)."""
    start, _, _ = make("mlp")
    ends = []
    for workers in (0, 2):
        ends.append(copy.deepcopy(start))
        quiet(ends[-1], Squares(), epochs=2, batch_size=25, lr=0.01, workers=workers)

    assert equal(*ends)


def test_inputs_may_be_a_tuple_or_a_dict() -> None:
    """They become the model's positional or keyword arguments."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            out: Tensor = self.a(left) + self.b(right)
            return out

    inputs, targets = blobs()
    left, right = inputs[:, :3].contiguous(), inputs[:, 3:].contiguous()
    torch.manual_seed(0)
    one, other, third = Two(), Two(), Two()
    other.load_state_dict(one.state_dict())
    third.load_state_dict(one.state_dict())

    quiet(one, (left, right), targets, epochs=2, batch_size=16, lr=0.01)
    quiet(other, ({"left": left, "right": right}, targets), epochs=2, batch_size=16, lr=0.01, validation=0.0 or None)
    quiet(third, [((left, right), targets)] * 2, epochs=1, lr=0.01)

    assert equal(one, other)
    assert training.predict(one, (left, right)).shape == (60, 3)
    assert torch.equal(training.predict(one, {"left": left, "right": right}), training.predict(one, (left, right)))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_several_inputs_are_cut_together(kind: str, accumulate: int) -> None:
    """Accumulation cuts every tensor of a batch."""
    inputs, targets = blobs()
    given: Any = (inputs, inputs) if kind == "tuple" else {"input1": inputs, "input2": inputs}
    torch.manual_seed(0)
    model = nn.Bilinear(6, 6, 3)

    history = quiet(model, (given, targets), epochs=3, batch_size=20, lr=0.01, accumulate=accumulate)

    assert history[-1]["loss"] < history[0]["loss"]


def test_regression_learns_a_line() -> None:
    """Floating targets: mean squared error, no accuracy."""
    x = torch.linspace(-1, 1, 50).unsqueeze(1)
    model = nn.Linear(1, 1)

    history = quiet(model, x, 2 * x + 1, epochs=60, batch_size=10, lr=0.05, metrics="mae")

    assert history[-1]["loss"] < 1e-4
    assert set(history[-1]) == {"loss", "mae", "seconds"}
    assert training.predict(model, torch.tensor([[0.5]])).item() == pytest.approx(2.0, abs=0.05)


def test_validation_may_be_a_share_of_the_data() -> None:
    """The held-out samples are not trained on; the history has their loss."""
    model, inputs, targets = make("mlp")
    by_hand = copy.deepcopy(model)

    history = quiet(model, (inputs, targets), epochs=2, lr=0.01, batch_size=16, validation=0.25, seed=4)
    train, held_out = split(60, 0.25, 4)
    loop(by_hand, inputs[train], targets[train], partial(AdamW, lr=0.01), epochs=2, batch_size=16, seed=4)

    assert equal(model, by_hand)
    assert len(held_out) == 15
    expected = training.evaluate(model, inputs[held_out], targets[held_out])
    assert history[-1]["validation_loss"] == expected["loss"]
    assert history[-1]["validation_accuracy"] == expected["accuracy"]


@pytest.mark.parametrize("given", ["images", "dataset", "inputs and targets"])
def test_a_share_is_cut_from_anything_with_indices(given: str) -> None:
    """Images, datasets, separate targets."""
    images = small_images()
    model = models.CNNModel(1, 4, image_size=8)
    if given == "images":
        history = quiet(model, images, epochs=1, validation=0.2)
    elif given == "dataset":
        history = quiet(models.MLP(6, (4,), 3), Squares(), epochs=1, validation=0.2)
    else:
        history = quiet(model, images.inputs, images.targets, epochs=1, validation=0.2)

    assert "validation_accuracy" in history[0]


def test_validation_changes_no_bit_of_training() -> None:
    """With dropout and batch norm, with and without validation: the same model."""
    model, inputs, targets = make("mlp")
    other = copy.deepcopy(model)

    quiet(model, (inputs, targets), epochs=3, lr=0.01, batch_size=16)
    quiet(other, (inputs, targets), epochs=3, lr=0.01, batch_size=16, validation=Squares())

    assert equal(model, other)


def test_fit_leaves_the_global_generators_and_the_mode_alone() -> None:
    """Also per submodule."""
    model, inputs, targets = make("mlp")
    next(model.children()).eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002

    quiet(model, (inputs, targets), epochs=1)

    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert [m.training for m in model.modules()] == modes


def test_seed_none_uses_the_global_generators() -> None:
    """The run follows torch.manual_seed, and moves the generator on."""
    start, inputs, targets = make("mlp")
    ends = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        ends.append(copy.deepcopy(start))
        quiet(ends[-1], (inputs, targets), epochs=1, lr=0.01, batch_size=16, seed=None)

    assert equal(ends[0], ends[1])
    assert not equal(ends[0], ends[2])


def test_early_stopping_ends_the_run_and_brings_back_the_best_weights() -> None:
    """The weights are those of the best epoch."""
    inputs, targets = blobs()
    torch.manual_seed(0)
    model = models.MLP(6, (8,), 3)
    held_out = (inputs, (targets + 1) % 3)  # what is learnt is wrong there: the loss rises sooner or later

    history = quiet(model, (inputs, targets), epochs=50, lr=0.01, validation=held_out, early_stopping=2)

    losses = history.column("validation_loss")
    assert history.stopped == "early"
    assert losses.index(min(losses)) == len(losses) - 3
    assert training.evaluate(model, held_out)["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_early_stopping_can_watch_what_is_to_rise() -> None:
    """A column that is no loss is to rise; an unknown one is named."""
    model, inputs, targets = make("mlp")
    watch = EarlyStopping(patience=1, monitor="accuracy", restore_best=False)

    history = quiet(model, (inputs, targets), epochs=30, early_stopping=watch)

    accuracy = history.column("accuracy")
    assert history.stopped == "early"
    assert accuracy[-1] <= max(accuracy[:-1])
    with pytest.raises(ValueError, match="early stopping watches 'f2', which is not in the history: loss, accuracy"):
        quiet(model, (inputs, targets), epochs=2, early_stopping=EarlyStopping(1, monitor="f2"))


class Recorder:
    """A callback of a user's own."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, float]] = []
        self.epochs: list[int] = []

    def on_step(self, state: training.State) -> None:
        self.seen.append((state.epoch, state.step, float(state.loss)))
        if state.step == 7:
            state.stop("enough")

    def on_epoch(self, state: training.State) -> None:
        self.epochs.append(len(state.history))


def test_callbacks_see_the_state_and_can_stop_the_run() -> None:
    """Any object with some of the methods."""
    model, inputs, targets = make("mlp")
    recorder = Recorder()

    history = quiet(model, (inputs, targets), epochs=5, batch_size=16, callbacks=[recorder])

    assert [(epoch, step) for epoch, step, _ in recorder.seen] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 5),
        (1, 6),
        (1, 7),
    ]
    assert recorder.epochs == [1, 2]
    assert history.stopped == "enough"


def test_metrics_by_name_function_and_torchmetrics_object() -> None:
    """The same values as torchmetrics, weighted by sample."""
    model, inputs, targets = make("mlp")

    def top_share(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()

    history = quiet(
        model, (inputs, targets), epochs=1, batch_size=16, validation=(inputs, targets),
        metrics=["accuracy", "f1", top_share, torchmetrics.F1Score("multiclass", num_classes=3, average="macro")],
    )  # fmt: skip

    row = history[0]
    assert row["top_share"] == pytest.approx(row["accuracy"], rel=1e-6)
    assert row["validation_multiclass_f1_score"] == pytest.approx(row["validation_f1"], rel=1e-6)
    named = quiet(model, (inputs, targets), epochs=1, metrics={"right": "accuracy"})
    assert "right" in named[0]


def test_a_step_of_ones_own_is_a_function() -> None:
    """It returns the loss, or the loss and the outputs for the metrics."""
    model, inputs, targets = make("mlp")

    def smooth(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = model(inputs)
        return functional.cross_entropy(outputs, targets, label_smoothing=0.1), outputs

    history = quiet(model, (inputs, targets), epochs=2, step=smooth, lr=0.01)
    alone = quiet(
        models.MLP(6, (4,), 6), inputs, epochs=2, step=lambda m, x, _: (m(x) - x).square().mean(), accumulate=2
    )

    assert "accuracy" in history[-1]
    assert alone[-1]["loss"] < alone[0]["loss"]
    assert "accuracy" not in alone[-1]


def test_adversarial_training_goes_through_the_same_fit() -> None:
    """DCGAN: both losses in the history, both networks change, the discriminator stays trainable."""
    torch.manual_seed(0)
    model = models.DCGAN(latent_dim=8, width=4, depth=1)
    before = copy.deepcopy(model)

    history = quiet(model, small_images(n=24, size=16), epochs=2, batch_size=8, validation=small_images(n=8, size=16))

    assert {"loss", "generator_loss", "discriminator_loss", "validation_generator_loss"} <= set(history[-1])
    assert not equal(model.generator, before.generator)
    assert not equal(model.discriminator, before.discriminator)
    assert all(p.requires_grad for p in model.parameters())
    assert history.recipe is not None
    assert history.recipe.optimizer == ("adam", {"betas": (0.5, 0.999)})


def test_adversarial_updates_are_those_of_the_written_out_loop() -> None:
    """Discriminator on real and made, then generator on what it now says: the same bits."""
    torch.manual_seed(0)
    model = models.DCGAN(latent_dim=8, width=4, depth=1)
    by_hand = copy.deepcopy(model)
    images = small_images(n=24, size=16)
    bce = functional.binary_cross_entropy_with_logits

    quiet(model, images, epochs=1, batch_size=8, memory_format="contiguous")

    torch.manual_seed(0)
    judge = Adam(by_hand.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    maker = Adam(by_hand.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for part in torch.split(data.order(24, 0, 0), 8):
        real = images.inputs[part] * 2 - 1
        made = by_hand.generator(by_hand.noise(8))
        of_real, of_made = by_hand.discriminator(real), by_hand.discriminator(made.detach())
        judge.zero_grad()
        (bce(of_real, torch.ones(8)) + bce(of_made, torch.zeros(8))).backward()  # type: ignore[no-untyped-call]
        judge.step()
        maker.zero_grad()
        bce(by_hand.discriminator(made), torch.ones(8)).backward()  # type: ignore[no-untyped-call]
        maker.step()

    assert equal(model, by_hand)


def test_bfloat16_trains_and_keeps_float32_weights() -> None:
    """Mixed precision is autocast, never a cast of the model."""
    model, inputs, targets = make("mlp")

    history = quiet(model, (inputs, targets), epochs=10, lr=0.01, precision="bfloat16")

    assert history[-1]["loss"] < history[0]["loss"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_float16_scales_the_loss() -> None:
    """The scaler's state is part of the step."""
    model, inputs, targets = make("mlp")

    history = quiet(model, (inputs, targets), epochs=10, lr=0.01, precision="float16", clip_norm=1.0)

    assert history[-1]["loss"] < history[0]["loss"]


def test_float64_models_train_in_float64() -> None:
    """precision='float32' is no cast."""
    model, inputs, targets = make("mlp")
    model.double()

    quiet(model, (inputs.double(), targets), epochs=1)

    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_fused_is_asked_for() -> None:
    """The fused kernel of the optimizer is used on request."""
    model, inputs, targets = make("mlp")
    recipe = quiet(model, (inputs, targets), epochs=1, optimizer="adam", lr=0.01, fused=True).recipe

    assert recipe is not None
    assert recipe.fused


@pytest.mark.parametrize(
    "augment", ["flip", "shift", ("flip", "shift"), lambda x: x * 2], ids=["flip", "shift", "both", "own"]
)
def test_augmentation_changes_batches_by_the_seed(augment: Any) -> None:
    """The same seed gives the same run; without it another."""
    images = small_images()
    start = models.CNNModel(1, 4, image_size=8)
    ends = [copy.deepcopy(start) for _ in range(3)]
    for model, given in zip(ends, (augment, augment, None), strict=True):
        quiet(model, images, epochs=1, batch_size=16, augment=given)

    assert equal(ends[0], ends[1])
    assert not equal(ends[0], ends[2])


def test_augmentations_do_what_they_say() -> None:
    """Flips mirror; shifts move by at most two pixels and fill with zeros."""
    from torchbasics.training._augment import flip, shift

    torch.manual_seed(0)
    images = torch.zeros(64, 1, 9, 9)
    images[:, :, 4, 2] = 1

    flipped, shifted = flip(images), shift(images)

    assert set(flipped.nonzero()[:, 3].tolist()) == {2, 6}
    assert set(shifted.nonzero()[:, 2].tolist()) == {2, 3, 4, 5, 6}
    assert set(shifted.nonzero()[:, 3].tolist()) == {0, 1, 2, 3, 4}
    assert shifted.sum() == 64


def test_lines_say_what_was_chosen_and_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Elsewhere than on a terminal: one line at the start, one an epoch, one when it ended early."""
    model, inputs, targets = make("mlp")

    fit(model, (inputs, targets), epochs=2, callbacks=[Recorder()], batch_size=10)

    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "MLP: adamw, lr 0.01, schedule onecycle, batch size 10, epochs 2, float32, contiguous, seed 0"
    assert rest[0].startswith("epoch 1/2  loss ")
    assert rest[-1] == "stopped (enough) after epoch 2 of 2"


def test_a_bar_shows_the_running_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal, or when asked for."""
    model, inputs, targets = make("mlp")

    fit(model, (inputs, targets), epochs=2, progress=True)

    assert "epoch 2/2" in capsys.readouterr().out


def test_device_auto_is_where_the_model_goes() -> None:
    """Here that is the best device there is."""
    from torchbasics import device

    model, inputs, targets = make("mlp")
    quiet(model, (inputs, targets), epochs=1, device="auto")

    assert next(model.parameters()).device.type == device("auto").type


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compile_trains_the_same_parameters() -> None:
    """torch.compile wraps the call; names of parameters stay."""
    model, inputs, targets = make("mlp")
    names = list(model.state_dict())

    history = quiet(model, (inputs[:32], targets[:32]), epochs=2, batch_size=16, lr=0.01, compile=True)

    assert history[-1]["loss"] < history[0]["loss"]
    assert list(model.state_dict()) == names


def test_recipes_are_plain_data() -> None:
    """A recipe goes through JSON; objects are recorded by name."""
    recipe = Recipe(epochs=3, early_stopping=EarlyStopping(2), optimizer=("adam", {"betas": (0.5, 0.9)}))

    assert Recipe(**recipe.as_dict()).as_dict() == recipe.as_dict()
    assert Recipe(loss=functional.mse_loss).as_dict()["loss"] == "torch.nn.functional.mse_loss"


def test_the_keyword_arguments_are_the_recipes_fields() -> None:
    """`Options` types what `Recipe` holds."""
    from torchbasics._recipe import NAMES, Options

    assert {*Options.__annotations__, "epochs"} == set(NAMES)


class Keyed(Dataset[Any]):
    """A dataset whose samples have names."""

    def __init__(self) -> None:
        self.inputs, self.targets = blobs(n=20)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, key: str) -> Any:
        number = int(key.split("-")[1])
        return self.inputs[number], self.targets[number]


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "sampler of keys": lambda: DataLoader(Keyed(), batch_size=5, sampler=[f"a-{i}" for i in range(20)]),
    "batches of keys": lambda: DataLoader(
        Keyed(), batch_sampler=[[f"a-{i}" for i in range(k, k + 5)] for k in range(0, 20, 5)]
    ),
    "batch sampler": lambda: DataLoader(
        TensorDataset(*blobs(n=20)), batch_sampler=BatchSampler(SequentialSampler(range(20)), 5, drop_last=False)
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loaders_samples_may_have_keys_of_any_kind(kind: str) -> None:
    """They are trained on as by the loop; nothing is asked for by number that has none."""
    one, other = nn.Linear(6, 3), nn.Linear(6, 3)
    other.load_state_dict(one.state_dict())

    fit(one, LOADERS[kind](), epochs=2, lr=0.1, optimizer="sgd", progress=False)
    loop(other, *blobs(n=20), lambda p: torch.optim.SGD(p, 0.1), epochs=2, batch_size=5, shuffle=False)

    assert equal(one, other)


def test_an_error_in_a_loaders_dataset_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """Where the sampler is torch's, keys are numbers, and the error is the dataset's own."""
    with pytest.raises(AttributeError, match="no attribute 'split'"):
        fit(nn.Linear(6, 3), DataLoader(Keyed()), epochs=1, checkpoint=tmp_path / "run", progress=False)

    assert not list(tmp_path.iterdir())


def test_other_children_of_the_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is started while the workers start outlives them; and none of those is left."""
    children, before = [], multiprocessing.active_children()
    make_iterator = DataLoader.__iter__

    def also(loader: DataLoader[Any]) -> Any:
        children.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True))
        children[-1].start()
        return make_iterator(loader)

    monkeypatch.setattr(DataLoader, "__iter__", also)
    try:
        fit(nn.Linear(6, 3), Squares(), epochs=1, lr=0.1, workers=1, progress=False)

        children[0].join(0.3)
        end = time.monotonic() + 60  # a worker that was killed may not be gone yet
        while (left := {*multiprocessing.active_children()} - {*before}) != {*children} and time.monotonic() < end:
            time.sleep(0.02)
        assert left == {*children}
    finally:
        for child in children:
            child.kill()
            child.join()
