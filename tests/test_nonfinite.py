"""A loss or a gradient that is not finite: stopped before the update, undone, explained."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from tests.helpers import blobs, equal, newest, small_images
from torchbasics import _model, models, training
from torchbasics.training import Adversarial, NonFiniteError, Recipe, State, Step, Supervised, _finite, fit

if TYPE_CHECKING:
    from pathlib import Path

quiet = partial(fit, progress=False, batch_size=5, lr=0.01, shuffle=False)


class Keep:
    """A callback that keeps a copy of the model after each step."""

    def __init__(self) -> None:
        self.models: dict[int, nn.Module] = {}

    def on_step(self, state: State) -> None:
        self.models[state.step] = copy.deepcopy(state.model)


class Poisoned(Dataset[Any]):
    """Blobs of which one sample has another first value."""

    def __init__(self, sample: int, value: float = math.nan) -> None:
        self.inputs, self.targets = blobs(n=40)
        self.sample, self.value = sample, value

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> Any:
        inputs = self.inputs[i].clone()
        if i == self.sample:
            inputs[0] = self.value
        return inputs, self.targets[i]


class _Spoil(torch.autograd.Function):
    """The identity, whose gradient is nan where an input was huge."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(max=10)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return torch.where(x > 1e3, math.nan, grads[0])


