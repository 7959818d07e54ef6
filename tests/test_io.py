"""Files: what is saved comes back, what is altered is refused, and nothing is ever half done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from torchbasics import _zoo, io, models
from torchbasics.training import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Tied(nn.Module):
    """Two layers that share their weight, of any dtype, with empty and zero-dimensional state."""

    def __init__(self, size: int = 3, sizes: tuple[tuple[int, ...], ...] = ((1, 2), ()), scale: float = 0.1) -> None:
        super().__init__()
        self.size, self.sizes, self.scale = size, sizes, scale
        self.first = nn.Linear(size, size)
        self.second = nn.Linear(size, size, bias=False)
        self.second.weight = self.first.weight
        self.empty: Tensor
        self.zero_dim: Tensor
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("zero_dim", torch.tensor(7))


@pytest.fixture
def registered() -> Iterator[None]:
    """Give the class `Tied` a name for one test."""
    models.register("tied")(Tied)
    yield
    _zoo.forget("tied")


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Tell whether two modules hold the same parameters and buffers, bit for bit."""
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("name", models.list_models())
def test_every_model_of_the_zoo_comes_back(name: str, tmp_path: Path) -> None:
    """Class, config, parameters and buffers come back; the model comes in eval mode."""
    model = models.get_model(name)
    io.save(model, tmp_path / "m.safetensors")
    loaded = io.load(tmp_path / "m.safetensors")
    assert type(loaded) is type(model)
    assert _zoo.config_of(loaded) == _zoo.config_of(model)
    assert same_state(loaded, model)
    assert not loaded.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("registered")
def test_tied_empty_and_zero_dim_tensors_come_back_in_their_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    """Tied parameters stay tied; empty and zero-dimensional buffers and every floating dtype survive."""
    model = Tied(4).to(dtype)
    io.save(model, tmp_path / "m.safetensors")
    loaded = io.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, Tied)
    assert same_state(loaded, model)
    assert loaded.first.weight is loaded.second.weight
    assert loaded.first.weight.dtype == dtype


@pytest.mark.usefixtures("registered")
def test_tuples_in_the_config_come_back_as_tuples(tmp_path: Path) -> None:
    """JSON has no tuples, yet nested ones come back as they were; so do floats, to the last bit."""
    io.save(Tied(3, ((5,), (6, 7)), 0.1 + 0.2), tmp_path / "m.safetensors")
    loaded = io.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, Tied)
    assert (loaded.sizes, loaded.scale) == (((5,), (6, 7)), 0.1 + 0.2)


@pytest.mark.parametrize("name", ["cnn", "dcgan"])
def test_the_same_model_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Two files of one model, and of the model loaded from the first, are equal byte for byte."""
    model = models.get_model(name)
    io.save(model, tmp_path / "a.safetensors", metadata={"b": 1, "a": [2]})
    io.save(model, tmp_path / "b.safetensors", metadata={"b": 1, "a": [2]})
    io.save(io.load(tmp_path / "a.safetensors"), tmp_path / "c.safetensors", metadata={"b": 1, "a": [2]})
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}) == 1


def test_plain_safetensors_reads_our_files(tmp_path: Path) -> None:
    """The safetensors library reads a file of ours, and finds the state_dict in it."""
    model = nn.Linear(3, 2)
    io.save_state(model, tmp_path / "m.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert {name: t.tolist() for name, t in loaded.items()} == {n: t.tolist() for n, t in model.state_dict().items()}


def test_load_leaves_the_random_state_alone(tmp_path: Path) -> None:
    """Making the model takes random numbers, but the global generator does not notice."""
    io.save(models.get_model("mlp"), tmp_path / "m.safetensors")
    before = torch.get_rng_state()
    io.load(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_class_without_a_name_is_not_saved(tmp_path: Path) -> None:
    """The error names both ways out, and nothing is written."""
    with pytest.raises(TypeError, match=r"Linear is not registered.*@models.register\('linear'\).*io.save_state"):
        io.save(nn.Linear(2, 2), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sizes": (torch.ones(1),)},
            r"Tied's argument 'sizes' has the value tensor\(\[1.\]\), which cannot be written",
        ),
        ({"sizes": {1: 2}}, "Tied's argument 'sizes' has the key 1, which cannot be written to a file; use text"),
    ],
    ids=["tensor", "key"],
)
@pytest.mark.usefixtures("registered")
def test_an_argument_that_is_no_data_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What would not come back from JSON is refused when saving, by the argument's name."""
    model = Tied()
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(TypeError, match=message):
        io.save(model, tmp_path / "m.safetensors")


def test_metadata_that_is_no_data_is_refused(tmp_path: Path) -> None:
    """Metadata is JSON."""
    with pytest.raises(TypeError, match="metadata has the value <object"):
        io.save(models.get_model("mlp"), tmp_path / "m.safetensors", metadata={"a": object()})


