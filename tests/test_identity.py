"""A run goes on as the run it was, or is refused; what was changed is named."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from tests.helpers import CrashAt, CrashError, Squares, blobs, equal, newest
from torchbasics.data import _facts
from torchbasics.training import Adversarial, EarlyStopping, Supervised, _identity, _source, fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SGD, Adam = torch.optim.SGD, torch.optim.Adam
quiet = partial(fit, progress=False, lr=0.01)


class Own(nn.Module):
    """A module of the user's that tells no arguments."""

    def __init__(self, act: Any = torch.relu, scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.last = nn.Linear(4, 3)
        self.act = act
        self.scale = scale
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.last(self.act(self.first(inputs))) * self.scale
        return out


def net(p: float = 0.1, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.Dropout(p), act(), nn.Linear(4, 4), nn.Linear(4, 3))


def frozen(*layers: int) -> nn.Module:
    model: Any = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    for layer in layers:
        model[layer].requires_grad_(False)
    return model  # type: ignore[no-any-return]


def crash_and_call_again(
    folder: Path,
    made: tuple[Callable[[], nn.Module], Callable[[], nn.Module]],
    options: tuple[Any, Any],
    *,
    resume: Any = "auto",
) -> bool:
    """Whether the second call, after a crash of the first, ends on what the first would have made without it.

    Options are a dict, or a function of the model; a refusal has to leave the model as it was.
    """

    def run(i: int, **more: Any) -> nn.Module:
        torch.manual_seed(0)
        model = made[i]()
        before = copy.deepcopy(model.state_dict())
        given = options[i](model) if callable(options[i]) else options[i]
        try:
            quiet(model, **{"train": blobs(), "epochs": 3, **given, **more})
        except ValueError:
            assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
            raise
        return model

    whole = run(0)
    with pytest.raises(CrashError):
        run(0, checkpoint=folder, callbacks=[CrashAt(2)])
    return equal(whole, run(1, checkpoint=folder, resume=resume))


MODELS: dict[str, tuple[Any, Any, str]] = {
    "dropout": (net, lambda: net(0.9), r"'1' was Dropout\(p=0.1, inplace=False\) and is Dropout\(p=0.9"),
    "activation": (net, lambda: net(act=nn.Tanh), "'2' was ReLU and is Tanh"),
    "argument": (lambda: Own(nn.ReLU()), lambda: Own(nn.Tanh()), "'act' was ReLU and is Tanh"),
    "freeze another": (
        lambda: frozen(0), lambda: frozen(1),
        r"'1.weight' was trained \(group 0\) and is frozen; .*'0.weight' was frozen and is trained \(group 0\); and 1 more",
    ),
    "unfreeze": (lambda: frozen(0), frozen, r"'0.weight' was frozen and is trained \(group 0\)"),
}  # fmt: skip


@pytest.mark.parametrize("resume", ["auto", True])
@pytest.mark.parametrize("case", MODELS)
def test_another_model_is_refused_with_both_values(case: str, resume: Any, tmp_path: Path) -> None:
    """Layers without parameters count, and so does which are trained; no weight is changed."""
    before, after, message = MODELS[case]

    assert crash_and_call_again(tmp_path / "same", (before, before), ({}, {}), resume=resume)
    with pytest.raises(ValueError, match=f"is of another run: .*{message}"):
        crash_and_call_again(tmp_path / "other", (before, after), ({}, {}), resume=resume)


ATTRIBUTES: dict[str, tuple[Any, Any, str]] = {
    "number": (Own, lambda: Own(scale=2.0), r"\('scale' was 1.0 and is 2.0\)"),
    "function": (Own, lambda: Own(torch.tanh), r"\('act' was .*relu and is .*tanh\)"),
    "lambda": (lambda: Own(lambda x: x.relu()), lambda: Own(lambda x: x.tanh()), r"\('act' was .* and is .*\)"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_other_attributes_of_the_model_are_told(case: str, tmp_path: Path) -> None:
    """Those of any module in it; with True the run goes on."""
    before, after, message = ATTRIBUTES[case]

    assert crash_and_call_again(tmp_path / "same", (before, before), ({}, {}))
    with pytest.raises(ValueError, match=f"the attributes of the model {message} changed since"):
        crash_and_call_again(tmp_path / "other", (before, after), ({}, {}))
    assert not crash_and_call_again(tmp_path / "told", (before, after), ({}, {}), resume=True)


def test_attributes_that_a_run_has_changed_are_no_other_model(tmp_path: Path) -> None:
    """The same call with the model that it has trained: the counter has moved with the weights."""
    model = Own()
    history = quiet(model, blobs(), epochs=2, checkpoint=tmp_path)
    calls = model.calls

    assert quiet(model, blobs(), epochs=2, checkpoint=tmp_path) == history
    assert calls > 0


def entropy(outputs: Tensor, targets: Tensor, factor: float = 1.0) -> Tensor:
    return functional.cross_entropy(outputs, targets) * factor


def make_step(factor: float) -> Any:
    def step(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs), targets) * factor

    return step


def other_step() -> Any:
    def step(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        penalty = torch.stack([p.norm() for p in model.parameters()]).sum()
        return functional.cross_entropy(model(inputs), targets) + 0.1 * penalty

    step.__qualname__ = make_step(1.0).__qualname__
    return step


class Noise:
    """An augmentation with attributes."""

    def __init__(self, scale: float) -> None:
        self.parts = [Scaled(scale)]
        self.names = {"scaled", "noise", "other"}

    def __call__(self, inputs: Tensor) -> Tensor:
        for part in self.parts:
            inputs = part(inputs)
        return inputs


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class Weighed(Supervised):
    """A step with an attribute."""

    def __init__(self, factor: float) -> None:
        super().__init__(make_step(factor))


def classes(*weights: float) -> dict[str, Any]:
    return {"loss": nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))}


RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "label smoothing": ({"loss": nn.CrossEntropyLoss()}, {"loss": nn.CrossEntropyLoss(label_smoothing=0.5)}),
    "class weights": (classes(1, 1, 1), classes(1, 5, 1)),
    "lambda": ({"loss": lambda o, t: entropy(o, t) * 1}, {"loss": lambda o, t: entropy(o, t) * 9}),
    "partial": ({"loss": partial(entropy, factor=1.0)}, {"loss": partial(entropy, factor=3.0)}),
    "step": ({"step": make_step(1.0)}, {"step": other_step()}),
    "closure": ({"step": make_step(1.0)}, {"step": make_step(3.0)}),
    "instance of Step": ({"step": Weighed(1.0)}, {"step": Weighed(3.0)}),
    "augment": ({"augment": lambda x: x}, {"augment": lambda x: x * 0}),
    "in turn": ({"augment": (lambda x: x, lambda x: x)}, {"augment": (lambda x: x, lambda x: x * 0)}),
    "instance": ({"augment": Noise(1.0)}, {"augment": Noise(2.0)}),
    "schedule": (
        {"schedule": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1.0)},
        {"schedule": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 - step / 9)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_whose_functions_do_something_else_is_refused(case: str, tmp_path: Path) -> None:
    """Under the same name; with True it goes on, to something else indeed."""
    before, after = RECIPES[case]
    (name,) = before

    assert crash_and_call_again(tmp_path / "same", (Own, Own), (before, copy.deepcopy(before)))
    with pytest.raises(ValueError, match=f"the code or the values of the recipe's {name} changed since .* resume=True"):
        crash_and_call_again(tmp_path / "other", (Own, Own), (before, after))
    assert not crash_and_call_again(tmp_path / "told", (Own, Own), (before, after), resume=True)


def told() -> str:
    """What tells the recipes above."""
    return " ".join(
        _source.digest(_source.Teller()(list(options.values()))) for pair in RECIPES.values() for options in pair
    )


def test_another_process_tells_the_same() -> None:
    """With other addresses and another order of sets."""
    script = "from tests.test_identity import told; print(told())"
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )

    assert run.stdout.strip() == told()


