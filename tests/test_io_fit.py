"""A file against a model: what does not fit is said in one error with its cure, costs little, and changes nothing."""

from __future__ import annotations

import json
import random
import resource
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.test_io_refusals import rewrite, unsealed_bytes
from torchbasics import _safetensors, _zoo, io, models
from torchbasics.io import _fit
from torchbasics.io._state import write_state
from torchbasics.models._mlp import INITS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def refusal(load: Callable[[], object], reason: str) -> str:
    """Return the message with which *load* refuses, for that reason."""
    with pytest.raises(io.CheckpointError) as caught:
        load()
    assert caught.value.reason == reason
    return str(caught.value)


@pytest.mark.parametrize(
    ("rename", "wrapped", "cure"),
    [
        (lambda n: f"module.{n}", False, "'module.' in the file's names is of DataParallel"),
        (lambda n: n.replace("0.", "0._orig_mod."), False, "'_orig_mod.' in the file's names is of torch.compile"),
        (lambda n: f"backbone.{n}", False, "the file's names all begin with 'backbone.': take it off"),
        (lambda n: n, True, "the model's names all begin with 'body.': load into that part of it"),
        (lambda n: n.replace("weight", "weihgt"), False, r"missing '0.weight' ('0.weihgt'?)"),
    ],
    ids=["parallel", "compile", "prefix", "part", "spelling"],
)
def test_the_likely_cure_is_named(rename: Callable[[str], str], wrapped: bool, cure: str, tmp_path: Path) -> None:
    """Names with something before them, on either side, and names that are nearly right."""
    source = nn.Sequential(nn.Linear(2, 2))
    write_state({rename(name): t for name, t in source.state_dict().items()}, tmp_path / "m.safetensors")
    target = nn.ModuleDict({"body": source}) if wrapped else source
    assert cure in refusal(lambda: io.load_state(target, tmp_path / "m.safetensors"), "mismatch")


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ({"weight": 3, "bias": 2}, {"weight": 2, "bias": 2}),
        ({"a.weight": 3}, {"a.weight": 2}),
        ({"body.weight": 2, "bias": 2}, {"weight": 2, "bias": 2}),
        ({"weight": 2, "bias": 2}, {"body.weight": 2, "bias": 2}),
    ],
    ids=["equal", "parts", "some in the file", "some in the model"],
)
def test_a_cure_is_named_only_where_names_have_something_before_them(
    file: dict[str, int], model: dict[str, int], tmp_path: Path
) -> None:
    """Where shapes differ, or some names only, there is nothing to take off."""
    path, tensors = tmp_path / "m.safetensors", {name: torch.ones(n) for name, n in file.items()}
    write_state(tensors, path)
    wanted = {name: (torch.float32, (n,)) for name, n in model.items()}
    with pytest.raises(io.CheckpointError, match=r"nothing was loaded$"):
        _fit.check_kinds(str(path), "M", wanted, _fit.kinds(tensors))


def test_a_file_of_a_whole_other_model_names_it(tmp_path: Path) -> None:
    """What io.save wrote says what it is."""
    io.save(models.get_model("cnn"), tmp_path / "m.safetensors")
    said = refusal(lambda: io.load_state(nn.Linear(2, 2), tmp_path / "m.safetensors"), "mismatch")
    assert "it holds the whole model 'cnn', which io.load makes" in said


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    """Eight of a kind, and the number of the rest."""
    io.save_state(nn.Sequential(*[nn.Linear(1, 1) for _ in range(50)]), tmp_path / "m.safetensors")
    said = refusal(lambda: io.load_state(nn.Linear(1, 1), tmp_path / "m.safetensors"), "mismatch")
    assert "(and 92 more like it)" in said
    assert len(said) < 1000


def test_wrappers_are_seen_through(tmp_path: Path) -> None:
    """DataParallel and torch.compile leave no trace in a file, and a file loads into what they wrapped."""
    source, path = nn.Linear(2, 2), tmp_path / "m.safetensors"
    io.save_state(nn.DataParallel(source), path)
    assert list(io.inspect(path)["tensors"]) == ["bias", "weight"]
    target = nn.Linear(2, 2)
    io.load_state(nn.DataParallel(target), path)
    assert torch.equal(source.weight, target.weight)


