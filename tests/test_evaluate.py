"""`evaluate`, `predict`, `confusion_matrix`: exact, and without a trace."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.helpers import blobs, equal, small_images
from torchbasics import io, models, training


def model_and_data() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    inputs, targets = blobs(n=61)
    return models.MLP(6, (8,), 3, dropout=0.5, batch_norm=True).double(), inputs, targets


@pytest.mark.parametrize("batch_size", [1, 7, 60, 61, None])
def test_no_batch_size_changes_the_result(batch_size: int | None) -> None:
    """Counts are equal, the float64 loss to 1e-12."""
    model, inputs, targets = model_and_data()
    inputs = inputs.double()
    model.eval()
    with torch.no_grad():
        logits = model(inputs)

    result = training.evaluate(model, (inputs, targets), batch_size=batch_size)

    assert result["samples"] == 61
    assert result["accuracy"] == (logits.argmax(1) == targets).sum().item() / 61
    assert result["loss"] == pytest.approx(functional.cross_entropy(logits, targets).item(), rel=1e-12)


def test_mean_of_batch_means_would_be_wrong() -> None:
    """Positive control: the small last batch matters for this data."""
    model, inputs, targets = model_and_data()
    model.eval()
    with torch.no_grad():
        means = [
            functional.cross_entropy(model(x), y).item()
            for x, y in zip(torch.split(inputs.double(), 60), torch.split(targets, 60), strict=True)
        ]

    assert np.mean(means) != pytest.approx(training.evaluate(model, inputs.double(), targets)["loss"], rel=1e-3)


def test_evaluation_leaves_no_trace() -> None:
    """Modes of all submodules, buffers, gradients, generators are as they were."""
    model, inputs, targets = model_and_data()
    list(model.children())[-1].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    random.seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002

    training.evaluate(model, (inputs.double(), targets))
    training.predict(model, inputs.double())
    training.confusion_matrix(model, inputs.double(), targets)

    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002


class Fails(nn.Linear):
    """A model that raises in its second batch."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(3)
        if self.calls > 2:
            raise RuntimeError("no")
        return super().forward(inputs)


def test_an_error_in_the_model_leaves_no_trace_either() -> None:
    """Mode, gradient mode and generators come back."""
    model = Fails(6, 3)
    inputs, targets = blobs()
    state = torch.get_rng_state()

    with pytest.raises(RuntimeError, match="no"):
        training.evaluate(model, inputs, targets, batch_size=10)

    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(state, torch.get_rng_state())


class Counts(nn.Linear):
    """A model whose forward pass changes buffers in every mode, and more than that."""

    calls: Tensor
    mean: Tensor
    last: Tensor | None

    def __init__(self, fails: bool) -> None:
        super().__init__(6, 3)
        self.fails = fails
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("last", None)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.mean = inputs.mean(0)
        self.last = inputs
        torch.set_autocast_enabled("cpu", True)
        torch.set_grad_enabled(True)
        if self.fails and self.calls > 1:
            raise RuntimeError("no")
        return super().forward(inputs).detach()


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("what", ["evaluate", "predict", "confusion_matrix"])
def test_buffers_gradient_mode_and_autocast_come_back(what: str, fails: bool) -> None:
    """Also where a forward pass in eval mode changes them, and also after an error."""
    model = Counts(fails)
    inputs, targets = blobs()
    calls, mean = model.calls, model.mean
    measure: Any = {
        "evaluate": lambda: training.evaluate(model, inputs, targets, batch_size=20),
        "predict": lambda: training.predict(model, inputs, batch_size=20),
        "confusion_matrix": lambda: training.confusion_matrix(model, inputs, targets, batch_size=20),
    }[what]

    if fails:
        with pytest.raises(RuntimeError, match="no"):
            measure()
    else:
        measure()

    assert model.calls is calls
    assert calls.item() == 0
    assert model.mean is mean
    assert model.last is None
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_an_autocast_of_the_callers_changes_no_result() -> None:
    """precision="float32" is no autocast, wherever it is called."""
    model, inputs, targets = model_and_data()
    model.float()
    expected = training.evaluate(model, inputs, targets)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert training.evaluate(model, inputs, targets) == expected
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


class EvaluateEvery:
    """Evaluates every few steps, as a user's callback may."""

    def __init__(self, steps: int, data: Any) -> None:
        self.steps, self.data = steps, data
        self.results: list[float] = []

    def on_step(self, state: training.State) -> None:
        if state.step % self.steps == 0:
            self.results.append(training.evaluate(state.model, self.data, batch_size=7)["loss"])