def of(kind: Any, **options: Any) -> Any:
    return lambda model: {"optimizer": kind(model.parameters(), **options), "lr": None}


def in_groups(model: Any) -> dict[str, Any]:
    return {"optimizer": SGD([{"params": model.first.parameters()}, {"params": model.last.parameters()}], lr=0.1),
            "lr": None}  # fmt: skip


def backwards(model: nn.Module) -> dict[str, Any]:
    return {"optimizer": SGD(list(model.parameters())[::-1], lr=0.1), "lr": None}


def stepped(gamma: float) -> dict[str, Any]:
    return {"optimizer": "sgd", "schedule": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=gamma)}


OPTIMIZERS: dict[str, tuple[Any, Any, str]] = {
    "partials": (
        {"optimizer": partial(SGD, momentum=0.9)}, {"optimizer": partial(SGD, momentum=0.1)},
        "'momentum of group 0' was 0.9 and is 0.1",
    ),
    "class": ({"optimizer": partial(SGD)}, {"optimizer": partial(Adam)}, "'class of optimizer 0' was SGD and is Adam"),
    "instance": (of(SGD, lr=0.1), of(SGD, lr=0.5), "'lr of group 0' was 0.1 and is 0.5"),
    "groups": (of(SGD, lr=0.1), in_groups, r"'last.weight' was trained \(group 0\) and is trained \(group 1\)"),
    "order": (of(SGD, lr=0.1), backwards, "the optimizer had the parameters in another order"),
    "schedule": (stepped(0.5), stepped(0.9), "'gamma of schedule 0' was 0.5 and is 0.9"),
}  # fmt: skip