class Masked(nn.Module):
    """A layer with a mask of -inf, as attention has."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    """They are named, unless asked for; the model keeps its own."""
    path, target = tmp_path / "m.safetensors", nn.Linear(2, 2).to(dtype)
    source = nn.Linear(2, 2)
    nn.init.constant_(source.bias, value)
    io.save_state(source.to(dtype), path)
    before = target.bias.detach().clone()
    said = refusal(lambda: io.load_state(target, path), "mismatch")
    assert "'bias' has values that are not finite; nothing was loaded; where such values are meant, give allow_" in said
    assert torch.equal(target.bias.float(), before.float())
    io.load_state(target, path, allow_nonfinite=True)
    assert str(target.bias.tolist()) == str(source.bias.tolist())  # a NaN is no equal of itself


def test_large_finite_values_are_no_mistake(tmp_path: Path) -> None:
    """A sum that overflows does not convict."""
    source = nn.Linear(100, 1)
    nn.init.constant_(source.weight, 3e38)
    io.save_state(source, tmp_path / "m.safetensors")
    io.load_state(nn.Linear(100, 1), tmp_path / "m.safetensors")


def test_a_mask_of_the_models_own_may_be_infinite(tmp_path: Path) -> None:
    """A buffer may hold what the model itself has there, in load and load_state; nothing else."""
    path = tmp_path / "m.safetensors"
    models.register("masked")(Masked)
    try:
        io.save(Masked(), path)
        assert isinstance(io.load(path), Masked)
        target = Masked()
        io.load_state(target, path)
        target.mask.zero_()
        assert "'mask' has values that are not finite" in refusal(lambda: io.load_state(target, path), "mismatch")
    finally:
        _zoo.forget("masked")


def test_names_of_one_tensor_must_agree(tmp_path: Path) -> None:
    """A file that gives tied parameters two values is refused; the model stays tied."""
    source = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    io.save_state(source, tmp_path / "m.safetensors")
    target = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    target[1].weight = target[0].weight
    said = refusal(lambda: io.load_state(target, tmp_path / "m.safetensors"), "mismatch")
    assert "'0.weight' and '1.weight' differ, but are one tensor in the model" in said


class Stubborn(nn.Linear):
    """A layer that changes itself, then refuses."""

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.weight = nn.Parameter(torch.zeros(1))
        raise KeyError("no")


@pytest.mark.parametrize("kind", ["raises", "expanded", "inference"])
def test_a_copy_that_fails_half_way_leaves_nothing(kind: str, tmp_path: Path) -> None:
    """The model's own code raises, or its memory cannot be written: all tensors and values are as before."""
    path = tmp_path / "m.safetensors"
    io.save_state(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), path)
    target = nn.Sequential(nn.Linear(2, 2), Stubborn(2, 2) if kind == "raises" else nn.Linear(2, 2))
    if kind == "expanded":
        target[1].weight = nn.Parameter(torch.zeros(1, 1).expand(2, 2))
    if kind == "inference":
        with torch.inference_mode():
            target[1].weight = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    target[0].weight.requires_grad_(False)
    before = {name: (id(p), p.detach().clone(), p.requires_grad) for name, p in target.named_parameters()}
    assert "nothing was loaded" in refusal(lambda: io.load_state(target, path), "mismatch")
    for name, parameter in target.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.requires_grad == before[name][2]


class Drawing(nn.Linear):
    """A layer whose constructor draws from all generators, and wants a size."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(size, 2)
        self.size = size
        random.random()
        np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("fits", [True, False])
def test_no_generator_and_no_default_notices(fits: bool, tmp_path: Path) -> None:
    """Of python, numpy and torch, in a load that succeeds and in one that is refused."""
    path = tmp_path / "m.safetensors"
    models.register("drawing")(Drawing)
    try:
        io.save(Drawing(), path)
        if not fits:
            rewrite(path, lambda h: h["__metadata__"].update({"torchbasics.config": '{"size":3}'}), seal=True)
        before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
        io.load(path) if fits else refusal(lambda: io.load(path), "mismatch")
        assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == before  # noqa: NPY002
        assert torch.get_default_dtype() == torch.float32
    finally:
        _zoo.forget("drawing")


@pytest.mark.parametrize("name", models.list_models())
def test_a_built_in_model_is_made_without_a_draw(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So its generators need no putting back, which would disturb other threads: what these draw meanwhile counts."""
    path, build = tmp_path / "m.safetensors", _zoo.build
    inits: list[dict[str, Any]] = [{"init": i, "bias_init": i} for i in (*INITS, None)] if name == "mlp" else [{}]
    for config in inits:
        io.save(models.get_model(name, **config), path)
        before = torch.get_rng_state()
        io.load(path)
        assert torch.equal(torch.get_rng_state(), before), config

    drawn: list[Tensor] = []

    def meanwhile(name: str, **config: Any) -> nn.Module:
        drawn.append(torch.rand(9))
        return build(name, **config)

    monkeypatch.setattr(_zoo, "build", meanwhile)
    torch.manual_seed(0)
    expected = torch.rand(18)
    torch.manual_seed(0)
    io.load(path)  # while it is made, another thread draws
    assert torch.equal(torch.cat([*drawn, torch.rand(9)]), expected)