def often(steps: int | None, every_epoch: bool) -> tuple[nn.Module, training.History, list[float]]:
    torch.manual_seed(0)
    model = models.MLP(6, (8,), 3, dropout=0.5, batch_norm=True)
    callback = EvaluateEvery(steps or 10**9, blobs(n=31, seed=3))
    history = training.fit(
        model, blobs(n=97), epochs=3, batch_size=7, lr=0.01, progress=False, callbacks=[callback],
        validation=blobs(n=31, seed=3) if every_epoch else None,
    )  # fmt: skip
    return model, history, callback.results


def test_how_often_one_evaluates_changes_no_bit_of_training() -> None:
    """Never, every epoch, every ten steps, every step: the same parameters, buffers and training losses."""
    expected, losses, _ = often(None, every_epoch=False)

    for steps, every_epoch, times in [(None, True, 0), (10, False, 4), (10, True, 4), (1, False, 42)]:
        model, history, results = often(steps, every_epoch)
        assert len(results) == times
        assert equal(model, expected)
        assert history.column("loss") == losses.column("loss")


def test_a_gpu_that_is_first_used_afterwards_starts_from_the_callers_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps the last seed for the GPU's start: it must not be that of the evaluation."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    torch.manual_seed(42)
    training.evaluate(nn.Linear(6, 3), *blobs())

    assert set(seeds) == {0, 42}
    assert seeds[-1] == 42