@pytest.mark.parametrize("resume", ["auto", True])
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_another_optimizer_is_refused_with_both_values(case: str, resume: Any, tmp_path: Path) -> None:
    """Instances, partials and functions are known by the optimizer that they are or make; no weight is changed."""
    before, after, message = OPTIMIZERS[case]

    assert crash_and_call_again(tmp_path / "same", (Own, Own), (before, before), resume=resume)
    with pytest.raises(ValueError, match=f"is of another run: {message}"):
        crash_and_call_again(tmp_path / "other", (Own, Own), (before, after), resume=resume)


@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
def test_an_optimizer_that_a_run_has_moved_is_no_other(schedule: str, tmp_path: Path) -> None:
    """The same call with the model and the optimizer that it has trained."""
    model = Own()
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path, "lr": None, "schedule": schedule}
    optimizer = SGD(model.parameters(), lr=0.1)
    history = quiet(model, blobs(), optimizer=optimizer, **options)

    assert quiet(model, blobs(), optimizer=optimizer, **options) == history


def loader(n: int = 100, **options: Any) -> dict[str, Any]:
    return {"train": DataLoader(TensorDataset(*blobs(n=n)), **options)}


def drawn(*indices: int) -> dict[str, Any]:
    return loader(batch_size=2, sampler=SubsetRandomSampler(indices, torch.Generator().manual_seed(1)))


SEQUENCE = BatchSampler(range(100), 10, drop_last=False)

LOADERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "batch size": (loader(batch_size=34), loader(batch_size=40), "the data's batch_size was 34 and is 40"),
    "length": (loader(100, batch_size=25), loader(90, batch_size=25), "the data's length was 100 and is 90"),
    "shuffle": (
        loader(batch_size=25), loader(batch_size=25, shuffle=True),
        "the data's sampler was 'SequentialSampler' and is 'RandomSampler'",
    ),
    "drop_last": (loader(batch_size=25), loader(batch_size=25, drop_last=True), "drop_last was False and is True"),
    "sampler": (drawn(1, 2, 3, 4), drawn(1, 2, 3, 4, 5), "the data's samples of an epoch was 4 and is 5"),
    "batch sampler": (
        loader(batch_sampler=SEQUENCE), loader(batch_sampler=BatchSampler(range(100), 20, drop_last=False)),
        "the data had 10 batches and has 5; the data's batch_size was 10 and is 20",
    ),
}  # fmt: skip


@pytest.mark.parametrize("resume", ["auto", True])
@pytest.mark.parametrize("case", LOADERS)
def test_another_loader_is_refused_with_both_values(case: str, resume: Any, tmp_path: Path) -> None:
    """Also where it has as many batches as before."""
    before, after, message = LOADERS[case]

    quiet(Own(), **before, epochs=1, checkpoint=tmp_path, schedule=None)
    with pytest.raises(ValueError, match=message):
        quiet(Own(), **after, epochs=2, checkpoint=tmp_path, schedule=None, resume=resume)


class OwnTensors(TensorDataset):
    """A dataset of tensors with code of its own."""


def changed() -> tuple[Tensor, Tensor]:
    inputs, targets = blobs()
    inputs[41, 3] += 1
    return inputs, targets