GIANTS: list[tuple[str, Mapping[str, object]]] = [
    ("mlp", {"hidden": [10**9]}),
    ("mlp", {"hidden": [20_000, 20_000]}),
    ("mlp", {"hidden": [1] * 20_000}),
    ("mlp", {"in_features": 2**62}),
    ("cnn", {"channels": [10**6, 10**6]}),
    ("cnn", {"image_size": 10**5}),
    ("stacked_rnn", {"num_layers": 10**9}),
    ("stacked_rnn", {"hidden_size": 30_000}),
    ("rnn_classifier", {"num_classes": 10**8}),
    ("dcgan", {"width": 10**6}),
    ("dcgan", {"depth": 10**9}),
    ("dcgan", {"depth": 20}),
]


@pytest.mark.parametrize(
    ("name", "change"), GIANTS, ids=[f"{n}-{next(iter(c))}-{i}" for i, (n, c) in enumerate(GIANTS)]
)
def test_a_small_file_makes_no_giant(name: str, change: Mapping[str, object], tmp_path: Path) -> None:
    """Its config may ask for any size; it is refused before the memory is touched."""
    path = tmp_path / "m.safetensors"
    io.save(models.get_model("mlp", in_features=2, hidden=(), out_features=2), path)
    config = {**_plain_config(name), **change}
    said = {"torchbasics.model": name, "torchbasics.config": json.dumps(config)}
    rewrite(path, lambda h: h["__metadata__"].update(said), seal=True)
    assert path.stat().st_size < 100_000
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(io.CheckpointError) as caught:
        io.load(path)
    assert caught.value.reason in ("too-large", "unsupported")  # unsupported: the system has no such memory
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kilobytes
    assert time.process_time() - start < 5  # seconds, where 0.1 is normal


@pytest.mark.parametrize("text", ["a" * 10**6, "\x1b[2J\n" * 1000], ids=["long", "escapes"])
def test_the_words_of_a_constructor_are_shown_short_and_plain(text: str, tmp_path: Path) -> None:
    """It may repeat what the file says: a megabyte, or what moves a terminal's cursor."""

    class Repeating(nn.Linear):
        def __init__(self, text: str = "") -> None:
            super().__init__(1, 1)
            self.text = text
            if text:
                raise ValueError(text)

    path = tmp_path / "m.safetensors"
    models.register("repeating")(Repeating)
    try:
        io.save(Repeating(), path)
        config = {"torchbasics.config": json.dumps({"text": text})}
        rewrite(path, lambda h: h["__metadata__"].update(config), seal=True)
        said = refusal(lambda: io.load(path), "unsupported")
    finally:
        _zoo.forget("repeating")
    assert "holds a 'repeating' that this torchbasics cannot make: " in said
    assert said.isprintable()
    assert len(said) < 5000


def _plain_config(name: str) -> dict[str, Any]:
    return dict(_zoo.entry(name).defaults)