@pytest.mark.parametrize("lost", ["forked", "modes_kept", "buffers_kept"])
def test_without_putting_it_all_back_the_comparison_fails(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive controls: generators; modes; buffers (here of a batch norm that never leaves training mode)."""
    from contextlib import nullcontext

    def stubborn() -> nn.Module:
        torch.manual_seed(0)
        model = models.MLP(6, (8,), 3, dropout=0.5, batch_norm=True)
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
        norm.train = lambda mode=True: norm  # type: ignore[method-assign]
        return model

    def trained(callback: EvaluateEvery) -> dict[str, Tensor]:
        model = stubborn()
        training.fit(model, blobs(), epochs=2, batch_size=16, lr=0.01, progress=False, callbacks=[callback])
        return model.state_dict()

    class Noisy(EvaluateEvery):
        def on_step(self, state: training.State) -> None:
            super().on_step(state)
            torch.rand(1)

    expected = trained(EvaluateEvery(10**9, blobs()))
    same = trained(EvaluateEvery(2, blobs()))
    assert all(torch.equal(expected[name], same[name]) for name in expected)

    monkeypatch.setattr(f"torchbasics.training._evaluate.{lost}", lambda *_, **__: nullcontext())
    if lost == "forked":
        monkeypatch.setattr("torchbasics.training._evaluate.measure", _drawing(training._evaluate.measure))
    other = trained(EvaluateEvery(2, blobs()))

    assert not all(torch.equal(expected[name], other[name]) for name in expected)


def _drawing(measure: Any) -> Any:
    def draws(*args: Any, **options: Any) -> Any:
        torch.rand(1)
        return measure(*args, **options)

    return draws


def test_all_kinds_of_data_give_the_same_result() -> None:
    """A pair, images, a DataLoader, batches."""
    torch.manual_seed(0)
    model = models.CNNModel(1, 4, image_size=8)
    images = small_images()
    expected = training.evaluate(model, images)
    loader = DataLoader(TensorDataset(images.inputs, images.targets), batch_size=7)

    for given in ((images.inputs, images.targets), loader, list(loader), DataLoader(images, batch_size=7)):
        result = training.evaluate(model, given)
        assert (result["accuracy"], result["samples"]) == (expected["accuracy"], expected["samples"])
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_metrics_equal_scikit_learns() -> None:
    """F1 (macro) and the confusion matrix."""
    torch.manual_seed(4)
    logits, targets = torch.randn(101, 5), torch.randint(5, (101,))
    guesses = logits.argmax(1)

    result = training.evaluate(nn.Identity(), logits, targets, metrics=["f1", "accuracy"], batch_size=13)
    matrix = training.confusion_matrix(nn.Identity(), logits, targets, batch_size=13)

    assert result["f1"] == pytest.approx(sklearn_metrics.f1_score(targets, guesses, average="macro"), rel=1e-12)
    assert matrix.tolist() == sklearn_metrics.confusion_matrix(targets, guesses).tolist()


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.2])), nn.CrossEntropyLoss(ignore_index=1), "cross_entropy"],
    ids=["class weights", "ignored class", "by name"],
)
def test_losses_are_weighted_by_torchs_own_denominator(loss: Any) -> None:
    """Batches of any size give the loss of all samples at once."""
    logits, targets = torch.randn(50, 3), torch.randint(3, (50,))
    whole = (functional.cross_entropy if isinstance(loss, str) else loss)(logits, targets)

    result = training.evaluate(nn.Identity(), logits, targets, loss=loss, batch_size=7, metrics=[])

    assert result["loss"] == pytest.approx(whole.item(), rel=1e-6)


def test_dense_targets_are_counted_by_element() -> None:
    """One label per pixel: accuracy and loss as torch has them."""
    logits, targets = torch.randn(9, 3, 4, 4), torch.randint(3, (9, 4, 4))
    targets[0, :2] = -100

    result = training.evaluate(nn.Identity(), logits, targets, loss=nn.CrossEntropyLoss(), batch_size=2, metrics=[])

    assert result["loss"] == pytest.approx(functional.cross_entropy(logits, targets).item(), rel=1e-6)


def test_regression_has_no_accuracy() -> None:
    """Floating targets: mean squared error alone."""
    x = torch.randn(20, 2)

    result = training.evaluate(nn.Identity(), x, x + 1)

    assert result == {"loss": pytest.approx(1.0), "samples": 20}


def test_adversarial_models_have_two_losses() -> None:
    """The same result each time, the noise included."""
    model = models.DCGAN(latent_dim=8, width=4, depth=1)

    results = [training.evaluate(model, small_images(size=16)) for _ in range(2)]

    assert results[0] == results[1]
    assert set(results[0]) == {"loss", "generator_loss", "discriminator_loss", "samples"}


def test_predict_gives_the_outputs_in_order() -> None:
    """Of a tensor, an array, images, a loader: the model's own outputs."""
    torch.manual_seed(0)
    model = models.CNNModel(1, 4, image_size=8).eval()
    images = small_images()
    with torch.no_grad():
        expected = model(images.inputs)

    for given in (images.inputs, images.inputs.numpy(), images, DataLoader(images, batch_size=7)):
        torch.testing.assert_close(training.predict(model, given), expected)


def test_predict_needs_a_tensor() -> None:
    """A building block returns more."""
    with pytest.raises(TypeError, match="predict needs a model that returns a tensor, got tuple"):
        training.predict(models.StackedRNN(3, 2), torch.zeros(4, 5, 3))


def test_bfloat16_evaluates() -> None:
    """Autocast, to its precision."""
    torch.manual_seed(0)
    model = models.CNNModel(1, 4, image_size=8)
    images = small_images()

    low, high = training.predict(model, images, precision="bfloat16"), training.predict(model, images)

    torch.testing.assert_close(low.float(), high, rtol=0.05, atol=0.05)  # eight bits of mantissa
    assert low.dtype == torch.bfloat16


def test_the_model_comes_back_from_another_device() -> None:
    """device= is for this call."""
    model = models.MLP(6, (4,), 3)
    inputs, targets = blobs()

    assert training.evaluate(model, inputs, targets, device="cpu")["samples"] == 60
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: training.evaluate(m, x[:0], y[:0]), "the data is empty: it has 0 samples"),
        (lambda m, x, y: training.predict(m, x[:0]), "the data is empty: it has 0 samples"),
        (lambda m, x, y: training.evaluate(m, x, y, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda m, x, y: training.evaluate(m, x, y + 7), "target 7 is out of range: the model has 3 classes"),
        (
            lambda m, x, y: training.evaluate(m, x, y, metrics="f2"),
            "unknown metric 'f2'; choose from 'accuracy', 'f1', 'mae'",
        ),
        (lambda m, x, y: training.evaluate(m, x), "the data has inputs and no targets"),
        (
            lambda m, x, y: training.evaluate(m, [(x, y)], batch_size=3),
            "list brings its own batches; leave out batch_size",
        ),
        (lambda m, x, y: training.evaluate(m, x / 0, y), "inputs hold a value that is not finite, first in sample 0"),
        (lambda m, x, y: training.evaluate(m, x, y, device="tpu"), "tpu"),
    ],
    ids=["empty", "empty predict", "batch size", "label", "metric", "no targets", "loader", "nan", "device"],
)
def test_what_cannot_be_measured_is_refused(call: Any, message: str) -> None:
    """One clear error."""
    with pytest.raises(ValueError, match=message):
        call(models.MLP(6, (4,), 3), *blobs())


@pytest.mark.parametrize("model", ["cnn", models.CNNModel], ids=["name", "class"])
@pytest.mark.parametrize(
    "call",
    [
        lambda model: training.evaluate(model, *blobs()),
        lambda model: training.predict(model, blobs()[0]),
        lambda model: training.fit(model, *blobs(), epochs=1),
        lambda model: models.features(model, "fc1"),
        models.freeze,
        lambda model: models.summary(model, (1, 1, 28, 28)),
        lambda model: training.check(model, *blobs()),
        lambda model: training.find_lr(model, *blobs()),
        lambda model: io.export(model, "model.pt2"),
    ],
    ids=["evaluate", "predict", "fit", "features", "freeze", "summary", "check", "find_lr", "export"],
)
def test_what_is_no_module_is_refused(call: Any, model: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^model must be a torch\.nn\.Module, got .*; models\.get_model\(name\) makes one$"
    ):
        call(model)


