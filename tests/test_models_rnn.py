"""StackedRNN: torch.nn's RNN, LSTM and GRU by another name; RNNClassifier: a head on top."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from torchbasics.models import RNNClassifier, StackedRNN

T, N, F, H = 5, 3, 4, 6

CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (nn.RNN, {"cell": "rnn"}),
    "relu": (nn.RNN, {"cell": "rnn", "nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {"cell": "lstm"}),
    "gru": (nn.GRU, {"cell": "gru"}),
}
OPTIONS: list[dict[str, Any]] = [
    {"num_layers": layers, "dropout": dropout, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    for (layers, dropout), bias, batch_first, bidirectional in product(
        [(1, 0.0), (2, 0.0), (3, 0.5)], [True, False], [True, False], [True, False]
    )
]


def short(options: dict[str, Any]) -> str:
    """Name a parametrized case by its options."""
    return "-".join(f"{key}={value}" for key, value in options.items())


def pair(cell: str, options: dict[str, Any]) -> tuple[StackedRNN, nn.Module]:
    """Return ours and torch's, made with the same seed."""
    cls, arguments = CELLS[cell]
    torch.manual_seed(0)
    ours = StackedRNN(F, H, **arguments, **options)
    torch.manual_seed(0)
    extra = {"nonlinearity": "relu"} if cell == "relu" else {}
    return ours, cls(F, H, **extra, **options)


def make_input(layout: str, batch_first: bool) -> Any:
    """Return inputs in one of the layouts that torch knows, and the batch's part of the state's shape."""
    if layout == "unbatched":
        return torch.randn(T, F, requires_grad=True), ()
    padded = torch.randn(*((N, T) if batch_first else (T, N)), F, requires_grad=True)
    if layout == "batched":
        return padded, (N,)
    lengths = torch.tensor([5, 3, 2] if layout == "packed" else [2, 5, 3])
    return pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=layout == "packed"), (N,)


def flat(value: Any) -> list[Tensor]:
    """Return the tensors of an output, whatever its nesting."""
    if isinstance(value, PackedSequence):
        return [t for t in value if t is not None]
    return [value] if isinstance(value, Tensor) else [t for v in value for t in flat(v)]


def close(a: Tensor, b: Tensor) -> bool:
    """Whether float32 results differ by the order of operations only: 1e-5 of the largest is 80 roundings."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * b.abs().max())


@pytest.mark.parametrize("options", OPTIONS, ids=short)
@pytest.mark.parametrize("cell", CELLS)
def test_state_dict_is_torchs_both_ways(cell: str, options: dict[str, Any]) -> None:
    """Key by key the same, equal from the same seed, and loadable into each other."""
    ours, theirs = pair(cell, options)

    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("layout", ["batched", "unbatched", "packed", "packed unsorted"])
@pytest.mark.parametrize("options", OPTIONS, ids=short)
@pytest.mark.parametrize("cell", CELLS)
def test_equals_torch(cell: str, options: dict[str, Any], layout: str, with_state: bool) -> None:
    """Output, state and every gradient are torch.nn's, bit for bit; in training, so with its dropout too.

    Of a gru's padded sequences, in one direction, up to the last bits.
    """
    models = pair(cell, options)
    inputs, batch = make_input(layout, options["batch_first"])
    shape = (options["num_layers"] * (1 + options["bidirectional"]), *batch, H)
    states = [torch.randn(shape, requires_grad=True) for _ in range(1 + (cell == "lstm"))] if with_state else []
    hx = None if not states else tuple(states) if cell == "lstm" else states[0]
    results, grads = [], []
    for model in models:
        torch.manual_seed(1)
        results.append(flat(model(inputs, hx)))
        loss = torch.stack([t.square().sum() for t in results[-1] if t.is_floating_point()]).sum()
        leaves = [inputs.data if isinstance(inputs, PackedSequence) else inputs, *states, *model.parameters()]
        grads.append(torch.autograd.grad(loss, leaves))

    same = close if cell == "gru" and not options["bidirectional"] and not layout.startswith("packed") else torch.equal
    assert len(results[0]) == len(results[1])
    assert all(a.shape == b.shape and same(a, b) for a, b in zip(*results, strict=True))
    assert all(same(a, b) for a, b in zip(*grads, strict=True))


def test_equality_test_can_fail() -> None:
    """Positive control: weights that differ by a thousandth give other bits."""
    ours, theirs = pair("gru", OPTIONS[0])
    ours.load_state_dict({key: p + 1e-3 for key, p in theirs.state_dict().items()})
    inputs = torch.randn(T, N, F)

    assert not torch.equal(ours(inputs)[0], theirs(inputs)[0])


def test_packed_output_keeps_the_order() -> None:
    """A packed sequence comes back packed, with the indices of the one that went in."""
    packed = pack_sequence([torch.randn(n, F) for n in (2, 4, 3)], enforce_sorted=False)
    output, _ = StackedRNN(F, H)(packed)

    assert output.data.shape == (9, H)
    assert output.unsorted_indices is packed.unsorted_indices


def step_by_hand(model: StackedRNN, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a time-major batch through ``model.cells()``, one step, one layer, one direction at a time."""
    sequence = list(inputs)
    finals: list[Any] = []
    for layer in model.cells():
        outputs = []
        for cell, reverse in zip(layer, [False, True], strict=False):
            state: Any = None
            steps = []
            for x in reversed(sequence) if reverse else sequence:
                state = cell(x, state)
                steps.append(state[0] if isinstance(state, tuple) else state)
            finals.append(state)
            outputs.append(steps[::-1] if reverse else steps)
        sequence = [torch.cat(hs, dim=-1) for hs in zip(*outputs, strict=True)]
    parts = zip(*finals, strict=True) if isinstance(finals[0], tuple) else [finals]
    return torch.stack(sequence), [torch.stack(list(part)) for part in parts]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_stepping_the_cells_by_hand_gives_the_same(cell: str, layers: int, bidirectional: bool, bias: bool) -> None:
    """The layers are RNNCells stacked: output and final state agree with those stepped by hand."""
    model, _ = pair(cell, {"num_layers": layers, "bidirectional": bidirectional, "bias": bias})
    inputs = torch.randn(T, N, F, dtype=torch.float64)
    output, hidden = model.double()(inputs)
    by_hand, states = step_by_hand(model, inputs)

    torch.testing.assert_close(output, by_hand, rtol=1e-12, atol=1e-12)  # one product for all steps sums in other order
    torch.testing.assert_close(flat(hidden), states, rtol=1e-12, atol=1e-12)