@pytest.mark.parametrize(
    ("header", "reason", "message"),
    [
        (
            {f"t{i}": {"dtype": "F32", "shape": [25_000], "data_offsets": [0, 100_000]} for i in range(10)},
            "damaged",
            "does not begin",
        ),
        (
            {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(1500)},
            "mismatch",
            "more like",
        ),
        ({"t": {"dtype": "F32", "shape": [2**62, 0, 2**62], "data_offsets": [0, 0]}}, "damaged", "impossible shape"),
        ({"t": {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 4]}}, "damaged", "impossible shape"),
        ({"t": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, "truncated", "its tensors have"),
        ({"t": ["F32", [1], [0, 4]]}, "damaged", "is not dtype, shape and data_offsets"),
        ({"": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "damaged", "'' is no tensor's name"),
        ({"a\0b": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "damaged", "is no tensor's name"),
        ({"a\x1b[2J": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "damaged", "is no tensor's name"),
        ({"\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "damaged", "is no tensor's name"),
        ({"t": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, "unsupported", "holds 't' of dtype C64"),
        ({"a" * 90_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "mismatch", r"aaa\.\.\.'"),
    ],
    ids=[
        "overlap",
        "many",
        "overflow",
        "dims",
        "huge",
        "array",
        "empty",
        "nul",
        "escape",
        "surrogate",
        "complex",
        "long",
    ],
)
def test_attacks_in_the_header_cost_little(header: dict[str, Any], reason: str, message: str, tmp_path: Path) -> None:
    """At most 100 kB of file, a few MB of memory; refused by its reason, in a message of readable length."""
    path, data = tmp_path / "m.safetensors", b""
    if reason == "unsupported":
        data = bytes(8)
    path.write_bytes(unsealed_bytes(header, data))
    assert path.stat().st_size < 110_000
    before = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(io.CheckpointError, match=message) as caught:
            io.load_state(nn.Linear(1, 1), path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 2000
    assert time.process_time() - before < 5  # seconds, where 0.1 is normal


def test_a_header_beyond_the_limit_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read, nor written; a sparse file of any size costs nothing."""
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write((2 * 10**7).to_bytes(8, "little") + b"{")
        file.truncate(10**10)
    said = refusal(lambda: io.inspect(path), "too-large")
    assert "has a header of 20000000 bytes; at most 10000000 are read" in said
    monkeypatch.setattr(_safetensors, "HEADER_LIMIT", 500)
    with pytest.raises(ValueError, match=r"metadata take \d+ bytes; at most 500 can be written; keep the rest in"):
        io.save(models.get_model("mlp"), path)


def test_a_file_that_does_not_fit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file costs no memory where the model is another."""
    io.save_state(nn.Linear(1000, 1000), tmp_path / "m.safetensors")
    monkeypatch.setattr(_safetensors.File, "read", lambda self, into=None: pytest.fail("read"))
    refusal(lambda: io.load_state(nn.Linear(1, 1), tmp_path / "m.safetensors"), "mismatch")


def test_a_name_that_cannot_be_shown_is_not_written(tmp_path: Path) -> None:
    """The writer keeps the reader's rules."""
    model = nn.Module()
    model.register_parameter("a\nb", nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match=r"the name 'a\\nb', which cannot be written; use printable characters"):
        io.save_state(model, tmp_path / "m.safetensors")


def test_truth_values_are_0_and_1(tmp_path: Path) -> None:
    """Another byte in a tensor of bools is refused: what computing with it gives is undefined."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(unsealed_bytes({"t": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\x07"))
    model = nn.Module()
    model.register_buffer("t", torch.zeros(1, dtype=torch.bool))
    assert "'t' has truth values other than 0 and 1" in refusal(lambda: io.load_state(model, path), "damaged")


def test_a_file_of_many_pieces_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashed in threads or not, piece by piece, the digest is the same and every byte is under it."""
    source, path = nn.Linear(50, 60), tmp_path / "m.safetensors"
    monkeypatch.setattr(_safetensors, "PIECE", 1000)
    monkeypatch.setattr(_safetensors, "SMALL", 0)
    io.save_state(source, path)
    threaded = path.read_bytes()
    monkeypatch.setattr(_safetensors, "SMALL", 2**30)
    io.save_state(source, path)
    assert path.read_bytes() == threaded
    monkeypatch.setattr(_safetensors, "SMALL", 0)
    target = nn.Linear(50, 60)
    io.load_state(target, path)
    assert torch.equal(source.weight, target.weight)
    path.write_bytes(threaded[:-1] + bytes([threaded[-1] ^ 1]))
    refusal(lambda: io.load_state(target, path), "damaged")


def test_a_finite_check_is_as_isfinite() -> None:
    """One bad value anywhere is found, in every dtype."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2):
        for value in (0.0, 5e4, torch.nan, torch.inf, -torch.inf):
            tensor = torch.full((7,), 5e4).to(dtype)
            tensor[3] = value
            assert _fit._finite(tensor) == bool(tensor.double().isfinite().all())
