"""`training.check`: it finds planted mistakes, stays silent on good models, and leaves no trace."""

from __future__ import annotations

import contextlib
import random
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import blobs, equal, small_images
from torchbasics import data, models, training
from torchbasics.training import Finding, check

if TYPE_CHECKING:
    from collections.abc import Callable

X, Y = blobs(n=300)
REGRESSION = X @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [1.0], [0.3]]) / 5


def mlp(*ends: nn.Module, outputs: int = 3) -> nn.Sequential:
    """A good model for `blobs`, with something at its end."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs), *ends)


def changed(change: Callable[[nn.Sequential], Any]) -> nn.Sequential:
    """The good model after *change*."""
    model = mlp()
    change(model)
    return model


class Own(nn.Module):
    """A model whose forward is given."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], outputs: int = 3) -> None:
        super().__init__()
        self.net = mlp(outputs=outputs)
        self.norm = nn.BatchNorm1d(6)
        self.run = run

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(self, self.norm(inputs))


class Hidden(nn.Module):
    """Layers in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(6, 16), nn.ReLU()]
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return self.head(inputs)  # type: ignore[no-any-return]


class HiddenByName(Hidden):
    """Layers in a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = dict(enumerate(self.layers))  # type: ignore[assignment]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layers[1](self.layers[0](inputs)))  # type: ignore[no-any-return]


class Unused(nn.Module):
    """A layer that forward leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.extra = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)  # type: ignore[no-any-return]


class TwoInputs(nn.Module):
    """The sum of two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = mlp(), mlp()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.one(a) + self.other(b)  # type: ignore[no-any-return]