@pytest.mark.parametrize("write", [io.save, io.save_state], ids=["save", "save_state"])
def test_the_path_must_say_safetensors(write: Callable[..., None], tmp_path: Path) -> None:
    """Another ending would promise another format; a missing folder is named."""
    with pytest.raises(ValueError, match=r"path must end in .safetensors, got '.*m.pt'"):
        write(models.get_model("mlp"), tmp_path / "m.pt")
    with pytest.raises(FileNotFoundError, match=r"no folder '.*runs' for 'm.safetensors'; make it first"):
        write(models.get_model("mlp"), tmp_path / "runs" / "m.safetensors")


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (nn.LazyLinear(2), ValueError, "'weight' has no shape yet; run the model on a batch first"),
        (nn.Linear(2, 2, device="meta"), TypeError, r"'bias' is a tensor .*meta.* that cannot be written"),
        (nn.Linear(2, 2, dtype=torch.complex64), TypeError, "complex64, cpu.* that cannot be written"),
    ],
    ids=["lazy", "meta", "complex"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_state_that_cannot_be_written_is_refused(
    state: nn.Module, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """Tensors without data, or of a dtype that files do not have, are named."""
    with pytest.raises(error, match=message):
        io.save_state(state, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    """A module's extra state has no place in the file."""

    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

    with pytest.raises(TypeError, match="'_extra_state' in the model's state is no tensor but dict"):
        io.save_state(Extra(2, 2), tmp_path / "m.safetensors")


@pytest.mark.usefixtures("registered")
def test_a_model_that_is_not_registered_here_is_named(tmp_path: Path) -> None:
    """Loading needs the class; the error names it and what to do."""
    io.save(Tied(), tmp_path / "m.safetensors")
    _zoo.forget("tied")
    with pytest.raises(io.CheckpointError, match="holds the model 'tied', which is not registered here") as caught:
        io.load(tmp_path / "m.safetensors")
    assert caught.value.reason == "unsupported"


def test_inspect_shows_what_was_saved(tmp_path: Path) -> None:
    """Model, config, history, recipe, metadata and tensors are there as plain data."""
    path = tmp_path / "m.safetensors"
    history = History([{"loss": 1.0}, {"loss": 0.5}])
    io.save(models.get_model("mlp", hidden=(4,)), path, history=history, metadata={"classes": ["a", "b"]})
    report = io.inspect(path)
    assert (report["kind"], report["model"], report["intact"]) == ("model", "mlp", True)
    assert report["config"]["hidden"] == [4]
    assert report["history"] == history.rows
    assert report["metadata"] == {"classes": ["a", "b"]}
    assert report["bytes"] == path.stat().st_size
    assert report["elements"] == 784 * 4 + 4 + 4 * 10 + 10
    assert {"dtype": "float32", "shape": (4, 784)} in report["tensors"].values()
    json.dumps(report)


def test_a_plain_sequence_is_a_history_too(tmp_path: Path) -> None:
    """Any sequence of mappings can be saved as the history."""
    path = tmp_path / "m.safetensors"
    io.save(models.get_model("mlp", hidden=()), path, history=[{"loss": 1.0}])
    assert io.inspect(path)["history"] == [{"loss": 1.0}]


def test_inspect_shows_foreign_and_altered_files(tmp_path: Path) -> None:
    """State files, plain safetensors, pickles, and files whose digest does not hold are shown for what they are."""
    small = tmp_path / "m.safetensors"
    io.save_state(nn.Linear(1, 1), small)
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    torch.save({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "m.pt")
    assert io.inspect(small)["kind"] == "state"
    assert io.inspect(tmp_path / "plain.safetensors")["kind"] == "tensors"
    assert io.inspect(tmp_path / "plain.safetensors")["intact"] is None
    assert io.inspect(tmp_path / "m.pt")["tensors"] == {"a": {"dtype": "float16", "shape": (2,)}}
    altered = bytearray(small.read_bytes())
    altered[-1] ^= 1
    small.write_bytes(altered)
    assert io.inspect(small)["intact"] is False


@pytest.mark.parametrize("name", models.list_models())
def test_an_exported_program_computes_the_same_for_any_batch(name: str, tmp_path: Path) -> None:
    """A .pt2 gives the model's outputs for batches of other sizes than the example's; the mode stays."""
    model: Any = models.get_model(name)
    io.export(model, tmp_path / "m.pt2")
    assert model.training
    program = torch.export.load(tmp_path / "m.pt2").module()
    for n in (3, 7):
        inputs = torch.rand_like(model.example_inputs(n))
        expected, got = model.eval()(inputs), program(inputs)
        for a, b in zip(*([x] if isinstance(x, Tensor) else x for x in (expected, got)), strict=True):
            torch.testing.assert_close(a, b)  # the exported graph may fuse: last bits


def test_an_onnx_file_computes_the_same_for_any_batch(tmp_path: Path) -> None:
    """An ONNX file gives the model's logits in onnxruntime."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model: Any = models.get_model("cnn").eval()
    io.export(model, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    inputs = torch.rand(5, 1, 28, 28)
    (got,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), model(inputs), rtol=1e-4, atol=1e-5)  # another library's kernels


def test_export_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    """Another ending, or a model without an example, is named."""
    with pytest.raises(ValueError, match=r"path must end in .pt2 or .onnx, got '.*m.zip'"):
        io.export(models.get_model("mlp"), tmp_path / "m.zip")
    with pytest.raises(ValueError, match=r"Linear has no example_inputs\(\); give inputs="):
        io.export(nn.Linear(2, 2), tmp_path / "m.pt2")
    io.export(nn.Linear(2, 2), tmp_path / "m.pt2", inputs=torch.zeros(1, 2))
    assert torch.export.load(tmp_path / "m.pt2").module()(torch.zeros(5, 2)).shape == (5, 2)
