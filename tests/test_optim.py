"""The short ways to an optimizer's update leave nothing out that anyone waits for."""

from __future__ import annotations

import functools
import logging
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import BaseTorchFunctionMode

from torchbasics.training import _optim, fit
from torchbasics.training._metrics import Accuracy, metric_state
from torchbasics.training._optim import clear_gradients, run_backward, step

DATA = (torch.randn(12, 3), torch.arange(12) % 2)


class Own(torch.optim.SGD):
    """Has a ``zero_grad`` and a ``step`` of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.calls: list[str] = []
        super().__init__(*args, **options)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.calls.append("zero_grad")
        super().zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        self.calls.append("step")
        return super().step(closure)


def made(factory: Any = torch.optim.SGD) -> tuple[nn.Linear, Any]:
    model = nn.Linear(3, 2)
    return model, factory(model.parameters(), lr=0.1)


def trained(optimizer: Any, model: nn.Module) -> None:
    fit(model, *DATA, epochs=1, batch_size=4, optimizer=optimizer, progress=False)


def test_an_optimizers_own_methods_are_called() -> None:
    model, optimizer = made(Own)
    trained(optimizer, model)
    assert optimizer.calls == ["zero_grad", "step"] * 3


@pytest.mark.parametrize("when", ["pre", "post"])
def test_hooks_of_the_optimizer_run(when: str) -> None:
    model, optimizer = made()
    seen: list[object] = []
    getattr(optimizer, f"register_step_{when}_hook")(lambda *args: seen.append(args[0]))
    trained(optimizer, model)
    assert seen == [optimizer] * 3


def test_hooks_of_all_optimizers_run() -> None:
    model, optimizer = made()
    seen: list[object] = []
    handle = register_optimizer_step_post_hook(lambda *args: seen.append(args[0]))
    try:
        trained(optimizer, model)
    finally:
        handle.remove()
    assert seen == [optimizer] * 3


def test_a_step_put_over_the_optimizers_runs() -> None:
    model, optimizer = made()
    seen: list[object] = []
    whole = optimizer.step

    def over() -> None:
        seen.append(1)
        whole()

    optimizer.step = over
    trained(optimizer, model)
    assert len(seen) == 3


def test_profiles_show_the_update() -> None:
    model, optimizer = made()
    trained(optimizer, model)
    with torch.profiler.profile() as profile:
        trained(optimizer, model)
    for name in ("Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad"):
        assert sum(event.name == name for event in profile.events() or ()) == 3


def test_a_step_that_takes_over_torchs_marks_runs() -> None:
    """``functools.wraps`` copies what torch's own wrapper is known by."""
    made()  # torch wraps the class when it is first used
    calls: list[object] = []

    whole: Any = torch.optim.SGD.step

    @functools.wraps(whole)
    def counted(self: Any, *args: Any) -> Any:
        calls.append(self)
        return whole(self, *args)

    model, optimizer = made(type("Marked", (torch.optim.SGD,), {"step": counted}))
    trained(optimizer, model)
    assert len(calls) == 3


def test_an_optimizer_around_another_needs_no_hooks_of_its_own() -> None:
    class Around(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.steps = inner, 0
            self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.inner.zero_grad(set_to_none)

        def step(self, closure: Any = None) -> Any:
            self.steps += 1
            return self.inner.step(closure)

        def state_dict(self) -> dict[str, Any]:
            return self.inner.state_dict()

    model, inner = made()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = Around(inner)
    trained(optimizer, model)
    assert optimizer.steps == 3
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_accuracy_wants_a_target_for_each_place() -> None:
    with pytest.raises(ValueError, match=r"accuracy needs outputs .* got \(8, 2, 3, 4\) and \(8, 4, 3\)"):
        Accuracy().update(torch.randn(8, 2, 3, 4), torch.randint(2, (8, 4, 3)))


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_the_short_way_gives_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    (one, short), (two, whole) = made(getattr(torch.optim, name)), made(getattr(torch.optim, name))
    two.load_state_dict(one.state_dict())
    for _ in range(5):
        for model in (one, two):
            model(DATA[0]).square().mean().backward()
        step(short)
        clear_gradients(short)
        whole.step()
        whole.zero_grad()
        assert all(p.grad is None for p in one.parameters())
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def gradients_of(backward: Any, make_loss: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    for _ in range(2):  # they add up
        backward(make_loss(model(DATA[0])))
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_short_way_back_gives_the_same_gradients(dtype: torch.dtype) -> None:
    def loss(outputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.to(dtype), DATA[1])

    short, whole = gradients_of(run_backward, loss), gradients_of(torch.autograd.backward, loss)

    assert len(short) == 2
    assert all(torch.equal(a, b) for a, b in zip(short, whole, strict=True))


class OwnTensor(torch.Tensor):
    """A kind of tensor of somebody's own."""


@pytest.mark.parametrize("watch", ["mode", "subclass", "log", "cuda", "nobody"])
def test_the_way_back_is_torchs_own_where_somebody_watches(
    watch: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mode and a subclass may take it over, a log tells of each node, and a loss may have come from CUDA."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.autograd, "backward", calls.append)
    loss = torch.ones((), requires_grad=True) * 2
    if watch == "subclass":
        loss = loss.as_subclass(OwnTensor)
    monkeypatch.setattr(_optim, "_on_cuda", lambda: watch == "cuda")
    logged = caplog.at_level(logging.DEBUG, "torch.autograd.graph") if watch == "log" else nullcontext()
    with BaseTorchFunctionMode() if watch == "mode" else nullcontext(), logged:
        run_backward(loss)

    assert len(calls) == (watch != "nobody")


@pytest.mark.parametrize(
    ("loss", "text"),
    [(torch.ones(()), "does not require grad"), (torch.ones(2, requires_grad=True) * 2, "only for scalar outputs")],
    ids=["no graph", "two numbers"],
)
def test_the_way_back_fails_as_torchs_does(loss: torch.Tensor, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        run_backward(loss)


def test_accuracy_counts_small_batches_together_and_all_of_them() -> None:
    """In any cut, and with a state taken in between, which holds no predictions."""
    outputs, targets = torch.randn(20_000, 3), torch.randint(3, (20_000,))
    expected = float((outputs.argmax(1) == targets).double().mean())
    for size in (7, 100, 20_000):
        metric = Accuracy()
        for i, (part, true) in enumerate(zip(torch.split(outputs, size), torch.split(targets, size), strict=True)):
            metric.update(part, true)
            assert metric.waits <= Accuracy.enough
            if i == 5:
                state = metric_state(metric)
                assert state["total"] == 6 * size
                assert state["waits"] == 0
        assert metric.compute() == expected
