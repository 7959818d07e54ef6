"""Products by oneDNN and the GRU's own backward pass: torch's numbers, and torch itself wherever it is watched."""

from __future__ import annotations

import copy
import io
import pickle
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from torchbasics.models import MLP, StackedRNN, _gru, _linear
from torchbasics.models._linear import Linear, product

if TYPE_CHECKING:
    from collections.abc import Callable

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),  # type: ignore[no-untyped-call]
    reason="torch was built without oneDNN",
)
pytestmark = needs_onednn
zen5 = _linear._zen5  # the fixture below puts another in its place

ROWS, K, N = 100, 300, 130  # 3.9 million multiply-adds: above the least


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Take any processor for a Zen 5; returns the shapes of what goes through oneDNN."""
    shapes: list[tuple[int, ...]] = []
    true = _linear.onednn

    def counted(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append(tuple(inputs.shape))
        return true(inputs, weight, bias)

    monkeypatch.setattr(_linear, "_zen5", lambda: True)
    monkeypatch.setattr(_linear, "onednn", counted)
    return shapes


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two float32 results differ by sums in another order only: 1e-5 of the largest is 80 roundings."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * b.abs().max())


INPUTS: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: torch.randn(ROWS, K),
    "leading dimensions": lambda: torch.randn(4, 5, ROWS // 20, K),
    "transposed": lambda: torch.randn(K, ROWS).t(),
    "batch first": lambda: torch.randn(5, ROWS // 5, K).transpose(0, 1),
    "every other": lambda: torch.randn(ROWS, 2 * K)[:, ::2],
    "expanded": lambda: torch.randn(1, K).expand(ROWS, K),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("n", [N, 2 * K], ids=["narrower", "wider"])
@pytest.mark.parametrize("inputs", INPUTS)
def test_products_are_torchs(inputs: str, n: int, bias: bool, calls: list[Any]) -> None:
    """Values, gradients and gradients of gradients are those of F.linear, up to the order of sums."""
    x, w = INPUTS[inputs]().requires_grad_(), torch.randn(n, K, requires_grad=True)
    leaves = [x, w, torch.randn(n, requires_grad=True)] if bias else [x, w]
    results = []
    for function in (product, F.linear):
        y = function(*leaves)
        grads = torch.autograd.grad(y.square().mean(), leaves, create_graph=True)
        again = torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), leaves, retain_graph=True)
        results.append([y, *torch.autograd.grad(y.sum(), leaves), *grads, *again])

    assert len(calls) == 5  # forward; and both gradients, twice, where no further ones are asked for
    assert all(close(a, b) for a, b in zip(*results, strict=True))
    assert results[0][2].is_contiguous() or inputs == "transposed"


def test_only_what_needs_a_gradient_gets_one(calls: list[Any]) -> None:
    """A frozen weight, or inputs without gradient, cost no product."""
    x, w = torch.randn(ROWS, K), torch.randn(N, K)
    torch.autograd.backward(product(x.clone().requires_grad_(), w).sum())
    assert len(calls) == 2
    layer = Linear(K, N)
    torch.autograd.backward(layer(x).sum())
    assert len(calls) == 4
    layer.requires_grad_(False)
    assert not layer(x).requires_grad


def test_batched_gradients_are_torchs() -> None:
    """is_grads_batched works, as with F.linear."""
    x, layer = torch.randn(ROWS, K), Linear(K, N)
    grads = torch.randn(3, ROWS, N)
    results = [
        torch.autograd.grad(y, list(layer.parameters()), grads, is_grads_batched=True)
        for y in (layer(x), F.linear(x, layer.weight, layer.bias))
    ]

    assert all(close(a, b) for a, b in zip(*results, strict=True))


class Marked(Tensor):
    """A subclass of Tensor."""


def autocast(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return product(x, w, b)


def under_default_device(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    with torch.device("cpu"):
        return product(x, w, b)


def counting(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    with FlopCounterMode(display=False):
        return product(x, w, b)


def without_onednn(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    torch._C._set_mkldnn_enabled(False)
    try:
        return product(x, w, b)
    finally:
        torch._C._set_mkldnn_enabled(True)


def jvp(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)  # type: ignore[no-untyped-call]
        return forward_ad.unpack_dual(product(dual, w, b)).tangent  # type: ignore[no-any-return, no-untyped-call]


def export(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    layer = Linear(K, N)
    layer.load_state_dict({"weight": w, "bias": b})
    return torch.export.export(layer, (x,)).module()(x)  # type: ignore[no-any-return]


def compiled(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.compile(product, backend="eager", fullgraph=True)(x, w, b)


def symbolic(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.fx.symbolic_trace(lambda x: product(x, w, b))(x)  # type: ignore[no-any-return]


WATCHED: dict[str, Callable[..., Tensor]] = {
    "autocast": autocast,
    "float64": lambda x, w, b: product(x.double(), w.double(), b.double()),
    "meta": lambda x, w, b: product(x.to("meta"), w.to("meta"), b.to("meta")),
    "subclass": lambda x, w, b: product(x.as_subclass(Marked), w, b),
    "subclass as weight": lambda x, w, b: product(x, w.as_subclass(Marked), b),
    "vmap": lambda x, w, b: torch.vmap(product, (0, None, None))(x.expand(2, *x.shape), w, b),
    "jvp": jvp,
    "grad": lambda x, w, b: torch.func.grad(lambda v: product(v, w, b).sum())(x),
    "traced": lambda x, w, b: torch.jit.trace(product, (x, w, b), check_trace=False)(x, w, b),  # type: ignore[no-untyped-call]
    "exported": export,
    "compiled": compiled,
    "default device": under_default_device,
    "counted": counting,
    "oneDNN switched off": without_onednn,
    "symbolic": symbolic,
    "small": lambda x, w, b: product(x[:5], w, b),
    "one vector": lambda x, w, b: product(x[0], w, b),
    "nobody": lambda x, w, b: product(x[:0], w, b),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")  # torch's own use of it among them
@pytest.mark.parametrize("way", WATCHED)
def test_torch_itself_runs_where_it_is_watched(way: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under every mode, transform and tracer the product is F.linear's, bit for bit."""
    x, w, b = torch.randn(ROWS, K), torch.randn(N, K), torch.randn(N)
    found = WATCHED[way](x, w, b)
    monkeypatch.setitem(globals(), "product", F.linear)
    monkeypatch.setattr(_linear, "product", F.linear)
    expected = WATCHED[way](x, w, b)

    assert not calls
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert found.is_meta or torch.equal(found, expected)


