"""The average of weights, and models that torch.compile wrapped."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import CrashAt, CrashError, blobs, equal, newest, small_images
from torchbasics import models, training
from torchbasics.training import State, fit
from torchbasics.training._ema import Average

if TYPE_CHECKING:
    from pathlib import Path

quiet = partial(fit, progress=False, batch_size=16, lr=0.01)


def make() -> nn.Module:
    torch.manual_seed(0)
    return models.MLP(6, (8,), 3, dropout=0.3, batch_norm=True)


class Weights:
    """Keeps the floating state after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_step(self, state: State) -> None:
        self.seen.append({name: t.clone() for name, t in state.model.state_dict().items() if t.is_floating_point()})


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_model_ends_with_the_average_of_its_weights(decay: float) -> None:
    """As written by hand, with the decay that rises with the number of updates; training itself is unchanged."""
    plain, averaged = make(), make()
    average = {name: t.clone() for name, t in plain.state_dict().items() if t.is_floating_point()}
    raw, same = Weights(), Weights()

    quiet(plain, blobs(), epochs=3, callbacks=[raw])
    quiet(averaged, blobs(), epochs=3, callbacks=[same], ema=decay)

    for n, weights in enumerate(raw.seen, start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: t.lerp(weights[name], 1 - d) for name, t in average.items()}
    assert all(torch.equal(a[k], b[k]) for a, b in zip(raw.seen, same.seen, strict=True) for k in a)
    for name, value in averaged.state_dict().items():
        expected = average.get(name, plain.state_dict()[name])
        assert torch.equal(value, expected), name


def test_buffers_that_are_put_in_anew_are_averaged_too() -> None:
    """A forward pass may write ``self.mean = ...`` instead of changing the tensor."""

    class Means(nn.Linear):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__(6, 3)
            self.register_buffer("mean", torch.zeros(6))

        def forward(self, inputs: Tensor) -> Tensor:
            self.mean = inputs.mean(0)
            return super().forward(inputs)

    model, raw = Means(), Weights()
    average = torch.zeros(6)

    quiet(model, blobs(), epochs=2, ema=0.5, callbacks=[raw], validation=blobs())

    for n, weights in enumerate(raw.seen, start=1):
        average = average.lerp(weights["mean"], 1 - min(0.5, (1 + n) / (10 + n)))
    assert torch.equal(model.mean, average)


def test_validation_measures_the_average() -> None:
    """The last epoch's loss is that of the model one ends with; the weights that are trained come back after it."""
    model, unmeasured = make(), make()
    held_out = blobs(n=30, seed=1)

    history = quiet(model, blobs(), epochs=3, ema=0.9, validation=held_out)
    raw = quiet(make(), blobs(), epochs=3, validation=held_out)
    quiet(unmeasured, blobs(), epochs=3, ema=0.9)

    assert history[-1]["validation_loss"] == training.evaluate(model, held_out)["loss"]
    assert history[-1]["validation_loss"] != raw[-1]["validation_loss"]
    assert history.column("loss") == raw.column("loss")
    assert equal(model, unmeasured)


def test_early_stopping_keeps_the_best_average() -> None:
    """The weights that come back are those that were measured."""
    inputs, targets = blobs()
    model = make()
    held_out = (inputs, (targets + 1) % 3)

    history = quiet(model, (inputs, targets), epochs=30, validation=held_out, ema=0.8, early_stopping=2)

    assert history.stopped == "early"
    best = min(history.column("validation_loss"))
    assert training.evaluate(model, held_out)["loss"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_run_that_crashed_has_the_same_average(step: int, tmp_path: Path) -> None:
    """Average, counter and the weights that are trained are in the checkpoint."""
    whole, resumed = make(), make()
    options: dict[str, Any] = {"epochs": 3, "ema": 0.95, "validation": 0.2}
    expected = quiet(whole, blobs(), **options)
    with pytest.raises(CrashError):
        quiet(make(), blobs(), **options, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(step)])

    history = quiet(resumed, blobs(), **options, checkpoint=tmp_path, checkpoint_every=1)
    again = make()
    quiet(again, blobs(), **options, checkpoint=tmp_path)

    assert equal(resumed, whole)
    assert history == expected
    assert equal(again, whole)