class Sequence(nn.Module):
    """A recurrent layer that takes the samples for the steps."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(2, 16, batch_first=batch_first)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.rnn(inputs.view(-1, 3, 2))[0][:, -1])  # type: ignore[no-any-return]


def zero(model: nn.Sequential) -> None:
    for p in model.parameters():
        nn.init.zeros_(p)


def negative(model: nn.Sequential) -> None:
    """No unit of the ReLU is ever active."""
    nn.init.constant_(model[0].bias, -1e4)  # type: ignore[arg-type]


def larger(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].weight.mul_(100)  # type: ignore[operator]


def poisoned() -> Tensor:
    inputs = X.clone()
    inputs[13, 2] = float("nan")
    return inputs


def sorted_loader() -> DataLoader[Any]:
    order = Y.argsort(stable=True)
    return DataLoader(TensorDataset(X[order], Y[order]), batch_size=30)


HALVES = (REGRESSION > 0).float()

# model, data, options, the finding's name, words of its message
PLANTED: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any], str, str]] = {
    "softmax": (lambda: mlp(nn.Softmax(1)), (X, Y), {}, "softmax-before-cross-entropy", "leave the softmax out"),
    "sigmoid": (lambda: mlp(nn.Sigmoid()), (X, Y), {}, "sigmoid-before-cross-entropy", "leave the sigmoid out"),
    "relu": (lambda: mlp(nn.ReLU()), (X, Y), {}, "relu-at-the-end", "leave the last activation out"),
    "relu in regression": (lambda: mlp(nn.ReLU(), outputs=1), (X, REGRESSION), {}, "relu-at-the-end", "never negative"),
    "sigmoid and bce": (lambda: mlp(nn.Sigmoid(), outputs=1), (X, HALVES), {"loss": "bce"}, "sigmoid-before-bce", "which loss 'bce' has itself"),
    "nll of logits": (mlp, (X, Y), {"loss": "nll"}, "nll-without-log-softmax", "nn.LogSoftmax"),
    "one-hot": (mlp, (X, functional.one_hot(Y).float()), {}, "targets-one-hot", r"targets of shape \(32, 3\) are one-hot; .* targets.argmax\(1\)"),
    "integer one-hot": (mlp, (X, functional.one_hot(Y)), {}, "targets-one-hot", "class numbers are needed"),
    "floating labels": (mlp, (X, Y.float()), {}, "targets-floating", r"look like class numbers: targets.long\(\)"),
    "labels from 1": (lambda: mlp(outputs=4), (X, Y + 1), {}, "classes-missing", "none of 300 labels is 0; do the labels start at 1"),
    "a missing class": (lambda: mlp(outputs=5), (X, Y), {}, "classes-missing", "the model has 5 classes, but none of 300 labels is 3, 4"),
    "label out of range": (mlp, (X, Y + 1), {}, "error", "target 3 is out of range: the model has 3 classes"),
    "sorted labels": (mlp, sorted_loader(), {}, "labels-sorted", "labels come sorted, from class 0 to 2: give the DataLoader shuffle=True"),
    "one output": (lambda: mlp(outputs=1), (X, torch.zeros(300, dtype=torch.long)), {}, "outputs-shape", "give it an output per class"),
    "broadcast": (lambda: mlp(outputs=1), (X, REGRESSION[:, 0]), {"loss": lambda o, t: ((o - t) ** 2).mean()}, "shapes-broadcast", r"outputs \(32, 1\) and targets \(32,\) .* targets.view_as\(outputs\)"),
    "no batch dimension": (lambda: mlp(nn.Flatten(0)), (X, Y), {}, "outputs-shape", r"32 samples became outputs of shape \(96,\)"),
    "frozen": (lambda: changed(lambda m: m[0].requires_grad_(False)), (X, Y), {}, "parameters-frozen", r"0.weight, 0.bias will not be trained"),
    "all frozen": (lambda: mlp().requires_grad_(False), (X, Y), {}, "error", "no parameter that requires a gradient"),
    "dead": (lambda: changed(negative), (X, Y), {}, "parameters-dead", "0.bias, 0.weight, 2.weight get a gradient of exactly zero"),
    "zero": (lambda: changed(zero), (X, Y), {}, "parameters-dead", "0.weight"),
    "unused": (Unused, (X, Y), {}, "parameters-unused", "extra.bias, extra.weight take no part in the loss"),
    "a list of layers": (Hidden, (X, Y), {}, "parameters-unregistered", "self.layers holds layers .* use nn.ModuleList"),
    "a dict of layers": (HiddenByName, (X, Y), {}, "parameters-unregistered", "self.layers holds layers"),
    "detached": (lambda: Own(lambda m, x: m.net(x).detach()), (X, Y), {}, "no-gradient", r"is there a detach\(\)"),
    "not depending on the inputs": (lambda: Own(lambda m, x: m.net(x * 0)), (X, Y), {}, "cannot-learn-one-batch", "after 100 updates on the same 32 samples"),
    "steps for samples": (lambda: Sequence(batch_first=False), (X, Y), {}, "samples-leak", "batch_first"),
    "mean over samples": (lambda: Own(lambda m, x: m.net(x - x.mean(0))), (X, Y), {}, "samples-leak", "changes with the other samples"),
    "softmax over samples": (lambda: mlp(nn.Softmax(0)), (X, Y), {}, "samples-leak", "softmax over 0"),
    "running sum": (lambda: Own(lambda m, x: m.net(x.cumsum(0) / 5)), (X, Y), {}, "samples-leak", "of sample 31"),
    "dropout in eval": (lambda: Own(lambda m, x: m.net(functional.dropout(x, 0.2))), (X, Y), {}, "random-in-eval", "training=self.training"),
    "other in eval": (lambda: Own(lambda m, x: m.net(x if m.training else -x)), (X, Y), {}, "eval-differs", "in train mode, but .* in eval mode"),
    "batch norm without momentum": (lambda: nn.Sequential(nn.BatchNorm1d(6, momentum=0.0), mlp()), (200 * X + 900, Y), {}, "eval-differs", "momentum"),
    "bytes as floats": (mlp, (X * 20 + 128, Y), {}, "inputs-unscaled", "inputs have mean .*: scale them to about 0 and 1"),
    "scaled twice": (mlp, (X / 255 / 255, Y), {}, "inputs-unscaled", "scaled twice"),
    "bytes": (mlp, (X.byte(), Y), {}, "error", "inputs are torch.uint8, but the model's parameters are torch.float32"),
    "targets unscaled": (lambda: mlp(outputs=1), (X, REGRESSION * 100 + 500), {}, "targets-unscaled", "targets have mean"),
    "constant": (mlp, (torch.ones_like(X), Y), {}, "inputs-constant", "all 32 samples looked at have equal inputs"),
    "nan in inputs": (mlp, (poisoned(), Y), {}, "inputs-not-finite", "inputs hold nan or infinity, first in sample 13"),
    "nan in targets": (lambda: mlp(outputs=1), (X, REGRESSION / 0), {}, "targets-not-finite", "first in sample 0"),
    "large start": (lambda: changed(larger), (X, Y), {}, "loss-at-start", r"while guessing costs ln\(3\) = 1.1"),
    "nan from the model": (lambda: Own(lambda m, x: m.net(x).log()), (X, Y), {}, "outputs-not-finite", "before any training"),
    "nan in training": (lambda: Own(lambda m, x: m.net(x) / (0.0 if m.training else 1.0)), (X, Y), {}, "loss-not-finite", "at each rate tried"),
    "wrong width": (lambda: nn.Linear(5, 3), (X, Y), {}, "error", "RuntimeError: .*mat1 and mat2 shapes cannot be multiplied"),
    "several outputs": (lambda: models.StackedRNN(2, 4, batch_first=True), (X.view(-1, 3, 2), Y), {}, "error", "the model returned tuple, not a tensor"),
    "no targets": (mlp, X, {}, "error", "the data has inputs and no targets"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_planted_mistakes_are_found(case: str) -> None:
    """Each by its own name, in words that tell the way out."""
    make, given, options, name, words = PLANTED[case]

    findings = check(make(), given, **options)

    found = [finding for finding in findings if finding.name == name]
    assert found, findings
    assert re.search(words, found[0].message), found[0]


def test_more_than_eight_kinds_of_mistakes_are_planted() -> None:
    """The number of names, printed."""
    names = {name for _, _, _, name, _ in PLANTED.values()}
    print(f"{len(PLANTED)} planted mistakes of {len(names)} kinds")

    assert len(names) >= 20


ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {}),
    "mlp with dropout": ("mlp", {"dropout": 0.5}),
    "mlp with batch norm": ("mlp", {"batch_norm": True, "dropout": 0.3}),
    "cnn": ("cnn", {}),
    "cnn with dropout": ("cnn", {"dropout": 0.5}),
    "cnn with batch norm": ("cnn", {"batch_norm": True, "dropout": 0.3}),
    "rnn_classifier": ("rnn_classifier", {}),
    "two lstms": ("rnn_classifier", {"cell": "lstm", "num_layers": 2, "dropout": 0.3}),
    "bidirectional": ("rnn_classifier", {"cell": "rnn", "bidirectional": True}),
    "dcgan": ("dcgan", {}),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", ZOO)
def test_nothing_is_found_in_the_zoo(case: str, seed: int) -> None:
    """Every registered model that can learn from the images in the package."""
    name, config = ZOO[case]
    torch.manual_seed(seed)
    train, _ = data.fashion_mnist_mini()

    assert check(models.get_model(name, **config), train, seed=seed) == []


def test_the_zoo_above_is_the_whole_one() -> None:
    """Only the building block without a head is left out."""
    assert {name for name, _ in ZOO.values()} == {*models.list_models()} - {"stacked_rnn"}


def tailed() -> nn.Module:
    """A last layer that starts at zero, as many good models have."""
    model = mlp()
    nn.init.zeros_(model[2].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[2].bias)  # type: ignore[arg-type]
    return model


NOISY = REGRESSION + torch.randn(REGRESSION.shape, generator=torch.Generator().manual_seed(0))

GOOD: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "blobs": (mlp, (X, Y), {}),
    "float64": (lambda: mlp().double(), (X.double(), Y), {}),
    "linear": (lambda: nn.Linear(6, 3), (X, Y), {}),
    "starts at zero": (tailed, (X, Y), {}),
    "batch norm": (lambda: Own(lambda m, x: m.net(x)), (X, Y), {}),
    "regression": (lambda: mlp(outputs=1), (X, REGRESSION), {}),
    "noisy linear regression": (lambda: nn.Linear(6, 1), (X, NOISY), {}),
    "regression with batch norm": (lambda: models.MLP(6, (32,), 1, batch_norm=True, dropout=0.2), (X, NOISY), {}),
    "mean absolute error": (lambda: mlp(outputs=1), (X, REGRESSION), {"loss": "l1"}),
    "binary": (lambda: mlp(outputs=1), (X, HALVES), {"loss": "bce"}),
    "class weights": (mlp, (X, Y), {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))}),
    "label smoothing": (mlp, (X, Y), {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}),
    "soft labels": (mlp, (X, functional.one_hot(Y).float()), {"loss": "cross_entropy"}),
    "log-softmax": (lambda: mlp(nn.LogSoftmax(1)), (X, Y), {"loss": "nll"}),
    "sequences": (lambda: Sequence(batch_first=True), (X, Y), {}),
    "a shuffled loader": (mlp, DataLoader(TensorDataset(X, Y), batch_size=50, shuffle=True), {}),
    "a dataset": (mlp, torch.utils.data.ConcatDataset([TensorDataset(X, Y)]), {}),
    "a loader of numbers": (lambda: mlp(outputs=1), DataLoader(TensorDataset(X, REGRESSION), batch_size=50), {}),
    "batches in a list": (mlp, [(X[i : i + 50], Y[i : i + 50]) for i in range(0, 300, 50)], {}),
    "images": (lambda: models.CNNModel(1, 4, image_size=8), small_images(), {}),
    "two inputs": (TwoInputs, ((X, X), Y), {}),
    "inputs by name": (TwoInputs, ({"a": X, "b": X}, Y), {}),
    "token ids": (lambda: nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(48, 3)), ((X * 4).long().clamp(-20, 20) + 20, Y), {}),
    "a label per pixel": (lambda: nn.Conv2d(1, 3, 1), (small_images().inputs, (3 * small_images().inputs[:, 0]).long().clamp(max=2)), {}),
    "own function": (mlp, (X, Y), {"step": lambda m, x, y: functional.cross_entropy(m(x), y)}),
    "own loss": (mlp, (X, Y), {"loss": functional.cross_entropy}),
    "adversarial": (lambda: models.DCGAN(latent_dim=8, width=4, depth=1), small_images(size=16), {}),
    "few samples": (mlp, (X[:2], Y[:2]), {}),
    "one class of few": (mlp, (X[:20], torch.zeros(20, dtype=torch.long)), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_nothing_is_found_where_nothing_is_wrong(case: str) -> None:
    """Other losses, data and models."""
    make, given, options = GOOD[case]
    torch.manual_seed(0)

    assert check(make(), given, **options) == []


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> list[Any]:
    """All that a check could have changed."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    moments = [value for s in optimizer.state.values() for value in s.values()]
    generators = [torch.get_rng_state(), torch.as_tensor(np.random.get_state()[1].astype(np.int64))]  # type: ignore[index]  # noqa: NPY002
    assert loader.generator is not None
    bits = [t.detach().clone() for t in (*tensors, *moments, *generators, loader.generator.get_state())]
    return [
        *bits,
        random.getstate(),
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other, strict=True)
    )