def test_without_a_watcher_it_is_onednn(calls: list[Any]) -> None:
    """Positive control: the same call by itself is not F.linear's."""
    product(torch.randn(ROWS, K), torch.randn(N, K), torch.randn(N))

    assert calls == [(ROWS, K)]


def test_other_processors_keep_torchs_bits(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Zen 5, nothing goes through oneDNN by us."""
    monkeypatch.setattr(_linear, "_zen5", lambda: False)
    layer, x = Linear(K, N), torch.randn(ROWS, K)

    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert not calls


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n", True),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n", False),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 26\n", False),
        ("CPU implementer\t: 0x41\n", False),
    ],
    ids=["Zen 5", "Zen 4", "Intel", "ARM"],
)
def test_the_system_tells_the_processor(told: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By /proc/cpuinfo; where there is none, as on Windows, by what Python knows."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert zen5.__wrapped__() is expected

    def missing(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD")
    assert zen5.__wrapped__()


def test_wrong_shapes_are_torchs_errors() -> None:
    """What does not fit raises what F.linear raises."""
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied"):
        product(torch.randn(ROWS, K + 1), torch.randn(N, K))


def test_the_layer_is_torchs_linear() -> None:
    """The same start, repr, state, copies and pickles as nn.Linear."""
    torch.manual_seed(0)
    ours = Linear(K, N)
    torch.manual_seed(0)
    theirs = nn.Linear(K, N)
    x = torch.randn(ROWS, K)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)

    assert repr(ours) == repr(theirs)
    assert isinstance(ours, nn.Linear)
    for other in (theirs, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), saved):
        assert list(other.state_dict()) == ["weight", "bias"]
        assert torch.equal(other.weight, ours.weight)
        assert close(other(x), ours(x))
    assert all(isinstance(layer, Linear) for layer in MLP(4, (), 3).net)


GRUS = [(1, 1, 7, 0.0, True), (1, 8, 110, 0.0, False), (2, 28, 110, 0.3, True), (3, 4, 8, 0.5, False)]


@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["steps first", "batch first"])
@pytest.mark.parametrize(("layers", "features", "size", "dropout", "bias"), GRUS)
def test_gru_is_torchs(
    layers: int, features: int, size: int, dropout: float, bias: bool, batch_first: bool, with_state: bool
) -> None:
    """Outputs, states, gradients and their gradients are torch.nn.GRU's, dropout included."""
    ours = StackedRNN(features, size, layers, cell="gru", dropout=dropout, bias=bias, batch_first=batch_first)
    theirs = nn.GRU(features, size, layers, dropout=dropout, bias=bias, batch_first=batch_first)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*((90, 4) if batch_first else (4, 90)), features, requires_grad=True)
    hx = torch.randn(layers, 90, size, requires_grad=True) if with_state else None
    results = []
    models: tuple[Any, ...] = (ours, theirs)
    for model in models:
        leaves = [x, *model.parameters()] + ([] if hx is None else [hx])
        torch.manual_seed(1)
        output, hidden = model(x, hx)
        loss = output.square().mean() + hidden.sin().mean()
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        again = torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), leaves, retain_graph=True)
        model.eval()
        with torch.no_grad():
            results.append([output, hidden, *torch.autograd.grad(loss, leaves), *again, *model(x, hx)])
        assert output.stride() == results[0][0].stride()

    assert all(close(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_gru_with_a_frozen_weight(frozen: str) -> None:
    """The other weights get the gradients they get with all free."""
    model = StackedRNN(4, 6, cell="gru")
    x = torch.randn(5, 3, 4)
    torch.autograd.backward(model(x)[0].square().sum())
    full = {name: p.grad for name, p in model.named_parameters() if name != frozen}
    model.zero_grad()
    model.get_parameter(frozen).requires_grad_(False)
    torch.autograd.backward(model(x)[0].square().sum())

    assert model.get_parameter(frozen).grad is None
    assert all(torch.equal(model.get_parameter(name).grad, grad) for name, grad in full.items())  # type: ignore[arg-type]


@pytest.mark.parametrize("watch", ["float64", "autocast", "both ways", "export", "vmap", "no grad, small"])
def test_torch_gru_runs_where_it_is_watched(watch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our layers are for plain float32 in one direction; all else is torch.gru."""

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("torchbasics.models._rnn.gru", refuse)
    model = StackedRNN(4, 6, cell="gru", bidirectional=watch == "both ways")
    x = torch.randn(5, 3, 4)
    if watch == "float64":
        model.double()(x.double())
    elif watch == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
    elif watch == "export":
        torch.export.export(model, (x,))
    elif watch == "vmap":
        torch.func.grad(lambda v: model(v)[0].sum())(x)
    elif watch == "no grad, small":
        with torch.no_grad():
            model(x)
    else:
        model(x)
    with pytest.raises(AssertionError):  # positive control
        StackedRNN(4, 6, cell="gru")(x)


def test_gru_gradients_can_differ_from_a_wrong_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: a backward pass that forgets one factor is seen."""
    true = _gru._backward_steps
    model = StackedRNN(4, 6, cell="gru")
    x = torch.randn(5, 3, 4)
    weights = list(model.parameters())
    right = torch.autograd.grad(model(x)[0].square().sum(), weights)

    def wrong(grad: Tensor, gates: Tensor, kept: Tensor, *rest: Any, **options: Any) -> Any:
        return true(grad, gates, kept * 1.001, *rest, **options)

    monkeypatch.setattr(_gru, "_backward_steps", wrong)
    assert not all(map(close, torch.autograd.grad(model(x)[0].square().sum(), weights), right))


def _chunked(model: Any, x: Tensor) -> Tensor:
    """Feed steps one by one, so that a state comes from the weights too."""
    hidden = None
    for step in x:
        outputs, hidden = model(step[None], hidden)
    return cast("Tensor", outputs.square().sum())


def gru_pair() -> tuple[StackedRNN, nn.GRU, Tensor]:
    torch.manual_seed(0)
    ours, theirs = StackedRNN(4, 4, cell="gru"), nn.GRU(4, 4)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(3, 2, 4)


def test_gradients_of_gradients_through_a_carried_state() -> None:
    """The state of a chunk depends on the weights; with create_graph each way is gone once."""
    ours, theirs, x = gru_pair()
    found = [
        torch.autograd.grad(_chunked(model, x), list(model.parameters()), create_graph=True) for model in (ours, theirs)
    ]
    assert all(close(a, b) for a, b in zip(*found, strict=True))
    second = [
        torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), list(model.parameters()))
        for grads, model in zip(found, (ours, theirs), strict=True)
    ]
    assert all(close(a, b) for a, b in zip(*second, strict=True))


def test_batched_gradients_through_a_carried_state() -> None:
    found = []
    ours, theirs, x = gru_pair()
    for model in (ours, theirs):
        weights = list(model.parameters())
        rows = torch.eye(1)[:, 0]
        found.append(torch.autograd.grad(_chunked(model, x), weights, rows, is_grads_batched=True))
    assert all(close(a, b) for a, b in zip(*found, strict=True))


def test_gradients_while_somebody_watches() -> None:
    ours, theirs, x = gru_pair()
    for model in (ours, theirs):
        loss = _chunked(model, x)
        with FlopCounterMode(display=False):
            torch.autograd.backward(loss)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(close(cast("Tensor", a.grad), cast("Tensor", b.grad)) for a, b in pairs)


def test_the_output_of_a_gru_may_be_changed_in_place() -> None:
    ours, theirs, x = gru_pair()
    for model in (ours, theirs):
        outputs, _ = model(x)
        outputs.mul_(2)
        outputs.sum().backward()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(close(cast("Tensor", a.grad), cast("Tensor", b.grad)) for a, b in pairs)


@pytest.mark.parametrize("kind", ["strided", "expanded", "one", "rows", "scalar"])
def test_a_bias_of_another_layout_or_shape_is_torchs(kind: str, calls: list[Any]) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(128, 256), torch.randn(512, 256)
    bias = {
        "strided": torch.randn(512, 2)[:, 0],
        "expanded": torch.ones(1).expand(512),
        "one": torch.randn(1),
        "rows": torch.randn(128, 512),
        "scalar": torch.randn(()),
    }[kind]
    assert torch.equal(product(x, w, bias), F.linear(x, w, bias))
    assert not calls


def test_a_gru_with_expanded_biases_is_torchs() -> None:
    ours, theirs = StackedRNN(64, 512, cell="gru"), nn.GRU(64, 512)
    x, bias = torch.randn(4, 64, 64), {"bias_ih_l0": torch.ones(1).expand(1536)}
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        found = [torch.func.functional_call(model, bias, (x,))[0] for model in (ours, theirs)]
    assert torch.equal(*found)