@pytest.mark.parametrize("lost", ["updates", "weights"])
def test_without_counter_or_average_the_comparison_fails(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control."""
    whole, resumed = make(), make()
    options: dict[str, Any] = {"epochs": 2, "ema": 0.95}
    quiet(whole, blobs(), **options)
    with pytest.raises(CrashError):
        quiet(make(), blobs(), **options, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(6)])
    state_dict = Average.load_state_dict
    fresh: dict[str, Any] = {"updates": 0, "weights": {}}
    monkeypatch.setattr(Average, "load_state_dict", lambda self, state: state_dict(self, {**state, lost: fresh[lost]}))

    quiet(resumed, blobs(), **options, checkpoint=tmp_path)

    assert not equal(resumed, whole)


def test_after_an_error_the_model_has_the_weights_that_were_trained() -> None:
    """The average is put in at a good end only."""
    model, raw = make(), Weights()

    with pytest.raises(CrashError):
        quiet(model, blobs(), epochs=1, ema=0.9, callbacks=[raw, CrashAt(3)])

    assert all(torch.equal(model.state_dict()[name], value) for name, value in raw.seen[-1].items())


def test_gans_have_an_average_too() -> None:
    """Of both networks."""
    torch.manual_seed(0)
    model, raw = models.DCGAN(latent_dim=8, width=4, depth=1), Weights()

    quiet(model, small_images(n=24, size=16), epochs=1, lr=1e-3, ema=0.9, callbacks=[raw])

    moved = {name.partition(".")[0] for name, t in raw.seen[-1].items() if not torch.equal(model.state_dict()[name], t)}
    assert moved == {"generator", "discriminator"}


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_is_a_share(decay: float) -> None:
    """One would never move."""
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\), got"):
        quiet(make(), blobs(), epochs=1, ema=decay)


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def test_checkpoints_of_compiled_models_have_plain_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With compile=True, with a model that was compiled before: it goes on in one that was not, and back."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    options: dict[str, Any] = {"epochs": 2, "ema": 0.9, "early_stopping": 5, "checkpoint_every": 1}
    whole, resumed, back = make(), make(), make()
    quiet(whole, blobs(), **options)
    with pytest.raises(CrashError):
        quiet(compiled(make()), blobs(), **options, checkpoint=tmp_path, callbacks=[CrashAt(6)])

    state = newest(tmp_path)
    with pytest.raises(CrashError):
        quiet(resumed, blobs(), **options, checkpoint=tmp_path, callbacks=[CrashAt(7)])
    quiet(compiled(back), blobs(), **options, checkpoint=tmp_path)
    quiet(make(), blobs(), epochs=1, compile=True, checkpoint=tmp_path / "own")

    own = newest(tmp_path / "own")
    assert state["callbacks"]["torchbasics.Stopper"]["weights"]
    assert "_orig_mod" not in repr([state["model_state"].keys(), state["callbacks"], own["model_state"].keys()])
    assert state["model_state"].keys() == own["model_state"].keys()
    assert equal(back, whole)


def test_a_step_of_a_compiled_model_is_explained_in_plain_names() -> None:
    """The module is named as in the model that was compiled."""
    inputs, targets = blobs()

    with pytest.raises(training.NonFiniteError, match=r"the output of 'net\.0'"):
        quiet(compiled(make()), [(inputs * float("inf"), targets)], epochs=1, batch_size=None)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_an_autocast_of_the_callers_changes_nothing(precision: Any) -> None:
    """The precision is the recipe's, and torch's copies of old weights are not used."""
    inside, outside = make(), make()
    quiet(outside, blobs(), epochs=2, precision=precision, validation=0.2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        quiet(inside, blobs(), epochs=2, precision=precision, validation=0.2)
        assert torch.is_autocast_enabled("cpu")

    assert equal(inside, outside)


def test_with_torchs_copies_of_old_weights_the_comparison_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: inside the caller's autocast torch keeps its low-precision weights from step to step."""
    inside, outside = make(), make()
    quiet(outside, blobs(), epochs=2, precision="bfloat16")
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        quiet(inside, blobs(), epochs=2, precision="bfloat16")

    assert not equal(inside, outside)


class Told(nn.Linear):
    """A module with a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.told: dict[str, Any] = {"words": ["a"]}

    def get_extra_state(self) -> dict[str, Any]:
        return self.told

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.told = state


def test_a_state_that_is_no_tensor_comes_back_with_the_best_average(tmp_path: Path) -> None:
    """As get_extra_state gave it in the best epoch; it is in the checkpoints, too."""
    inputs, targets = blobs()
    torch.manual_seed(0)
    model = Told()

    class Grow:
        def on_epoch(self, state: State) -> None:
            model.told["words"].append("b")

    options: dict[str, Any] = {"ema": 0.5, "early_stopping": 2, "validation": (inputs, (targets + 1) % 3)}
    history = quiet(model, (inputs, targets), epochs=30, **options, checkpoint=tmp_path, callbacks=[Grow()])

    losses = history.column("validation_loss")
    assert history.stopped == "early"
    assert model.told == {"words": ["a"] + ["b"] * losses.index(min(losses))}
    assert newest(tmp_path)["model_state"]["_extra_state"]["words"][0] == "a"
