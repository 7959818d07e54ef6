"""What `fit` refuses: one clear error each, before anything is changed."""

from __future__ import annotations

import copy
import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.helpers import Squares, Stream, blobs, equal, small_images
from torchbasics import data, models, training
from torchbasics.training import EarlyStopping, fit

quiet = partial(fit, progress=False)

X, Y = blobs()


class Vector:
    """A metric with a value for each class."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Take nothing in."""

    def compute(self) -> Any:
        """Return two numbers."""
        return torch.zeros(2)


BAD: dict[str, tuple[Any, Any, Any, str]] = {
    "epochs": ((X, Y), {"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    "no epochs": ((X, Y), {}, TypeError, "fit needs epochs=... or recipe=..."),
    "float epochs": ((X, Y), {"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
    "batch size": ((X, Y), {"epochs": 1, "batch_size": -4}, ValueError, "batch_size must be at least 1, got -4"),
    "lr": ((X, Y), {"epochs": 1, "lr": 0.0}, ValueError, "lr must be positive, got 0.0"),
    "nan lr": ((X, Y), {"epochs": 1, "lr": float("nan")}, ValueError, "lr must be finite, got nan"),
    "option": ((X, Y), {"epochs": 1, "batchsize": 4}, TypeError, "unknown option 'batchsize'; did you mean 'batch_size'?"),
    "optimizer": ((X, Y), {"epochs": 1, "optimizer": "adamm"}, ValueError, "unknown optimizer 'adamm'; did you mean 'adam'?"),
    "schedule": ((X, Y), {"epochs": 1, "schedule": "cosin"}, ValueError, "unknown schedule 'cosin'; did you mean 'cosine'?"),
    "loss": ((X, Y), {"epochs": 1, "loss": "crossentropy"}, ValueError, "unknown loss 'crossentropy'; did you mean 'cross_entropy'?"),
    "loss object": ((X, Y), {"epochs": 1, "loss": 3}, TypeError, "loss must be a name, a module or a function .*, got 3"),
    "no reduction": ((X, Y), {"epochs": 1, "loss": nn.CrossEntropyLoss(reduction="none")}, ValueError, "has reduction='none'"),
    "vector loss": ((X, Y), {"epochs": 1, "loss": lambda o, t: o[:, 0]}, ValueError, r"the loss must be one number, got shape \(2,\)"),
    "metric": ((X, Y), {"epochs": 1, "metrics": "acuracy"}, ValueError, "unknown metric 'acuracy'; did you mean 'accuracy'?"),
    "metric object": ((X, Y), {"epochs": 1, "metrics": [4]}, TypeError, "a metric is a name, a function .* got 4"),
    "step": ((X, Y), {"epochs": 1, "step": "supervise"}, ValueError, "unknown step 'supervise'; did you mean 'supervised'?"),
    "step object": ((X, Y), {"epochs": 1, "step": 5}, TypeError, "step must be a name, a Step or a function .* got 5"),
    "not a GAN": ((X, Y), {"epochs": 1, "step": "adversarial"}, TypeError, "adversarial training needs a model with 'generator'"),
    "augment": ((X, Y), {"epochs": 1, "augment": "flipp"}, ValueError, "unknown augmentation 'flipp'; did you mean 'flip'?"),
    "augment object": ((X, Y), {"epochs": 1, "augment": 2}, TypeError, "augment must be a name, .* got 2"),
    "recipe": ((X, Y), {"recipe": "tutorals"}, ValueError, "unknown recipe 'tutorals'; did you mean 'tutorial'?"),
    "precision": ((X, Y), {"epochs": 1, "precision": "fp16"}, ValueError, "unknown precision 'fp16'"),
    "flag": ((X, Y), {"epochs": 1, "shuffle": 1}, TypeError, "shuffle must be True or False, got 1"),
    "seed": ((X, Y), {"epochs": 1, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
    "workers": (Squares(), {"epochs": 1, "workers": -1}, ValueError, "workers must be at least 0, got -1"),
    "patience": ((X, Y), {"epochs": 1, "early_stopping": 0}, ValueError, "early_stopping must be at least 1, got 0"),
    "checkpoint_every": ((X, Y), {"epochs": 1, "checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
    "width": ((X[:, :4], Y), {"epochs": 1}, ValueError, r"inputs have shape \(2, 4\), but MLP\(in_features=6\) needs \(N, 6\)"),
    "dtype": ((X.double(), Y), {"epochs": 1}, TypeError, "float64"),
    "uint8": (((X * 9).byte(), Y), {"epochs": 1}, TypeError, "torchbasics.data.Images"),
    "label": ((X, Y + 1), {"epochs": 1}, ValueError, "target 3 is out of range: the model has 3 classes, 0 to 2"),
    "negative label": ((X, Y - 1), {"epochs": 1}, ValueError, "target -1 is out of range"),
    "late label": (([(X[:9], Y[:9]), (X[:9], Y[:9] + 5)]), {"epochs": 1}, ValueError, "target 5 is out of range"),
    "regression shape": ((X, X[:, 0]), {"epochs": 1}, ValueError, r"outputs have shape \(2, 3\) and targets \(2,\); they must be equal; .* targets\.long\(\), for cross-entropy$"),
    "empty": ((X[:0], Y[:0]), {"epochs": 1}, ValueError, "the data is empty: it has 0 samples"),
    "empty list": ([], {"epochs": 1}, ValueError, "the data is empty: it has no batches"),
    "empty iterator": (iter([]), {"epochs": 1}, ValueError, "the data is empty: it gave no batch"),
    "lengths": ((X, Y[:9]), {"epochs": 1}, ValueError, "inputs and targets must have equal lengths, got 60 and 9"),
    "nan": ((X.index_fill(0, torch.tensor([4]), float("nan")), Y), {"epochs": 1}, ValueError, "inputs hold a value that is not finite, first in sample 4"),
    "no targets": (X, {"epochs": 1}, ValueError, "the data has inputs and no targets"),
    "no targets in batches": ([X], {"epochs": 1}, ValueError, "the data has inputs and no targets"),
    "three parts": ((X, Y, Y), {"epochs": 1}, TypeError, r"a tuple of data is \(inputs, targets\), got one of 3 parts"),
    "batch of three": ([(X, Y, Y)], {"epochs": 1}, TypeError, r"a batch must be \(inputs, targets\), got 3 parts"),
    "no data": (3, {"epochs": 1}, TypeError, "data must be .* got 3"),
    "a word": ((["a"], Y), {"epochs": 1}, TypeError, r"inputs\[0\] must be a tensor or an array, got str"),
    "no inputs": (((), Y), {"epochs": 1}, ValueError, "inputs hold no tensor"),
    "one number": ((torch.tensor(1.0), Y), {"epochs": 1}, ValueError, "inputs must have a dimension of samples"),
    "loader and batch size": (DataLoader(TensorDataset(X, Y)), {"epochs": 1, "batch_size": 4}, ValueError, "DataLoader brings its own batches; leave out batch_size"),
    "loader and shuffle": (DataLoader(TensorDataset(X, Y)), {"epochs": 1, "shuffle": True}, ValueError, "leave out shuffle"),
    "iterator twice": (iter([(X, Y)]), {"epochs": 2}, ValueError, "an iterator can be read once, not epochs=2 times"),
    "validation iterator": ((X, Y), {"epochs": 1, "validation": iter([(X, Y)])}, ValueError, "validation is an iterator"),
    "share of a loader": (DataLoader(TensorDataset(X, Y)), {"epochs": 1, "validation": 0.5}, ValueError, "needs data with indices, not DataLoader"),
    "share": ((X, Y), {"epochs": 1, "validation": 1.5}, ValueError, r"validation must be in \[0, 1\), got 1.5"),
    "tiny share": ((X, Y), {"epochs": 1, "validation": 0.001}, ValueError, "validation=0.001 of 60 samples leaves a part empty"),
    "bad validation": ((X, Y), {"epochs": 1, "validation": (X[:, :2], Y)}, ValueError, "inputs have shape"),
    "stream and onecycle": (Stream(), {"epochs": 1, "schedule": "onecycle"}, ValueError, "schedule 'onecycle' needs the number of steps"),
    "int32 like": ((X, Y[:, None].int()), {"epochs": 1}, ValueError, r"targets have shape \(2, 1\), but cross-entropy needs \(2,\); call targets.squeeze\(1\)"),
    "float labels": ((X, Y.float()), {"epochs": 1, "loss": "cross_entropy"}, TypeError, "targets are torch.float32 .* needs class numbers"),
    "bce and integers": ((X, torch.ones(60, 3, dtype=torch.long)), {"epochs": 1, "loss": "bce"}, TypeError, "this loss needs floating ones; call targets.float"),
    "loss class": ((X, Y), {"epochs": 1, "loss": nn.CrossEntropyLoss}, TypeError, "loss must be a name, a module or a function"),
    "metric class": ((X, Y), {"epochs": 1, "metrics": [nn.Linear]}, TypeError, r"a metric must be an instance, got the class Linear; write Linear\(...\)"),
    "metric twice": ((X, Y), {"epochs": 1, "metrics": ["accuracy", "accuracy"]}, ValueError, "the name 'accuracy' of a metric is taken"),
    "metric called loss": ((X, Y), {"epochs": 1, "metrics": {"loss": "accuracy"}}, ValueError, "the name 'loss' of a metric is taken"),
    "metric of vectors": ((X, Y), {"epochs": 1, "metrics": {"all": Vector()}}, TypeError, "the metric 'all' gives .* which is not one number"),
    "accuracy of regression": ((X, X[:, :3]), {"epochs": 1, "metrics": "accuracy"}, ValueError, r"accuracy needs outputs \(N, classes\) and class numbers"),
    "mae of classes": ((X, Y), {"epochs": 1, "metrics": "mae"}, ValueError, r"mae needs equal shapes, got \(2, 3\) and \(2,\)"),
    "validation label": ((X, Y), {"epochs": 1, "validation": (X, Y + 5)}, ValueError, "target 5 is out of range"),
    "monitor": ((X, Y), {"epochs": 1, "early_stopping": EarlyStopping(1, monitor="val_loss")}, ValueError, "early stopping watches 'val_loss', which is not in the history: loss, accuracy"),
    "a word as data": ("mini", {"epochs": 1}, TypeError, "data must be .* got 'mini'"),
    "train and test": ((Squares(), Squares()), {"epochs": 1}, TypeError, r"a pair of datasets, such as \(train, test\); give one of them"),
    "stream and workers": (Stream(), {"epochs": 1, "workers": 2}, ValueError, "workers does not go with a stream"),
    "stream and shuffle": (Stream(), {"epochs": 1, "shuffle": True}, ValueError, "shuffle does not go with a stream"),
    "unequal batch": ([(X[:4], Y[:3])], {"epochs": 1}, ValueError, r"the tensors of a batch must have equal lengths, got \[3, 4\]"),
    "loader of bytes": (DataLoader(TensorDataset((X * 9).byte(), Y), batch_size=9), {"epochs": 1}, TypeError, "torchbasics.data.Images"),
    "callbacks": ((X, Y), {"epochs": 1, "callbacks": Vector()}, TypeError, "callbacks must be a list of objects"),
    "huge seed": ((X, Y), {"epochs": 1, "seed": 2**70}, ValueError, r"seed must be below 2\*\*63"),
    "no number as loss": ((X, Y), {"epochs": 1, "step": lambda m, x, y: 3.0}, TypeError, "step must return the loss, a tensor, .* got 3.0"),
    "nothing counts": ([(X, torch.full((60,), -100))], {"epochs": 1}, (ValueError, ArithmeticError), "no target counts|the loss is nan"),
    "optimizer thing": ((X, Y), {"epochs": 1, "optimizer": 7}, TypeError, "optimizer must be a name, .* got 7"),
    "makes no optimizer": ((X, Y), {"epochs": 1, "optimizer": list}, TypeError, "optimizer must make a torch.optim.Optimizer, got list"),
    "makes no schedule": ((X, Y), {"epochs": 1, "schedule": lambda o: 3}, TypeError, "schedule must make an LRScheduler .*, got int"),
    "other optimizer": ((X, Y), {"epochs": 1, "optimizer": SGD(nn.Linear(1, 1).parameters(), 0.1)}, ValueError, "the optimizer holds no parameter of this model"),
    "lr and instance": ((X, Y), {"epochs": 1, "lr": 1.0, "optimizer": SGD(nn.Linear(1, 1).parameters(), 0.1)}, ValueError, "lr=1.0 does not go with an optimizer instance"),
    "other schedule": ((X, Y), {"epochs": 1, "schedule": StepLR(SGD(nn.Linear(1, 1).parameters(), 0.1), 1)}, ValueError, "the schedule belongs to another optimizer"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_trained_on_is_refused_and_changes_nothing(case: str, tmp_path: Any) -> None:
    """One clear error; no weight has changed, nothing was written."""
    given, options, error, message = BAD[case]
    torch.manual_seed(0)
    model = models.MLP(6, (4,), 3)
    before = copy.deepcopy(model)

    with pytest.raises(error, match=message):
        quiet(model, given, log_dir=tmp_path / "log", checkpoint=tmp_path / "checkpoint", **options)

    late = case in ("late label", "empty iterator", "nothing counts")  # seen when it comes
    assert late or not list(tmp_path.iterdir())
    assert case == "late label" or equal(model, before)
    assert model.training


def test_a_frozen_model_has_nothing_to_train() -> None:
    """No parameter requires a gradient."""
    with pytest.raises(ValueError, match="the model has no parameter that requires a gradient"):
        quiet(models.MLP(6, (4,), 3).requires_grad_(False), X, Y, epochs=1)


def test_frozen_parameters_stay() -> None:
    """The others are trained."""
    model = models.MLP(6, (4,), 3)
    frozen = next(model.parameters()).requires_grad_(False)
    before = frozen.clone()

    quiet(model, X, Y, epochs=1, lr=0.1)

    assert torch.equal(frozen, before)


def test_one_dimensional_outputs_are_refused_for_classes() -> None:
    """Cross-entropy needs a dimension of classes."""
    with pytest.raises(ValueError, match=r"outputs have shape \(2,\), but cross-entropy needs \(N, classes\)"):
        quiet(nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), X, Y, epochs=1)


def test_targets_that_lack_the_dimension_of_one_output_are_refused() -> None:
    """Torch would broadcast them against each other."""
    with pytest.raises(ValueError, match=r"they must be equal \(targets\.unsqueeze\(1\)\?\)$"):
        fit(nn.Linear(6, 1), X, X[:, 0], epochs=1)
    with pytest.raises(ValueError, match=r"they must be equal \(targets\.unsqueeze\(1\)\?\)$"):
        fit(nn.Conv2d(1, 1, 1), torch.rand(4, 1, 5, 5), torch.rand(4, 5, 5), epochs=1)


def test_targets_with_a_dimension_more_than_the_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"they must be equal \(targets\.squeeze\(1\)\?\)$"):
        fit(nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), X, X[:, :1], epochs=1)


class Mean(nn.Linear):
    """Gives one number for the whole batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).mean()


def test_outputs_without_dimensions_are_refused() -> None:
    """A mean over the batch is no prediction."""
    with pytest.raises(ValueError, match=r"outputs have shape \(\) and targets \(2,\); they must be equal$"):
        fit(Mean(6, 1), X, X[:, 0], epochs=1)


def test_a_tuple_of_outputs_needs_a_step() -> None:
    """StackedRNN is a building block."""
    with pytest.raises(TypeError, match=r"the model returned tuple, not a tensor; give step="):
        quiet(models.StackedRNN(6, 4), X.unsqueeze(1), Y, epochs=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"accumulate": 2}, ValueError, "adversarial training takes its batches whole"),
        ({"optimizer": SGD(nn.Linear(1, 1).parameters(), 0.1)}, TypeError, "adversarial training makes two optimizers"),
    ],
    ids=["accumulate", "instance"],
)
def test_adversarial_training_refuses_what_it_cannot_do(options: Any, error: Any, message: str) -> None:
    """Two optimizers are its own."""
    with pytest.raises(error, match=message):
        quiet(models.DCGAN(latent_dim=8, width=4, depth=1), small_images(size=16), epochs=1, **options)


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    """It names step, epoch, samples and learning rate; the weights are those of the step before."""
    inputs, targets = blobs(n=20)
    model = nn.Linear(6, 3)
    kept: dict[int, nn.Module] = {}

    class Keep:
        def on_step(self, state: training.State) -> None:
            kept[state.step] = copy.deepcopy(state.model)

    class Poisoned(Dataset[Any]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> Any:
            return inputs[i] * (float("nan") if i == 13 else 1), targets[i]

    message = (
        r"the loss is nan at step 3, epoch 1, on samples \[10, 11, 12, 13, 14\], learning rate 0.1, gradient norm nan; "
        r"first not finite: the inputs of samples \[13\], then the output of 'Linear'; nothing was applied"
    )
    with pytest.raises(training.NonFiniteError, match=message):
        quiet(model, Poisoned(), epochs=1, batch_size=5, shuffle=False, lr=0.1, callbacks=[Keep()])

    assert list(kept) == [1, 2]
    assert equal(model, kept[2])


def test_a_last_batch_of_one_is_refused_before_batch_norm_fails_on_it() -> None:
    """21 samples in batches of 10: the third has one."""
    model = models.MLP(6, (4,), 3, batch_norm=True)
    before = copy.deepcopy(model)

    with pytest.raises(ValueError, match="batches of 10 and 1 samples give batch norm 1 sample, which is too few"):
        quiet(model, blobs(n=21), epochs=1, batch_size=10)

    assert equal(model, before)
    quiet(models.MLP(6, (4,), 3), blobs(n=21), epochs=1, batch_size=10)


def test_progress_is_none_true_or_false() -> None:
    """No words."""
    with pytest.raises(TypeError, match="progress must be None, True or False, got 'no'"):
        fit(models.MLP(6, (4,), 3), X, Y, epochs=1, progress="no")  # type: ignore[arg-type]


def test_orders_count_epochs_from_zero() -> None:
    """No epoch before the first."""
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        data.order(5, 0, -1)


class Locked(nn.Linear):
    """A module that cannot be copied."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.lock = threading.Lock()
        self.numbers = (i for i in range(9))


def normed(*first: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))


ALONE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "parts of the last batch": (blobs(n=23), {"batch_size": 10, "accumulate": 2}, r"10 and 3 samples give"),
    "parts of each batch": (blobs(n=56), {"batch_size": 7, "accumulate": 3}, r"7 samples give"),
    "one by one": (blobs(n=60), {"batch_size": 4, "accumulate": 4}, r"4 samples give"),
    "batches of one": (blobs(n=6), {"batch_size": 1}, r"1 samples give"),
    "a loader": (DataLoader(TensorDataset(*blobs(n=21)), batch_size=10), {}, r"10 and 1 samples give"),
    "a locked model": (blobs(n=21), {"batch_size": 10}, r"10 and 1 samples give"),
}


@pytest.mark.parametrize("case", ALONE)
def test_batch_norm_on_one_sample_is_told_at_the_start(case: str) -> None:
    """Whichever batch or part it is alone in; the model is not copied, and stays as it was, modes and all."""
    given, options, message = ALONE[case]
    model = normed(Locked()) if case == "a locked model" else normed()
    list(model.children())[-1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, drawn = [m.training for m in model.modules()], torch.get_rng_state()

    with pytest.raises(
        ValueError, match=message.replace(" give", "(, cut into accumulate=. parts,)? give batch norm 1 ")
    ):
        quiet(model, given, epochs=1, **options)

    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(drawn, torch.get_rng_state())
    assert not any(m._forward_pre_hooks for m in model.modules())


class Still(nn.BatchNorm1d):
    """Batch norm whose statistics are fixed."""

    def train(self, mode: bool = True) -> Still:
        return super().train(False)


def picky(outputs: Any, targets: Any) -> Any:
    """A loss that takes a single sample in training only."""
    if len(outputs) == 1 and not torch.is_grad_enabled():
        raise RuntimeError("no")
    return nn.functional.cross_entropy(outputs, targets)


FINE: dict[str, tuple[nn.Module, Any, dict[str, Any]]] = {
    "fixed statistics": (nn.Sequential(nn.Linear(6, 4), Still(4), nn.Linear(4, 3)), blobs(n=21), {"batch_size": 10}),
    "over length": (
        nn.Sequential(nn.Unflatten(1, (2, 3)), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(6, 3)),
        blobs(n=21),
        {"batch_size": 10},
    ),
    "dropped": (normed(), DataLoader(TensorDataset(*blobs(n=21)), batch_size=10, drop_last=True), {}),
    "two each": (normed(), blobs(n=20), {"batch_size": 4, "accumulate": 2}),
    "another error": (
        nn.Sequential(nn.Unflatten(1, (2, 3)), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(6, 3)),
        blobs(n=21),
        {"batch_size": 10, "loss": picky},
    ),
}


@pytest.mark.parametrize("case", FINE)
def test_batch_norm_that_works_on_one_sample_is_not_refused(case: str) -> None:
    """Nor is a model for another reason than that."""
    model, given, options = FINE[case]

    assert len(quiet(model, given, epochs=1, **options)) == 1
