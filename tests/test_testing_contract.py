"""The contract of models: a good one of a user's keeps it, and for each check there is one that breaks just this."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics import _zoo, models
from torchbasics.testing import CHECKS, ContractError, check_model, digest
from torchbasics.training._random import get_state

SHAPE = (2, 4, 4)
FAST = ("onnx",)  # the one check that takes a second; `test_a_well_behaved_model_passes` has it
TOOLS = ("export", "compile", "onnx")
COUNT = itertools.count()


class Net(nn.Module):
    """What a user has written, and knows nothing of this package: images (N, 2, 4, 4) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Any:
        return self.linear(functional.dropout(self.norm(self.conv(x)).relu().flatten(1), 0.1, self.training))


class Textual(Net):
    def forward(self, x: Tensor) -> Any:
        return "cat"


class Flat(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).flatten()


class Infinite(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) - float("inf")


class Squeezed(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).squeeze()


class Largest(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y + 0 * y.max()


class Mixed(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y + y.mean(0)


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x.view(-1).view(x.shape))


class ViewedInside(Net):
    def forward(self, x: Tensor) -> Any:
        return self.linear(self.norm(self.conv(x)).view(x.shape[0], 48))


class Single(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).float()


class Summed(Net):
    def forward(self, x: Tensor) -> Any:
        return x.new_zeros(x.shape[0], 5).index_add(0, torch.arange(x.shape[0]), super().forward(x))


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)  # type: ignore[operator]  # a tensor
        return super().forward(x)


class Waking(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        self.conv.train()  # without effect on what comes out
        return y


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.gate = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * self.gate.clamp(2, 3)  # with the gradient zero at 1


class Unequal(Net):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.linear.bias, next(COUNT))


class Writing(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.relu_())


class Requiring(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x if torch.compiler.is_compiling() else x.requires_grad_())


class Seeding(Net):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()


class SeedingLater(Net):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            random.seed(0)
        return super().forward(x)


class Drawing(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + 0 * torch.rand(5)


class Setting(Net):
    def __init__(self) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)


class Placing(Net):
    def __init__(self) -> None:
        super().__init__()
        torch.set_default_device("meta")