DATA: Any = TensorDataset(*blobs())


@pytest.mark.parametrize("model", [models.MLP(6, (4,), 3), nn.Sequential(nn.Linear(6, 3))], ids=["mlp", "sequential"])
@pytest.mark.parametrize(
    "call",
    [
        lambda model: training.evaluate(DATA, model),
        lambda model: training.predict(DATA, model),
        lambda model: training.fit(model, model, epochs=1),
        lambda model: training.fit(model, model, epochs=1, validation=0.2),
        lambda model: training.fit(model, *blobs(), epochs=1, validation=model),
    ],
    ids=["evaluate", "predict", "fit", "split", "validation"],
)
def test_a_model_in_the_place_of_data_is_refused(call: Any, model: nn.Module) -> None:
    """A Sequential, which has items as a dataset has, too."""
    with pytest.raises(TypeError, match=r"^data must not be a model, got \w+; give the model first, then its data$"):
        call(model)


@pytest.mark.parametrize("call", [training.fit, training.find_lr])
def test_data_in_the_place_of_a_model_are_refused(call: Any) -> None:
    with pytest.raises(
        TypeError,
        match=r"^model must be a torch\.nn\.Module, got .*; models\.get_model\(name\) makes one, and it comes first$",
    ):
        call(DATA, models.MLP(6, (4,), 3))


def test_a_model_that_is_data_too_is_read() -> None:
    """One that draws its samples is a dataset to others."""

    class Drawn(nn.Module, Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.full((6,), float(index)), index % 3

    assert training.evaluate(nn.Linear(6, 3), Drawn())["samples"] == 5


def test_bytes_are_refused_by_name() -> None:
    """A user's own uint8 tensor is not converted behind his back."""
    inputs, _ = blobs()

    with pytest.raises(
        TypeError, match=r"inputs are torch.uint8, but the model's parameters are torch.float32; wrap images in"
    ):
        training.predict(nn.Linear(6, 3), inputs.byte())
    with pytest.raises(TypeError, match=r"inputs are torch.float64, .* convert them with inputs.to\(torch.float32\)"):
        training.predict(nn.Linear(6, 3), inputs.double())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        training.predict(nn.Linear(5, 3), inputs)


def test_a_step_that_is_in_a_run_can_be_measured_with() -> None:
    """The run keeps its optimizer."""
    step, other = training.Supervised(), training.Supervised()
    one, two = nn.Linear(6, 3), nn.Linear(6, 3)
    two.load_state_dict(one.state_dict())

    class Measure:
        def on_step(self, state: training.State) -> None:
            training.evaluate(state.model, blobs(), step=step)

    options: dict[str, Any] = {"epochs": 2, "batch_size": 20, "progress": False, "lr": 0.1}
    training.fit(one, blobs(), step=step, callbacks=[Measure()], **options)
    training.fit(two, blobs(), step=other, **options)

    assert equal(one, two)


def test_a_generator_that_two_loaders_share_is_put_back() -> None:
    """Validation draws from it; the order of training is the same with and without."""
    ends = []
    for validates in (True, False):
        generator = torch.Generator().manual_seed(3)
        data = TensorDataset(*blobs())
        train, held_out = (DataLoader(data, batch_size=20, shuffle=True, generator=generator) for _ in range(2))
        torch.manual_seed(0)
        ends.append(nn.Linear(6, 3))
        options: dict[str, Any] = {"validation": held_out} if validates else {}
        training.fit(ends[-1], train, epochs=3, lr=0.1, progress=False, **options)

    assert equal(*ends)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_laid_out_as_suits_the_model(channels: int) -> None:
    """A convolutional model of the library gets its batches in channels_last; it is left as it is."""
    model = models.CNNModel(in_channels=channels, image_size=8).eval()
    images, seen = torch.rand(5, channels, 8, 8), []
    model.get_submodule("conv1").register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    weights = [p.stride() for p in model.parameters()]

    outputs = training.predict(model, images)
    training.evaluate(model, images, torch.zeros(5, dtype=torch.int64))

    assert len(seen) == 3  # one is the check
    for given, made in (seen[0], seen[-1]):
        assert torch.equal(given, images)
        assert given.stride() == (64 * channels, 1, 8 * channels, channels)
        assert made.stride()[1] == 1
    assert torch.allclose(outputs, model(images), atol=1e-6)  # float32: another order of the same sums
    assert [p.stride() for p in model.parameters()] == weights