CONTENT: dict[str, Callable[[tuple[Tensor, Tensor]], Any]] = {
    "list": lambda pair: [pair, pair],
    "list of dicts of arrays": lambda pair: [({"input": pair[0].numpy()}, pair[1].numpy())],
    "loader": lambda pair: DataLoader(TensorDataset(*pair), batch_size=16),
    "loader of a part": lambda pair: DataLoader(Subset(TensorDataset(*pair), range(5, 50)), batch_size=16),
    "part": lambda pair: Subset(TensorDataset(*pair), np.arange(50).tolist()),
    "parts": lambda pair: ConcatDataset([TensorDataset(*pair), OwnTensors(*pair)]),
}


@pytest.mark.parametrize("case", CONTENT)
def test_the_values_of_tensors_count_wherever_they_are(case: str, tmp_path: Path) -> None:
    """In a list, a DataLoader, a part of a dataset; with True the run goes on."""
    make = CONTENT[case]
    model = nn.Linear(6, 3)
    start = copy.deepcopy(model)
    options: dict[str, Any] = {"epochs": 1, "checkpoint": tmp_path}

    history = quiet(model, make(blobs()), **options)
    assert quiet(copy.deepcopy(start), make(blobs()), **options) == history
    with pytest.raises(ValueError, match="the data changed since"):
        quiet(copy.deepcopy(start), make(changed()), **options)
    assert quiet(copy.deepcopy(start), make(changed()), resume=True, **options) == history


def test_other_orders_and_parts_are_other_data() -> None:
    """Indices of a part or a sampler, weights of one; the length of a dataset alone is no digest."""
    data = TensorDataset(*blobs())
    digests = [
        _facts.digest(made)
        for made in (
            data,
            Subset(data, [1, 2]),
            Subset(data, [1, 3]),
            DataLoader(data),
            DataLoader(data, sampler=SubsetRandomSampler([1, 2])),
            DataLoader(data, sampler=SubsetRandomSampler([1, 3])),
            DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler([2, 3]), 2, drop_last=False)),
            list(zip(*blobs(), strict=True)),
        )
    ]

    assert None not in digests
    assert len(set(digests)) == len(digests)
    assert _facts.digest(Subset(data, np.array([1, 2]))) == digests[1]  # type: ignore[arg-type]  # any sequence
    assert _facts.digest(Squares()) is None
    assert _facts.digest(DataLoader(Squares())) is None
    assert _facts.digest([object()]) is None
    assert _facts.digest(np.array(["a"])) is None
    assert _facts.digest(np.float32(1)) is not None


def test_a_stream_has_no_length(tmp_path: Path) -> None:
    """And is no digest either; a sampler that is no sampler of torch's is named."""

    class Batches:
        def __iter__(self) -> Any:
            yield [0, 1]

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from range(3)

    facts = _facts.loader_facts(DataLoader(Stream(), batch_size=2))
    assert facts["length"] is facts["samples of an epoch"] is None
    assert facts["batch_size"] == 2
    own: Any = Batches()
    assert _facts.loader_facts(DataLoader(Squares(), batch_sampler=own))["batch_sampler"] == "Batches"
    assert _facts.loader_facts([1]) == {}


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, inputs: Tensor) -> Any:
        return self.c(self.b(self.a(inputs).relu()))