class SettingLater(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        torch.set_grad_enabled(self.training)
        return y


class Unpicklable(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale: Any = lambda x: x * 2

    def forward(self, x: Tensor) -> Any:
        return self.scale(super().forward(x))


class Shared(Net):
    def __deepcopy__(self, memo: Any) -> Shared:
        return copy.copy(self)


class Holding(Net):
    def __init__(self) -> None:
        super().__init__()
        self.held = [self.linear.bias]

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + self.held[0]


class Doubling(Net):
    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = 2 * slope

    @property
    def config(self) -> dict[str, Any]:
        return {"slope": self.slope}


class Growing(Doubling):
    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.linear = nn.Linear(48, 5 + next(COUNT))


class Forgetting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(5), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * self.mask


class Special(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + (2 if x.shape[0] == 3 else 1) * 0


class Opening(Net):
    def forward(self, x: Tensor) -> Any:
        Path(__file__).open().close()
        return super().forward(x)


class Bessel(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + torch.special.bessel_j1(x.detach()).mean(1, keepdim=True)


class Asking(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = self.linear.weight.std().item()


class Renamed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = self.linear
        del self.linear

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.norm(self.conv(x)).relu().flatten(1))


class Reordered(Net):
    def __init__(self) -> None:
        super().__init__()
        conv = self.conv
        del self.conv
        self.conv = conv


class Listing(Net):
    def __init__(self) -> None:
        super().__init__()
        self.heads = [nn.Linear(5, 5)]

    def forward(self, x: Tensor) -> Any:
        return self.heads[0](super().forward(x))


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


ONE = Net()
BROKEN: list[tuple[str, Callable[[], nn.Module], str]] = [
    ("forward", Textual, "the output holds no tensor in eval mode; forward takes a batch and returns tensors"),
    ("shapes", Flat, "output 0 has shape (15,) for 3 samples, and (25,) for 5; keep one dimension"),
    ("finite", Infinite, "output 0 has 20 of 20 values that are NaN or infinite; look for"),
    ("batch_of_one", Squeezed, "output 0 has shape (5,), not (1, 5), for a batch of 1; keep the batch dimension"),
    ("empty_batch", Largest, "RuntimeError: max(): Expected reduction dim to be specified"),
    ("independence", Mixed, "for a sample with other samples beside it, output 0 differs by"),
    ("non_contiguous", Viewed, "RuntimeError: view size is not compatible with input tensor's size and stride"),
    ("channels_last", ViewedInside, "RuntimeError: view size is not compatible with input tensor's size and stride"),
    ("float64", Single, "output 0 is torch.float32 of a float64 model; make tensors of the inputs' dtype"),
    ("autocast", Summed, "RuntimeError: "),
    ("repeatable", Counting, "forward changes the buffers 'calls' in eval mode; in eval mode, change no buffer"),
    ("repeatable", Waking, "forward puts 'conv' into training mode; in eval mode, change no buffer, mode"),
    ("gradients", Unused, "'head.weight', 'head.bias' get no gradient; 'gate' get a gradient of zeros; use each"),
    ("seed", Unequal, "two models made from one seed differ in 'linear.bias'; draw initial values from"),
    ("inputs_untouched", Writing, "in eval mode, forward or backward writes to the inputs; work on a new tensor"),
    ("inputs_untouched", Requiring, "in eval mode, forward changes requires_grad of the inputs to True; work on"),
    ("rng_untouched", Seeding, "making the model seeds the global generator of 'torch'"),
    ("rng_untouched", SeedingLater, "forward in training mode seeds the global generator of 'python'; leave seeding"),
    ("rng_untouched", Drawing, "forward in eval mode draws from the global generator of 'torch'; leave seeding"),
    ("settings_untouched", Setting, "making the model changes the default dtype from torch.float32 to torch.float64"),
    ("settings_untouched", SettingLater, "forward in eval mode changes the grad mode from True to False; leave them"),
    ("pickle", Unpicklable, "<lambda>"),
    ("deepcopy", Shared, "in the copy once the original's parameters have changed, output 0 differs by"),
    ("functional_call", Holding, "on parameters from outside, output 0 differs by"),
    ("config", Doubling, "the config {'slope': 2.0} comes back as {'slope': 4.0}; store every constructor argument"),
    ("save", Forgetting, "from its file, output 0 differs by"),
    ("export", Special, "Constraints violated"),
    ("compile", Opening, "Unsupported: "),
    ("onnx", lambda: Bessel(6, 5), "torch cannot write the model as ONNX: "),
    ("meta", Asking, "RuntimeError: "),
    ("keys", Renamed, "it lacks 'linear.weight', 'linear.bias'; it has 'classifier.weight', 'classifier.bias' beside"),
    ("keys", Reordered, "'norm.weight' stands in the place of 'conv.weight', and optimizers go by the order; keep"),
]


def test_one_check_finds_what_changes_its_inputs_for_good() -> None:
    """Not all that give the same inputs to a model twice."""
    with pytest.raises(ContractError) as caught:
        check_model(lambda: Twice(6, 5), (6,), skip=FAST)

    assert caught.value.report.names("failed") == ["inputs_untouched"]


def test_inputs_whose_values_share_memory_are_taken() -> None:
    """As a draw may expand them."""
    report = check_model(
        lambda: nn.Linear(6, 5), (6,), draw=lambda shape: torch.randn(shape[-1]).expand(shape), skip=FAST
    )

    assert report.passed


def test_layers_in_a_list_are_named() -> None:
    """They break several checks, of which one says why."""
    with pytest.raises(ContractError) as caught:
        check_model(Listing, SHAPE, skip=FAST)

    assert {"gradients", "save"} <= set(caught.value.report.names("failed"))
    assert "gradients: self.heads holds layers or parameters that the model does not know of" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "make", "message"), BROKEN, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(BROKEN)]
)
def test_each_check_finds_what_breaks_it(name: str, make: Callable[[], nn.Module], message: str) -> None:
    """Of a model with one mistake, one check is red: it says what was wrong, and what to do."""
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    shape = (6,) if name in ("non_contiguous", "onnx") else SHAPE
    keys = list(Net().state_dict()) if name == "keys" else None
    with pytest.raises(ContractError) as caught:
        check_model(make, shape, keys=keys, skip=() if name == "onnx" else FAST)

    report = caught.value.report
    assert report.names("failed") == [name]
    assert message in str(caught.value)
    if name == "forward":
        assert report.names("passed") == []


def test_every_check_is_seen_red() -> None:
    """No check is without a model that breaks it, and the docstring names them all."""
    assert {name for name, _, _ in BROKEN} == set(CHECKS)
    assert [name for name in CHECKS if f"``{name}``" not in str(check_model.__doc__).replace("device ``", "``")] == []


def test_a_well_behaved_model_passes() -> None:
    """Of a plain module only that is skipped which needs more than a module."""
    report = check_model(Net, SHAPE, keys=list(Net().state_dict()))

    assert [result.name for result in report.results] == list(CHECKS)
    assert set(report.names("skipped")) - {"onnx"} == {"config"}  # ONNX is there with an extra
    assert "skipped config: Net is not registered, and has no mapping .config" in repr(report)


class Scaled(nn.Module):
    """A citizen, in a list of whose layers nothing is a tuple."""

    def __init__(self, sizes: tuple[int, ...] = (6, 3), *, scale: float = 2.0) -> None:
        super().__init__()
        self.sizes = sizes
        self.scale = scale
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))

    def forward(self, x: Tensor) -> Any:
        return self.layers(x) * self.scale