def half_trained() -> tuple[nn.Module, torch.optim.Optimizer, DataLoader[Any]]:
    """A model in the middle of its training, gradients and moments and all, one part of it in eval mode."""
    torch.manual_seed(0)
    model = models.MLP(6, (8,), 3, dropout=0.5, batch_norm=True)
    optimizer = torch.optim.Adam(model.parameters())
    functional.cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    next(model.children()).eval()
    loader = DataLoader(TensorDataset(X, Y), batch_size=20, shuffle=True, generator=torch.Generator().manual_seed(5))
    return model, optimizer, loader


def test_a_check_leaves_no_trace() -> None:
    """Parameters, buffers, gradients, modes, moments and all generators, a loader's own too, keep their bits."""
    model, optimizer, loader = half_trained()
    before = state_of(model, optimizer, loader)

    check(model, loader)

    assert same(before, state_of(model, optimizer, loader))


@pytest.mark.parametrize("part", ["copies", "without_trace"])
def test_without_its_precautions_a_check_leaves_traces(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: working on the model itself, or with the generators as they are, is seen."""
    model, optimizer, loader = half_trained()
    before = state_of(model, optimizer, loader)
    replaced = {"copies": lambda *parts: parts, "without_trace": lambda *_: contextlib.nullcontext()}[part]
    for module in ("_doctor", "_doctor_training"):
        monkeypatch.setattr(f"torchbasics.training.{module}.{part}", replaced, raising=False)

    check(model, loader)

    assert not same(before, state_of(model, optimizer, loader))


def test_a_check_finds_the_same_twice_and_under_no_grad() -> None:
    """It depends on its seed alone."""
    model = mlp(nn.Softmax(1))
    torch.manual_seed(1)
    once = check(model, X, Y)
    with torch.no_grad():
        assert check(model, X, Y) == once


def test_training_goes_on_as_if_nothing_had_been_checked() -> None:
    """A run from the global generators ends on the same bits with a check before it and without."""
    plain, checked = mlp(), mlp()
    for model in (plain, checked):
        torch.manual_seed(3)
        if model is checked:
            check(model, X, Y)
        training.fit(model, X, Y, epochs=1, progress=False, seed=None)

    assert equal(plain, checked)


def test_a_finding_reads_as_name_and_message() -> None:
    """For print."""
    assert str(Finding("dead", "it is")) == "dead: it is"


class Uncopiable(nn.Linear):
    """A model that holds what cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("model", "given", "options", "error", "message"),
    [
        (mlp(), iter([(X, Y)]), {}, ValueError, "an iterator can be read once, and would be used up here"),
        (mlp(), (X[:0], Y[:0]), {}, ValueError, "the data is empty: it has 0 samples"),
        (mlp(), 3, {}, TypeError, "data must be"),
        (mlp(), (X, Y), {"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        (mlp(), (X, Y), {"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        (mlp(), (X, Y), {"step": "adversarial"}, TypeError, "adversarial training needs a model with 'generator'"),
        (Uncopiable(6, 3), (X, Y), {}, TypeError, "Uncopiable cannot be copied, and only a copy may be tried out: no; see"),
    ],
    ids=["iterator", "empty", "no data", "samples", "steps", "step", "not copied"],
)  # fmt: skip
def test_what_cannot_be_checked_is_refused(model: Any, given: Any, options: Any, error: Any, message: str) -> None:
    """One clear error."""
    with pytest.raises(error, match=message):
        check(model, given, **options)