class Unsaved(nn.Module):
    """A floating buffer that no state has."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(1), persistent=False)

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            self.mean += inputs.mean()
        return self.c(inputs)


@pytest.mark.parametrize("more", [{}, {"early_stopping": 1}], ids=str)
@pytest.mark.parametrize("kind", [Tied, Unsaved])
def test_the_average_of_any_model_is_known_again(kind: type[nn.Module], more: dict[str, Any], tmp_path: Path) -> None:
    """A finished run called again with its model; one with other weights is still refused."""
    model = kind()
    options: dict[str, Any] = {**more, "epochs": 3, "ema": 0.9, "checkpoint": tmp_path}
    history = quiet(model, blobs(), **options)
    result = copy.deepcopy(model)

    assert quiet(model, blobs(), **options) == history
    assert equal(model, result)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="the starting weights changed"):
        quiet(model, blobs(), **options)


@pytest.mark.parametrize("monitor", ["loss", "validation_loss", None])
def test_stopping_by_the_training_loss_does_not_look_at_validation_data(monitor: str | None, tmp_path: Path) -> None:
    """Other validation data go on where they are told to, and the best checkpoint stays the best; else they do not."""
    options: dict[str, Any] = {
        "schedule": None, "batch_size": 16, "checkpoint": tmp_path, "early_stopping": EarlyStopping(9, monitor),
    }  # fmt: skip
    start = Own()
    quiet(copy.deepcopy(start), blobs(), epochs=1, validation=blobs(n=9, seed=2), **options)
    best = newest(tmp_path)["callbacks"]["torchbasics.Checkpointer"]
    again = partial(quiet, start, blobs(), epochs=2, validation=blobs(n=9, seed=3), **options)

    with pytest.raises(ValueError, match="the validation data changed since" if monitor == "loss" else "other valida"):
        again()
    if monitor == "loss":
        with pytest.raises(CrashError):
            again(resume=True, checkpoint_every=1, callbacks=[CrashAt(6)])
        assert newest(tmp_path)["steps_done"] == 5
        assert newest(tmp_path)["callbacks"]["torchbasics.Checkpointer"] == best
    else:
        with pytest.raises(ValueError, match="early stopping would compare other validation data"):
            again(resume=True)


def right(outputs: Tensor, targets: Tensor) -> Any:
    return (outputs.argmax(1) == targets).double().mean()


def wrong(outputs: Tensor, targets: Tensor) -> Any:
    return (outputs.argmax(1) != targets).double().mean()


class Counted:
    """A metric with an attribute, which no one calls."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.total = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.total += int((outputs.softmax(1).amax(1) > self.least).sum())

    def compute(self) -> int:
        return self.total


@pytest.mark.parametrize("pair", [(right, wrong), (Counted(0.3), Counted(0.9))], ids=["function", "instance"])
def test_another_metric_under_the_same_name_waits_for_the_end_of_the_epoch(pair: Any, tmp_path: Path) -> None:
    """One epoch is not measured by two."""
    options: dict[str, Any] = {"epochs": 2, "schedule": None, "checkpoint": tmp_path, "checkpoint_every": 1}
    start = Own()
    with pytest.raises(CrashError):
        quiet(copy.deepcopy(start), blobs(), batch_size=16, metrics={"m": pair[0]}, callbacks=[CrashAt(3)], **options)

    with pytest.raises(ValueError, match=r"the code of the metrics \(in the middle of an epoch\) changed since"):
        quiet(copy.deepcopy(start), blobs(), batch_size=16, metrics={"m": pair[1]}, **options)
    model = copy.deepcopy(start)
    quiet(model, blobs(), batch_size=16, metrics={"m": pair[0]}, **{**options, "epochs": 1})
    history = quiet(copy.deepcopy(start), blobs(), batch_size=16, metrics={"m": pair[1]}, **options)
    assert len(history) == 2


BASE = """
class Own(nn.Linear):
    rates = [0.1]
    {decorator}
    def forward(self, inputs{argument}):
        return super().forward(inputs) * {factor}
"""


def without_a_file(*, decorator: str = "", argument: str = "", factor: str = "2.0", **replaced: str) -> str:
    text = BASE.format(decorator=decorator, argument=argument, factor=factor)
    for old, new in replaced.items():
        text = text.replace(old, new)
    space: dict[str, Any] = {"nn": nn, "torch": torch, "functools": functools, "__name__": "__main__"}
    exec(text, space)
    return _identity.source_digest(space["Own"](6, 3))


CACHE = "@functools.lru_cache"
AUTOCAST = "@torch.autocast('cpu', enabled=False)"
SOURCES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "default": ({"argument": ", p=0.1"}, {"argument": ", p=0.9"}),
    "default of a keyword": ({"argument": ", *, p=0.1"}, {"argument": ", *, p=0.9"}),
    "decorated": ({"decorator": AUTOCAST}, {"decorator": AUTOCAST, "factor": "3.0"}),
    "decorated by compiled code": ({"decorator": CACHE}, {"decorator": CACHE, "factor": "3.0"}),
    "no longer decorated": ({"decorator": CACHE}, {}),
    "set": ({"factor": "(1 in {1, 2})"}, {"factor": "(1 in {1, 3})"}),
    "list": ({}, {"rates": "others"}),
    "list's values": ({"0.1": "0.1"}, {"0.1": "0.9"}),
    "closure": ({"factor": "(lambda: inputs)()"}, {"factor": "(lambda: -inputs)()"}),
    "property": (
        {"rates = [0.1]": "x = property(lambda self: 1)"}, {"rates = [0.1]": "x = property(lambda self: 2)"}
    ),
    "static": ({"rates = [0.1]": "x = staticmethod(len)"}, {"rates = [0.1]": "x = staticmethod(sum)"}),
    "tensor": ({"rates = [0.1]": "x = torch.zeros(3)"}, {"rates = [0.1]": "x = torch.ones(3)"}),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCES)