def test_a_registered_model_is_saved_whole() -> None:
    """Its config and its file are looked at; one that does not store an argument is told so."""
    models.register("scaled")(Scaled)
    try:
        assert set(check_model(Scaled, (6,), skip=TOOLS).names("skipped")) == {"channels_last", *TOOLS, "keys"}
        with pytest.raises(ContractError) as caught:
            check_model(without_sizes, (6,), skip=TOOLS)
    finally:
        _zoo.forget("scaled")
    assert caught.value.report.names("failed") == ["config", "save"]
    assert "TypeError: Scaled does not store its argument 'sizes'; add self.sizes = sizes" in str(caught.value)


def without_sizes() -> nn.Module:
    model = Scaled()
    del model.sizes
    return model


def tokens(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(9, shape)


class Tagger(nn.Module):
    """Tokens (N, T) -> scores by name, tags without gradient, and the number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.scores = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Any:
        scores = self.scores(self.embedding(x))
        return {"scores": scores, "tags": [scores.argmax(-1)], "steps": torch.tensor(x.shape[1], device=x.device)}


class Starting(Net):
    """Starts at zero, as residual branches do: a loss of squares would have no gradient at all."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


@pytest.mark.parametrize(
    ("make", "shape", "options"),
    [
        pytest.param(
            lambda: nn.LSTM(3, 4, 2),
            (5, 3),
            {"batch_dim": 1, "skip": TOOLS},  # not every torch exports or compiles its own
            id="tuples, and the batch second",
        ),
        pytest.param(Tagger, (7,), {"draw": tokens}, id="tokens, lazy layers, nested and integer outputs"),
        pytest.param(lambda: nn.Linear(3, 2).double(), (3,), {}, id="float64"),
        pytest.param(lambda: nn.Linear(3, 2).bfloat16(), (3,), {"skip": ["onnx"]}, id="bfloat16"),
        pytest.param(Starting, SHAPE, {}, id="a last layer of zeros"),
        pytest.param(lambda: nn.LazyLinear(2), (3,), {}, id="lazy layers alone"),
        pytest.param(nn.Tanh, (), {}, id="scalars, no parameters"),
        pytest.param(lambda: nn.Conv3d(1, 2, 3), (1, 4, 4, 4), {}, id="volumes"),
    ],
)
def test_models_of_all_kinds_pass(make: Callable[[], nn.Module], shape: tuple[int, ...], options: Any) -> None:
    """What a model takes and returns is up to it."""
    report = check_model(make, shape, **{"skip": FAST, **options})

    assert report.passed


def test_a_gradient_can_need_more_than_the_call() -> None:
    """With a loss of one's own, parameters that the call does not use get theirs."""

    def loss(model: Any, inputs: Tensor) -> Tensor:
        total: Tensor = model(inputs).sum() + model.head.weight.sum() + model.head.bias.sum() + model.gate.sum()
        return total

    assert check_model(Unused, SHAPE, loss=loss, skip=TOOLS).passed


class Hopeless(Seeding, Flat):
    """Breaks two checks."""


def test_all_failures_come_in_one_error() -> None:
    """It has a line for each, can be caught as a failed assertion, passed between processes, and leads to the first."""
    with pytest.raises(AssertionError, match=r"Hopeless fails 2 of 18 checks\n  shapes: .*\n  rng_") as caught:
        check_model(Hopeless, SHAPE, skip=TOOLS)

    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert isinstance(again, ContractError)
    assert repr(again.report).startswith("Hopeless: 16 passed, 2 failed, 8 skipped\n  failed shapes: output 0 has")
    assert str(caught.value.__cause__).startswith("output 0 has shape")
    with pytest.raises(
        ContractError, match=r"forward: RuntimeError: (addmm: )?mat1 and mat2 shapes cannot be"
    ) as caught:
        check_model(Net, (2, 5, 5), skip=("onnx",))
    assert {r.reason for r in caught.value.report.results[1:]} == {"forward failed", "left out by skip="}


class Rude(Net):
    """Leaves nothing as it was."""

    def __init__(self) -> None:
        super().__init__()
        self._upset()

    def forward(self, x: Tensor) -> Any:
        self._upset()
        return super().forward(x)

    def _upset(self) -> None:
        random.seed(1)
        torch.manual_seed(1)
        torch.rand(3)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.use_deterministic_algorithms(True, warn_only=True)


def test_the_caller_s_process_stays_as_it_was() -> None:
    """Random generators, settings and grad mode are put back, whatever the model does to them."""

    def now() -> tuple[Any, ...]:
        made = torch.empty(0)
        return digest(get_state()), made.dtype, made.device, torch.get_num_threads(), torch.is_grad_enabled()

    before = now()
    with torch.no_grad(), pytest.raises(ContractError) as caught:
        check_model(Rude, SHAPE, skip=TOOLS)
    with pytest.raises(ContractError, match=r"changes the default device from None to device\(type='meta'\)"):
        check_model(Placing, SHAPE, skip=(*TOOLS, "meta"))  # torch 2.6 cannot set a default inside another
    with torch.inference_mode():
        assert check_model(Net, SHAPE, skip=TOOLS).passed
        assert torch.is_inference_mode_enabled()

    assert caught.value.report.names("failed") == ["rng_untouched", "settings_untouched"]
    assert now() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_tolerance_of_one_s_own_decides() -> None:
    """Nothing passes where no rounding is allowed; all passes where everything is."""
    with pytest.raises(ContractError, match=r"differs by .* of its largest value, and may not at all"):
        check_model(Net, SHAPE, tolerance=0, skip=TOOLS)
    assert check_model(Mixed, SHAPE, tolerance=10, skip=TOOLS).passed


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_what_is_not_installed_is_skipped(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says what is missing."""
    monkeypatch.setitem(sys.modules, module, None)
    report = check_model(lambda: nn.Linear(3, 2), (3,), skip=sorted({*CHECKS} - {"onnx"}))

    missing = {"onnx", "onnxscript", "onnxruntime"} - {m for m in sys.modules if sys.modules[m] is not None}
    assert any(f"skipped onnx: {name} is not installed" in repr(report) for name in {module} | missing)


@pytest.mark.parametrize(
    ("make", "shape", "options", "kind", "message"),
    [
        (Net, SHAPE, {"skip": ("onx",)}, ValueError, "unknown check 'onx'; did you mean 'onnx'?"),
        (Net, SHAPE, {"skip": "onnx"}, TypeError, r"skip must be a tuple of names, such as \('onnx',\), got 'onnx'"),
        (Net, (2, 0), {}, ValueError, r"input_shape\[1\] must be at least 1, got 0"),
        (Net, SHAPE, {"batch_dim": 4}, ValueError, r"at most 3 for samples of shape \(2, 4, 4\), got 4"),
        (Net, SHAPE, {"batch_dim": -1}, ValueError, "batch_dim must be at least 0, got -1"),
        (lambda: "net", SHAPE, {}, TypeError, "make must return a module, got str"),
        (Net(), SHAPE, {}, TypeError, "make must be a class, or a function without arguments, .*, got a Net"),
        ("net", SHAPE, {}, TypeError, "make must be a class, or a function without arguments, .*, got 'net'"),
        (Net, 8, {}, TypeError, r"input_shape must be a tuple, the shape of one sample, such as \(1, 28, 28\), got 8"),
        (lambda: ONE, SHAPE, {}, ValueError, "a new module at each call, and returns one Net again"),
    ],
)
def test_what_cannot_be_checked_is_refused(make: Any, shape: Any, options: Any, kind: Any, message: str) -> None:
    """Before anything is run, in words that name the value."""
    with pytest.raises(kind, match=message):
        check_model(make, shape, **options)