def test_cells_share_the_parameters() -> None:
    """A cell holds the model's own parameters, in the model's mode, and making them draws no random numbers."""
    model = StackedRNN(F, H, 2, cell="lstm", bidirectional=True).eval()
    state = torch.get_rng_state()
    cells = model.cells()

    assert torch.equal(torch.get_rng_state(), state)
    assert [[type(cell) for cell in layer] for layer in cells] == [[nn.LSTMCell, nn.LSTMCell]] * 2
    assert cells[1][1].weight_hh is model.weight_hh_l1_reverse
    assert not cells[0][0].training
    assert [id(p) for layer in cells for c in layer for p in c.parameters()] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_uses_its_own_weights(copied: Any) -> None:
    """Zeroing a copy's parameters zeroes the copy's outputs, not the model's."""
    model = StackedRNN(F, H, cell="gru")
    twin = copied(model)
    for p in twin.parameters():
        nn.init.zeros_(p)
    inputs = torch.randn(T, N, F)

    assert not twin(inputs)[0].any()
    assert model(inputs)[0].any()


def test_assigned_weights_are_used() -> None:
    """load_state_dict(assign=True) and a parameter set by hand take effect at once."""
    model = StackedRNN(F, H)
    inputs = torch.randn(T, N, F)
    model.load_state_dict({key: torch.zeros_like(p) for key, p in model.state_dict().items()}, assign=True)
    assert not model(inputs)[0].any()

    model.bias_ih_l0 = nn.Parameter(torch.ones(H))
    assert model(inputs)[0].all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 0}, ValueError, r"^input_size must be at least 1, got 0$"),
        ({"hidden_size": 1.5}, TypeError, r"^hidden_size must be an integer, got 1\.5$"),
        ({"num_layers": 0}, ValueError, r"^num_layers must be at least 1, got 0$"),
        ({"cell": "GRU"}, ValueError, r"^unknown cell 'GRU'; did you mean 'gru'\?$"),
        ({"nonlinearity": "sigmoid"}, ValueError, r"^unknown nonlinearity 'sigmoid'; choose from 'tanh', 'relu'$"),
        (
            {"cell": "lstm", "nonlinearity": "relu"},
            ValueError,
            r"^nonlinearity 'relu' is for cell='rnn'; cell='lstm' has its own$",
        ),
        ({"bias": 1}, TypeError, r"^bias must be True or False, got 1$"),
        ({"batch_first": None}, TypeError, r"^batch_first must be True or False, got None$"),
        ({"bidirectional": 2}, TypeError, r"^bidirectional must be True or False, got 2$"),
        ({"dropout": 1.0, "num_layers": 2}, ValueError, r"^dropout must be in \[0, 1\), got 1\.0$"),
        (
            {"dropout": 0.5},
            ValueError,
            r"^dropout acts between layers, got dropout=0\.5 with num_layers=1; use 2 or more$",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each argument is checked at construction; an option without effect is an error, not a warning."""
    with pytest.raises(error, match=message):
        StackedRNN(**{"input_size": F, "hidden_size": H} | arguments)


@pytest.mark.parametrize("shape", [(T, N, F + 1), (F,), (1, T, N, F)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """The message has both shapes, in the order that batch_first asks for."""
    with pytest.raises(
        ValueError,
        match=r"^input has shape \(.*\), but StackedRNN\(input_size=4\) needs \(T, N, 4\), or \(T, 4\) for one sequence$",
    ):
        StackedRNN(F, H)(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"needs \(N, T, 4\), or \(T, 4\) for one sequence$"):
        StackedRNN(F, H, batch_first=True)(torch.zeros(shape))


def test_packed_sequences_of_other_features_are_refused() -> None:
    """The message has both sizes."""
    with pytest.raises(
        ValueError, match=r"shape \(5, 7\), but StackedRNN\(input_size=4\) needs packed sequences of 4 f"
    ):
        StackedRNN(F, H)(pack_sequence([torch.zeros(5, 7)]))


@pytest.mark.parametrize(
    ("cell", "hx", "error", "message"),
    [
        ("gru", torch.zeros(1, N + 1, H), ValueError, r"shape \(1, 4, 6\), but this input needs \(1, 3, 6\)$"),
        ("gru", torch.zeros(1, H), ValueError, r"shape \(1, 6\), but this input needs \(1, 3, 6\)$"),
        ("lstm", (torch.zeros(1, N, H), torch.zeros(1, N, 1)), ValueError, r"shape \(1, 3, 1\), but this input needs"),
        ("lstm", torch.zeros(1, N, H), TypeError, r"^hx must be a pair of tensors .* for cell='lstm', got Tensor$"),
        ("lstm", (torch.zeros(1, N, H),), TypeError, r"^hx must be a pair of tensors .* for cell='lstm', got tuple$"),
        ("gru", (torch.zeros(1, N, H),) * 2, TypeError, r"^hx must be one tensor for cell='gru', got tuple$"),
        ("gru", torch.zeros(1, N, H).double(), TypeError, r"^hx has dtype torch\.float64"),
    ],
)
def test_wrong_states_are_refused(cell: str, hx: Any, error: type[Exception], message: str) -> None:
    """The state to start from is checked against the cell and the batch."""
    with pytest.raises(error, match=message):
        StackedRNN(F, H, cell=cell)(torch.zeros(T, N, F), hx)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_classifier_is_a_head_on_the_final_state(cell: str, bidirectional: bool) -> None:
    """The logits are those of torch.nn's module, its last state, and a linear layer."""
    cls, arguments = CELLS[cell]
    model = RNNClassifier(F, H, 2, 10, bidirectional=bidirectional, **arguments)
    extra = {"nonlinearity": "relu"} if cell == "relu" else {}
    rnn = cls(F, H, 2, batch_first=True, bidirectional=bidirectional, **extra)
    rnn.load_state_dict(model.rnn.state_dict())
    inputs = torch.randn(N, T, F)
    _, hidden = rnn(inputs)
    state = hidden[0] if cell == "lstm" else hidden
    last = torch.cat([state[-2], state[-1]], dim=1) if bidirectional else state[-1]

    same = close if cell == "gru" and not bidirectional else torch.equal
    assert same(model(inputs), model.head(last))


def test_classifier_reads_images_row_by_row() -> None:
    """An image is as many steps as it has rows; a row's channels follow each other."""
    model = RNNClassifier(3 * 7, H, 1, 10)
    images = torch.randn(N, 3, 5, 7)
    rows = torch.stack([torch.cat([images[:, c, row] for c in range(3)], dim=1) for row in range(5)], dim=1)

    assert rows.shape == (N, 5, 21)
    assert torch.equal(model(images), model(rows))


@pytest.mark.parametrize("layers", [1, 2])
def test_classifier_drops_before_the_head(layers: int) -> None:
    """Dropout has an effect with one layer too, in training only."""
    model = RNNClassifier(F, H, layers, 10, dropout=0.5)
    inputs = torch.randn(30, T, F)

    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, r"^num_classes must be at least 1, got 0$"),
        ({"num_layers": "2"}, TypeError, r"^num_layers must be an integer, got '2'$"),
        ({"hidden_size": 0}, ValueError, r"^hidden_size must be at least 1, got 0$"),
        ({"dropout": 2}, ValueError, r"^dropout must be in \[0, 1\), got 2$"),
        ({"cell": "lstmm"}, ValueError, r"^unknown cell 'lstmm'; did you mean 'lstm'\?$"),
    ],
)
def test_bad_classifier_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each argument is checked at construction."""
    with pytest.raises(error, match=message):
        RNNClassifier(**{"input_size": F, "hidden_size": H, "num_layers": 1, "num_classes": 3} | arguments)


@pytest.mark.parametrize("shape", [(N, F), (N, T, F + 1), (N, 2, T, F), (1, N, 1, T, F)])
def test_wrong_classifier_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """The message has both shapes, for sequences and for images."""
    message = r"RNNClassifier\(input_size=4\) needs \(N, T, 4\), or images \(N, C, H, W\) with C \* W = 4$"
    with pytest.raises(ValueError, match=message):
        RNNClassifier(F, H, 1, 3)(torch.zeros(shape))