def test_all_that_a_class_without_a_file_does_is_its_source(case: str) -> None:
    """Defaults, decorated bodies, sets, lists and closures; comments are not, nor lines."""
    before, after = SOURCES[case]

    assert without_a_file(**before) == without_a_file(**before)
    assert without_a_file(**before) != without_a_file(**after)
    assert without_a_file() == without_a_file(rates="# a comment\n    rates")


def test_where_a_class_stands_is_not_its_source() -> None:
    """What Python 3.13 and 3.14 add to a class."""
    made = type("Own", (nn.Linear,), {"__module__": "__main__"})
    before = _identity.source_digest(made(6, 3))
    more = {"__firstlineno__": 7, "__static_attributes__": ("a",), "__annotate_func__": lambda kind: {}}
    other = type("Own", (nn.Linear,), {"__module__": "__main__", **more})

    assert _identity.source_digest(other(6, 3)) == before


class Logger:
    """What is different in each process."""

    def __init__(self) -> None:
        self.token = object()

    def write(self, text: str) -> None:
        raise NotImplementedError


def test_what_is_told_of_a_value() -> None:
    """Loggers are known by their class; cycles end; the same values give the same text in any order of a set."""
    tell = _source.Teller()
    circle: list[Any] = [1]
    circle.append(circle)

    def closure(value: Any) -> Any:
        return lambda: value

    def unfilled() -> str:
        text = tell(lambda: later)
        later: int = 1
        return text

    assert tell(Logger()) == tell(Logger())
    assert tell(closure(Logger())) == tell(closure(Logger()))
    assert tell(closure(1)) != tell(closure(2))
    assert tell(closure(np.zeros(3))) != tell(closure(np.ones(3)))
    assert tell(closure(np.array([None]))) == tell(closure(np.array([None])))
    assert tell(closure(Adam([torch.zeros(1)]))) == tell(closure(Adam([torch.ones(1)])))
    assert tell(circle) == "[1, itself]"
    assert tell({"b", "a"}) == tell({"a", "b"}) == "{'a', 'b'}"
    assert tell(torch.sin).endswith("sin")
    assert tell(functional.mse_loss) == "torch.nn.functional.mse_loss None"
    assert "'later': None" in unfilled()


def test_a_step_is_told_without_what_binding_gave_it() -> None:
    """The names that the steps of the library hold once they are bound are those that are left out."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = nn.Linear(2, 6), nn.Linear(6, 1)

        def noise(self, n: int) -> Tensor:
            return torch.randn(n, 2)

    steps = [Supervised(), Adversarial()]
    for step, model, data in zip(steps, (Own(), Pair()), (blobs(), blobs()[0]), strict=True):
        before = set(vars(step))
        quiet(model, data, epochs=1, step=step)
        assert set(vars(step)) - before - {"late"} <= _source.BOUND


class Plain(Dataset[Any]):
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> Any:
        inputs, targets = blobs()
        return inputs[i] * self.factor, targets[i]


def test_other_datasets_are_known_by_their_length_alone(tmp_path: Path) -> None:
    """As the documentation says."""
    start = Own()
    quiet(copy.deepcopy(start), Plain(1.0), epochs=1, schedule=None, checkpoint=tmp_path)

    assert len(quiet(copy.deepcopy(start), Plain(2.0), epochs=2, schedule=None, checkpoint=tmp_path)) == 2
    assert "other Datasets by length alone" in " ".join((fit.__doc__ or "").split())


def test_a_random_order_of_batches_is_described() -> None:
    """By the sampler beneath the batches."""
    data = TensorDataset(*blobs())
    made = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 7, drop_last=True))

    assert _facts.loader_facts(made) == {
        "length": 60, "batch_size": 7, "drop_last": True, "sampler": "RandomSampler", "samples of an epoch": 60,
    }  # fmt: skip