class Spoil(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return _Spoil.apply(x)


def spoiled() -> nn.Module:
    """A model whose loss is finite and whose gradient is not, for huge inputs."""
    torch.manual_seed(0)
    first = nn.Linear(6, 8)
    nn.init.ones_(first.weight)
    return nn.Sequential(nn.Sequential(first, Spoil()), nn.BatchNorm1d(8), nn.Linear(8, 3))


def make(norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return models.MLP(6, (8, 5), 3, dropout=0.3, batch_norm=norm)


OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam"},
    "clipped": {"clip_norm": 1.0},
    "accumulated": {"accumulate": 2},
    "averaged": {"ema": 0.9},
    "bfloat16": {"precision": "bfloat16"},
    "early stopping": {"early_stopping": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sample", [2, 13, 39])
def test_a_poisoned_batch_stops_before_the_update(sample: int, options: dict[str, Any]) -> None:
    """In the first, a middle and the last step: parameters and batch-norm statistics are those before it."""
    model, keep = make(), Keep()
    keep.models[0] = copy.deepcopy(model)
    bad = sample // 5 + 1

    with pytest.raises(NonFiniteError, match=f"the loss is nan at step {bad}, epoch 1, on samples") as caught:
        quiet(model, Poisoned(sample), epochs=2, callbacks=[keep], **options)

    error = caught.value
    assert (error.step, error.epoch, error.learning_rate) == (bad, 1, 0.01)
    assert error.indices == list(range(5 * bad - 5, 5 * bad))
    assert error.module == "net.0"
    assert error.gradient_norm is not None
    assert f"the inputs of samples [{sample}], then the output of 'net.0'" in str(error)
    assert equal(model, keep.models[bad - 1])
    assert max(keep.models) == bad - 1
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_without_putting_buffers_back_the_comparison_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: the forward pass has moved the statistics."""
    model, keep = make(), Keep()
    monkeypatch.setattr(_model.Buffers, "restore", lambda self: None)

    with pytest.raises(NonFiniteError):
        quiet(model, Poisoned(13), epochs=1, callbacks=[keep])

    assert not equal(model, keep.models[2])


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"accumulate": 2}], ids=str)
def test_a_gradient_that_is_not_finite_stops_the_update_too(options: dict[str, Any]) -> None:
    """The loss is finite; the module is the one whose gradient is wrong."""
    model, keep = spoiled(), Keep()
    quiet(copy.deepcopy(model), Poisoned(-1), epochs=1, optimizer="sgd", **options)

    with pytest.raises(NonFiniteError, match="the loss is finite, but a gradient is not, at step 3") as caught:
        quiet(model, Poisoned(13, 1e9), epochs=1, optimizer="sgd", callbacks=[keep], **options)

    assert caught.value.module == "0.0"
    assert "first not finite: the gradient of '0.0'" in str(caught.value)
    assert math.isnan(caught.value.gradient_norm or 0)
    assert equal(model, keep.models[2])


def test_without_the_check_of_gradients_the_weights_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: nothing else stops that update."""
    model = spoiled()
    monkeypatch.setattr("torchbasics.training._step.check_gradients", lambda *_: None)

    with pytest.raises(NonFiniteError, match="the loss is nan at step 4"):
        quiet(model, Poisoned(13, 1e9), epochs=1, optimizer="sgd")

    assert any(p.isnan().any() for p in model.parameters())


def test_a_gradient_of_parameters_alone_is_named() -> None:
    """No output has a gradient that is not finite: the parameter's own has."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale.sqrt()

    model = nn.Sequential(nn.Linear(6, 3), Root())

    with pytest.raises(NonFiniteError, match="first not finite: a gradient of '1'") as caught:
        quiet(model, *blobs(), epochs=1)

    assert caught.value.module == "1"
    assert caught.value.gradient_norm == math.inf


def test_a_loss_of_ones_own_can_be_at_fault() -> None:
    """All outputs are finite: no module is named."""
    model = nn.Linear(6, 3)

    with pytest.raises(NonFiniteError, match="first not finite: the loss itself, from finite outputs") as caught:
        quiet(model, *blobs(), epochs=1, loss=lambda outputs, targets: (outputs.sum() * 0).log())

    assert caught.value.module is None
    assert caught.value.step == 1


def test_batches_without_indices_have_none() -> None:
    """A list of batches knows no samples."""
    inputs, targets = blobs()

    with pytest.raises(NonFiniteError, match=r"the loss is nan at step 2, epoch 1, learning rate 0.1") as caught:
        fit(nn.Linear(6, 3), [(inputs, targets), (inputs * math.inf, targets)], epochs=1, lr=0.1, progress=False)

    assert caught.value.indices is None


def test_huge_but_finite_gradients_are_applied() -> None:
    """A sum of finite numbers can be infinite; that stops nothing."""
    model = nn.Linear(6, 3, bias=False)
    nn.init.zeros_(model.weight)

    def steep(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        weight: Tensor = model.weight  # type: ignore[assignment]
        return (weight * 2e38).sum()

    quiet(model, *blobs(n=5), epochs=1, step=steep, lr=1e-38, optimizer="sgd")

    assert model.weight.grad is not None
    assert model.weight.grad.sum().isinf()
    torch.testing.assert_close(model.weight, torch.full((3, 6), -2.0))


def test_sparse_gradients_are_looked_at_too() -> None:
    """An embedding with sparse=True."""
    tokens, targets = torch.arange(40).view(20, 2) % 7, torch.arange(20) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))

    history = quiet(model, tokens, targets, epochs=3, optimizer="sgd")
    with torch.no_grad():
        model[0].weight[3] = math.inf  # type: ignore[operator]

    assert history[-1]["loss"] < history[0]["loss"]
    with pytest.raises(NonFiniteError, match="the output of '0'"):
        quiet(model, tokens, targets, epochs=1, optimizer="sgd")


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_overflows_under_float16_are_left_out_as_usual(schedule: Any) -> None:
    """The scaler lowers its scale; the update is not applied, and nothing is raised, nor warned of."""
    model, keep = make(norm=False), Keep()
    before = copy.deepcopy(model)
    start = torch.amp.GradScaler("cpu").get_scale()
    scales = []

    class Scales(Supervised):
        def update(self, batch: Any) -> Any:
            result = super().update(batch)
            scales.append(self.scaler.get_scale())
            return result

    steep = Scales(lambda model, x, y: functional.cross_entropy(model(x), y) * 1e4)
    quiet(
        model, *blobs(), epochs=1, step=steep, precision="float16", optimizer="sgd", schedule=schedule, callbacks=[keep]
    )

    assert scales[0] == start / 2
    assert equal(before, keep.models[1])


def weights_equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"accumulate": 2}], ids=str)
def test_gradients_that_are_nan_at_any_scale_stop_float16_too(options: dict[str, Any]) -> None:
    """Leaving out the updates would train nothing, for ever; the module is named as under float32."""
    model = spoiled()
    before, batches = copy.deepcopy(model), (torch.full((20, 6), 1e4), torch.arange(20) % 3)

    with pytest.raises(NonFiniteError, match="the loss is finite, but a gradient is not, at step 32") as caught:
        quiet(model, batches, epochs=40, precision="float16", optimizer="sgd", **options)

    assert caught.value.module == "0.0"
    assert weights_equal(model, before)


def test_without_a_least_scale_a_run_that_trains_nothing_is_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: forty epochs, each update left out."""
    model = spoiled()
    before = copy.deepcopy(model)
    monkeypatch.setattr("torchbasics.training._step.LEAST_SCALE", 0.0)

    history = quiet(model, torch.full((20, 6), 1e4), torch.arange(20) % 3, epochs=40, precision="float16")

    assert len(history) == 40
    assert weights_equal(model, before)


def test_a_small_scale_alone_stops_nothing() -> None:
    """As long as the gradients are finite with it."""

    class Small(Supervised):
        def start(self, steps: int | None) -> None:
            super().start(steps)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-15)

    model = make(norm=False)
    before = copy.deepcopy(model)

    quiet(model, *blobs(), epochs=1, step=Small(), precision="float16")

    assert not equal(model, before)


class Counts(nn.Linear):
    """Its third forward pass gives nan: that of the third step, and no other."""

    passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += self.training
        return super().forward(inputs) * (math.nan if self.passes == 3 and self.training else 1)


def test_a_step_that_cannot_be_repeated_is_not_explained() -> None:
    """No loss is blamed that came out finite, and no norm is told of gradients that were."""
    told = r"learning rate 0\.01; the step could not be repeated, it depends on more than its batch, the model and"

    with pytest.raises(NonFiniteError, match=told) as caught:
        quiet(Counts(6, 3), *blobs(), epochs=1)

    assert caught.value.step == 3
    assert caught.value.module is None
    assert caught.value.gradient_norm is None
    assert "first not finite" not in str(caught.value)


def test_the_replay_draws_the_same_random_numbers() -> None:
    """The step is made again with the generator as it was, so dropout drops the same."""
    drawn = []

    class Draws(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            drawn.append(torch.rand(()).item())
            return super().forward(x)

    with pytest.raises(NonFiniteError):
        quiet(Draws(6, 3), Poisoned(13), epochs=1)

    assert drawn[-1] == drawn[-2]
    assert drawn[-2] != drawn[-3]


class Flaky(Adversarial):
    """The generator's loss is nan in the third update, once."""

    calls = 0

    def _fool(self, made: Tensor) -> Tensor:
        self.calls += 1
        return super()._fool(made) * (math.nan if self.calls == 4 else 1)  # the first call is fit's own check


def test_both_halves_of_an_adversarial_update_are_undone() -> None:
    """The discriminator had already learnt from the batch; and a fault that does not come again changes nothing."""
    torch.manual_seed(0)
    model, keep = models.DCGAN(latent_dim=8, width=4, depth=1), Keep()

    with pytest.raises(NonFiniteError, match="the loss is nan at step 3"):
        fit(model, small_images(size=16), epochs=1, batch_size=8, step=Flaky(), callbacks=[keep], progress=False)

    assert equal(model, keep.models[2])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("bad", [1, 3])
def test_what_both_optimizers_have_gathered_is_undone(bad: int) -> None:
    """Adam's averages of the discriminator, too: none before the first update."""
    torch.manual_seed(0)
    model, step = models.DCGAN(latent_dim=8, width=4, depth=1), Flaky()
    step.calls = 3 - bad
    gathered: list[Any] = [[{"state": {}}, {"state": {}}]]

    class Gathered:
        def on_step(self, state: State) -> None:
            gathered.append(copy.deepcopy([optimizer.state_dict() for optimizer in step.optimizers]))

    with pytest.raises(NonFiniteError, match=f"the loss is nan at step {bad}"):
        fit(model, small_images(size=16), epochs=1, batch_size=8, step=step, callbacks=[Gathered()], progress=False)

    assert len(gathered) == bad
    for before, optimizer in zip(gathered[-1], step.optimizers, strict=True):
        torch.testing.assert_close(optimizer.state_dict()["state"], before["state"], rtol=0, atol=0)


def test_without_undoing_the_optimizers_the_comparison_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control."""
    monkeypatch.setattr(_finite.Before, "restore", lambda self: None)

    with pytest.raises(AssertionError):
        test_what_both_optimizers_have_gathered_is_undone(3)


class Judge(nn.Module):
    """Spoils images that a gradient flows to: those that are to fool the discriminator."""

    spoils = False

    def forward(self, images: Tensor) -> Tensor:
        return images * math.nan if self.spoils and images.requires_grad else images


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_second_half_of_an_update_is_explained_too(precision: Any) -> None:
    """Under float16 the scaler has already taken the discriminator's update."""
    torch.manual_seed(0)
    model, judge = models.DCGAN(latent_dim=8, width=4, depth=1), Judge()
    model.discriminator = nn.Sequential(judge, model.discriminator)  # type: ignore[assignment]  # another module

    class Begin:
        def on_step(self, state: State) -> None:
            judge.spoils = state.step == 2

    with pytest.raises(NonFiniteError, match="at step 3") as caught:
        fit(
            model, small_images(size=16), epochs=1, batch_size=8, precision=precision, callbacks=[Begin()],
            progress=False,
        )  # fmt: skip

    assert caught.value.module == "discriminator.0"


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.norm(self.second(self.first(x))))


@pytest.mark.parametrize("fault", [None, RuntimeError, KeyboardInterrupt], ids=str)
def test_a_replay_puts_all_back_whatever_comes_of_it(fault: Any) -> None:
    """Weights that are shared; a hook of the user's that fails when the step is made again; a second Ctrl-C."""
    torch.manual_seed(0)
    model, keep, failed = Tied(), Keep(), []
    assert model.first.weight is model.second.weight

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.isnan().any():
            failed.append(1)
            if len(failed) == 2 and fault is not None:
                raise fault

    model.last.register_forward_hook(hook)
    with pytest.raises(KeyboardInterrupt if fault is KeyboardInterrupt else NonFiniteError):
        quiet(model, Poisoned(13), epochs=1, callbacks=[keep])

    assert len(failed) == 2
    assert equal(model, keep.models[2])
    assert model.first.weight is model.second.weight
    assert len(model.last._forward_hooks) == 1
    assert not model.first._forward_hooks
    assert all(p.grad is None for p in model.parameters())


class Own(Step):
    """A step of a user's own, from the base's two verbs."""

    def start(self, steps: int | None) -> None:
        self.optimizer = self.add_optimizer(self.model.parameters(), steps)

    def update(self, batch: Any) -> training.Result:
        self.optimizer.zero_grad()
        loss = self.backward(self.model(batch.inputs).square().mean())
        self.apply(self.optimizer)
        return training.Result({"loss": loss}, batch.size)

    def evaluate(self, batch: Any) -> training.Result:
        return training.Result({"loss": self.model(batch.inputs).square().mean()}, batch.size)


def test_a_step_of_ones_own_is_guarded_by_backward_and_apply() -> None:
    """Its NonFiniteError says the same."""
    model, keep = make(), Keep()

    with pytest.raises(NonFiniteError, match=r"the loss is nan at step 3, epoch 1, on samples \[10, 11"):
        quiet(model, Poisoned(13), epochs=1, step=Own(), callbacks=[keep])

    assert equal(model, keep.models[2])


class Twice(Own):
    """Applies two updates to a batch, of which the second of the third batch is not finite."""

    def update(self, batch: Any) -> training.Result:
        for part in range(2):
            self.optimizer.zero_grad()
            bad = part and 13 in batch.indices
            loss = self.backward(self.model(batch.inputs).square().mean() * (math.nan if bad else 1))
            self.apply(self.optimizer)
        return training.Result({"loss": loss}, batch.size)


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_applies_twice_is_undone_whole(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights, and what its one optimizer has gathered; with a flag on the device as well."""
    model, keep, step = make(), Keep(), Twice()
    gathered: list[Any] = []

    class Gathered:
        def on_step(self, state: State) -> None:
            gathered.append(copy.deepcopy(step.optimizer.state_dict()["state"]))

    if late:
        monkeypatch.setattr(_finite, "is_late", lambda step: True)
        monkeypatch.setattr("torchbasics.training._step.finite", lambda loss: loss.detach())

    with pytest.raises(NonFiniteError, match="at step 3, epoch 1") as caught:
        quiet(model, Poisoned(-1), epochs=1, step=step, optimizer="adamw", fused=True, callbacks=[keep, Gathered()])

    assert caught.value.indices == [10, 11, 12, 13, 14]
    assert equal(model, keep.models[2])
    torch.testing.assert_close(step.optimizer.state_dict()["state"], gathered[1], rtol=0, atol=0)


def test_without_the_weights_of_before_the_first_of_two_updates_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: as if the step applied once."""
    monkeypatch.setattr("torchbasics.training._run.Supervised", Twice)

    with pytest.raises(AssertionError):
        test_a_step_that_applies_twice_is_undone_whole(False, monkeypatch)


@pytest.mark.parametrize("sample", [2, 13, 39])
def test_a_flag_on_the_device_is_read_a_step_late_and_names_the_right_step(
    sample: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a GPU with a fused optimizer, here on the CPU: no update is applied from the bad step on."""
    model, keep = make(), Keep()
    keep.models[0] = copy.deepcopy(model)
    bad = sample // 5 + 1
    monkeypatch.setattr(_finite, "is_late", lambda step: True)
    monkeypatch.setattr("torchbasics.training._step.finite", lambda loss: loss.detach())
    options: dict[str, Any] = {"optimizer": "adamw", "fused": True, "checkpoint": tmp_path, "checkpoint_every": 3}

    with pytest.raises(NonFiniteError, match=f"loss or gradients are not finite at step {bad}, epoch 1") as caught:
        quiet(model, Poisoned(sample), epochs=2, callbacks=[keep], **options)

    assert caught.value.indices == list(range(5 * bad - 5, 5 * bad))
    assert caught.value.module == "net.0"
    assert equal(model, keep.models[bad - 1])
    assert newest(tmp_path)["steps_done"] == (bad - 1) // 3 * 3


def test_an_optimizer_of_ones_own_steps_again_after_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is not left in it."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    monkeypatch.setattr(_finite, "is_late", lambda step: True)
    monkeypatch.setattr("torchbasics.training._step.finite", lambda loss: loss.detach())
    with pytest.raises(NonFiniteError):
        training.fit(model, Poisoned(2), epochs=1, batch_size=5, optimizer=optimizer, progress=False)

    before = copy.deepcopy(model)
    model(blobs()[0]).sum().backward()
    optimizer.step()
    assert not weights_equal(model, before)


def test_a_flag_on_the_device_changes_no_bit_of_a_good_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parameters with the flag and without."""
    one, other = make(), make()
    options: dict[str, Any] = {"optimizer": "adamw", "fused": True, "epochs": 2}

    quiet(one, *blobs(), **options)
    monkeypatch.setattr(_finite, "is_late", lambda step: True)
    quiet(other, *blobs(), **options)

    assert equal(one, other)


def test_only_a_fused_optimizer_on_a_device_is_read_late() -> None:
    """On the CPU the flag is read at once."""
    step = Supervised()
    step.bind(make(), Recipe(optimizer="adamw", fused=True))
    step.start(None)

    assert not _finite.is_late(step)


def test_the_checkpoint_before_the_poison_is_good(tmp_path: Path) -> None:
    """With the data mended the run goes on to the bits of one that was never poisoned."""
    whole, parts = make(), make()
    options: dict[str, Any] = {"epochs": 2, "checkpoint_every": 1}
    with pytest.raises(NonFiniteError):
        quiet(copy.deepcopy(parts), Poisoned(23), checkpoint=tmp_path / "a", **options)

    quiet(parts, Poisoned(-1), checkpoint=tmp_path / "a", **options)
    quiet(whole, Poisoned(-1), checkpoint=tmp_path / "b", **options)

    assert equal(parts, whole)


class Odd(nn.Module):
    """Buffers of all kinds that a forward pass changes."""

    count: Tensor
    total: Tensor
    seen: Tensor | None
    grows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("total", torch.zeros(3), persistent=False)
        self.register_buffer("seen", None)
        self.register_buffer("grows", torch.zeros(1))
        self.register_buffer("constant", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        self.total += 1
        self.seen = x.detach().sum()
        self.grows.resize_(int(self.count) + 1)
        self.register_buffer("new", torch.zeros(1))
        out: Tensor = self.linear(x)
        return out


def test_buffers_of_all_kinds_are_kept() -> None:
    """Replaced, changed in place, None before, resized, new: after the block they are what they were."""
    model = Odd()
    total, constant = model.total, model.constant
    copies = _model.Buffers(model)
    copies.keep()
    kept_constant = copies.kept[0]["constant"]

    model(torch.ones(2, 6))
    copies.restore()
    copies.keep()

    assert dict(model.named_buffers()).keys() == {"count", "total", "grows", "constant"}
    assert (model.count.item(), model.total.tolist(), model.grows.shape) == (0, [0, 0, 0], (1,))
    assert model.seen is None
    assert model.total is total
    assert model.constant is constant
    assert copies.kept[0]["constant"] is kept_constant
