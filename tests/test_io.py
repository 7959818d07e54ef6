"""Files: what is saved comes back, what is altered is refused, and nothing is ever half done."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from torchbasics import _files, _zoo, io, models
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
    """save and load keep class, config, parameters and buffers; the model comes in eval mode."""
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
        ({"sizes": (torch.ones(1),)}, r"Tied's argument 'sizes' has the value tensor\(\[1.\]\), which cannot be written"),
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


# Reading what was altered


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a small saved model's path."""
    path = tmp_path / "m.safetensors"
    io.save_state(nn.Linear(1, 1), path)
    return path


def test_every_flipped_bit_is_refused(small: Path) -> None:
    """No bit of a file can change unnoticed, and each refusal is a CheckpointError."""
    content = small.read_bytes()
    target = nn.Linear(1, 1)
    before = [p.clone() for p in target.parameters()]
    for bit in range(8 * len(content)):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        small.write_bytes(altered)
        with pytest.raises(io.CheckpointError):
            io.load_state(target, small)
    assert all(torch.equal(p, q) for p, q in zip(target.parameters(), before, strict=True))


def test_every_truncation_is_refused(small: Path) -> None:
    """A file cut anywhere is refused, and so is one with bytes after its end."""
    content = small.read_bytes()
    for length in range(len(content)):
        small.write_bytes(content[:length])
        with pytest.raises(io.CheckpointError):
            io.load_state(nn.Linear(1, 1), small)
    small.write_bytes(content + b"\0")
    with pytest.raises(io.CheckpointError, match="is damaged: its tensors have 8 bytes, the file has 9 for them"):
        io.load_state(nn.Linear(1, 1), small)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = False) -> None:
    """Change the header of the file at *path*; with *seal*, make its digest hold again."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    if seal:
        fields = {k.removeprefix("torchbasics."): v for k, v in header.pop("__metadata__").items()}
        slots = {k: _files.Slot(v["dtype"], tuple(v["shape"]), *v["data_offsets"]) for k, v in header.items()}
        zeros = _files._encode(slots, {**fields, "digest": "0" * 64})
        digest = hashlib.sha256(zeros + content[8 + length :]).hexdigest()
        path.write_bytes(_files._encode(slots, {**fields, "digest": digest}) + content[8 + length :])
    else:
        text = json.dumps(header, separators=(",", ":")).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def entry(header: dict[str, Any]) -> dict[str, Any]:
    """Return the header's entry for the weight."""
    made = header["weight"]
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        (lambda h: entry(h).update(dtype="F99"), "damaged", "'weight' has the unknown dtype 'F99'"),
        (lambda h: entry(h).update(dtype=["F32"]), "damaged", "'weight' has the unknown dtype"),
        (lambda h: entry(h).update(shape=[-1, -1]), "damaged", "shape or data_offsets of 'weight' are not whole"),
        (lambda h: entry(h).update(shape=[True, 1]), "damaged", "shape or data_offsets of 'weight' are not whole"),
        (lambda h: entry(h).update(shape=[2, 1]), "damaged", "the bytes of 'weight' do not fit its shape"),
        (lambda h: entry(h).update(shape=[1] * 65), "damaged", "'weight' has an impossible shape"),
        (lambda h: entry(h).update(more=1), "damaged", "the entry of 'weight' is not dtype, shape and data_offsets"),
        (lambda h: entry(h).update(data_offsets=[0, 4]), "damaged", "does not begin where the tensor before it ends"),
        (lambda h: h.pop("weight"), "damaged", "is damaged: its tensors have 4 bytes, the file has 8 for them"),
        (lambda h: h["__metadata__"].update(a=1), "damaged", "metadata other than text"),
        (lambda h: h["__metadata__"].pop("torchbasics.kind"), "damaged", "its metadata lacks torchbasics.kind"),
        (lambda h: h["__metadata__"].update({"torchbasics.x": ""}), "damaged", "has unknown torchbasics keys"),
        (lambda h: h["__metadata__"].update({"a": ""}), "damaged", "its digest does not match its content"),
        (
            lambda h: h["__metadata__"].update({"torchbasics.format": "2"}),
            "format-version",
            "has format version '2', this torchbasics reads '1'; update torchbasics",
        ),
    ],
    ids=[
        *("dtype", "dtype-type", "negative", "bool", "shape", "dims", "fields", "overlap", "hole"),
        *("metadata", "key-gone", "key-more", "foreign-key", "version"),
    ],
)
def test_a_wrong_header_is_refused(
    change: Callable[[dict[str, Any]], object], reason: str, message: str, small: Path
) -> None:
    """Each way in which a header can be wrong has its reason and its words."""
    rewrite(small, change)
    with pytest.raises(io.CheckpointError, match=message) as caught:
        io.load_state(nn.Linear(1, 1), small)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"", "truncated", "is truncated: it has 0 bytes"),
        (b"PK\x03\x04 some archive", "not-a-checkpoint", "is no safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "not-a-checkpoint", "is no safetensors file"),
        (b"\x09\0\0\0\0\0\0\0{}", "truncated", "its header has 9 bytes, the file 10"),
        (b"\x03\0\0\0\0\0\0\0{\xff}", "damaged", "its header is wrong"),
        (b'\x11\0\0\0\0\0\0\0{"a":{},"a":{}}  ', "damaged", "a name stands in it twice"),
        (b"\x70\x17\0\0\0\0\0\0" + b'{"a":' * 1200, "damaged", "its header is wrong"),
        (b"\x02\0\0\0\0\0\0\0 1", "damaged", "not a JSON object"),
    ],
    ids=["empty", "zip", "list", "cut", "utf-8", "twice", "deep", "number"],
)
def test_what_is_no_file_of_ours_is_refused(content: bytes, reason: str, message: str, tmp_path: Path) -> None:
    """Other bytes under our ending are refused with the reason."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (io.load, io.inspect):
        with pytest.raises(io.CheckpointError, match=message) as caught:
            read(path)
        assert caught.value.reason == reason


@pytest.mark.parametrize("read", [io.load, io.inspect, lambda p: io.load_state(nn.Linear(1, 1), p)])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_a_missing_file_is_file_not_found(read: Callable[[Path], object], name: str, tmp_path: Path) -> None:
    """A path that is not there is no CheckpointError; a folder is."""
    with pytest.raises(FileNotFoundError, match=rf"no file '.*{name}'"):
        read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(io.CheckpointError, match="is no "):
        read(tmp_path / name)


@pytest.mark.usefixtures("registered")
def test_a_model_that_is_not_registered_here_is_named(tmp_path: Path) -> None:
    """Loading needs the class; the error names it and what to do."""
    io.save(Tied(), tmp_path / "m.safetensors")
    _zoo.forget("tied")
    with pytest.raises(io.CheckpointError, match="holds the model 'tied', which is not registered here") as caught:
        io.load(tmp_path / "m.safetensors")
    assert caught.value.reason == "unsupported"


def test_load_of_parameters_alone_names_load_state(small: Path, tmp_path: Path) -> None:
    """A file of save_state, or of safetensors, holds no model."""
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "plain.safetensors")
    for path in (small, tmp_path / "plain.safetensors"):
        with pytest.raises(io.CheckpointError, match="holds parameters only; make the model and use io.load_state"):
            io.load(path)


@pytest.mark.parametrize(
    ("field", "value", "reason", "message"),
    [
        ("config", "{", "damaged", "its config is no JSON"),
        ("config", '{"hiden": [1]}', "unsupported", "unknown argument 'hiden'; did you mean 'hidden'"),
        ("config", '{"hidden": [-1]}', "unsupported", "cannot make: hidden"),
        ("config", '{"hidden": [3]}', "mismatch", "does not fit MLP"),
    ],
    ids=["json", "unknown", "value", "other"],
)
def test_a_config_that_does_not_fit_is_refused(
    field: str, value: str, reason: str, message: str, tmp_path: Path
) -> None:
    """A file whose digest holds can still describe a model that cannot be made, or another one."""
    path = tmp_path / "m.safetensors"
    io.save(models.get_model("mlp", hidden=(4,)), path)
    rewrite(path, lambda h: h["__metadata__"].update({f"torchbasics.{field}": value}), seal=True)
    with pytest.raises(io.CheckpointError, match=message) as caught:
        io.load(path)
    assert caught.value.reason == reason


# Parameters alone


def test_load_state_lists_every_difference_and_changes_nothing(tmp_path: Path) -> None:
    """Missing, unexpected, misshaped and wrong-dtype names stand in one error; the model is as it was."""
    path = tmp_path / "m.safetensors"
    source = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 2).double(), "c": nn.Linear(1, 1, bias=False)})
    io.save_state(source, path)
    target = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(2, 2), "d": nn.Linear(1, 1, bias=False)})
    before = {name: t.clone() for name, t in target.state_dict().items()}
    with pytest.raises(io.CheckpointError, match="does not fit ModuleDict.*nothing was loaded") as caught:
        io.load_state(target, path)
    for part in (
        "missing 'd.weight'",
        "unexpected 'c.weight'",
        r"'a.weight' has shape (3, 2), needs (3, 3)",
        "'b.weight' has dtype torch.float64, needs torch.float32",
        "'b.bias' has dtype torch.float64",
    ):
        assert part in str(caught.value)
    assert caught.value.reason == "mismatch"
    assert all(torch.equal(t, before[name]) for name, t in target.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".safetensors"])
def test_state_dicts_of_torch_and_safetensors_are_read(suffix: str, tmp_path: Path) -> None:
    """Files of torch.save and of the safetensors library load into any module."""
    source, path = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), tmp_path / f"m{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path)
    target = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    io.load_state(target, path)
    assert same_state(source, target)


def test_the_legacy_format_is_read(tmp_path: Path) -> None:
    """The files that torch wrote before 1.6 are read as well."""
    source = nn.Linear(3, 2)
    torch.save(source.state_dict(), tmp_path / "m.pkl", _use_new_zipfile_serialization=False)
    target = nn.Linear(3, 2)
    io.load_state(target, tmp_path / "m.pkl")
    assert same_state(source, target)


class Harmful:
    """What an attacker writes: reading it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Return the call that reading makes."""
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "whole-model-pickle", "holds a whole pickled model.*state_dict"),
        ({"state": {"a": torch.ones(1)}, "epoch": 3}, "unsupported", "holds no state_dict: 'state' is dict"),
        ([torch.ones(1)], "unsupported", "holds list, not a state_dict"),
        ({0: torch.ones(1)}, "unsupported", "holds no state_dict: 0 is Tensor"),
        ({"a": torch.ones(1).expand(9)}, "unsafe", "holds 'a', which is no plain dense tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "unsafe", "holds 'a', which is no plain dense tensor"),
    ],
    ids=["whole", "nested", "list", "key", "expanded", "sparse"],
)
def test_pickles_of_anything_else_are_refused(content: object, reason: str, message: str, tmp_path: Path) -> None:
    """A .pt that is no state_dict of dense tensors is refused with the reason."""
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(io.CheckpointError, match=message) as caught:
        io.load_state(nn.Linear(1, 1), tmp_path / "m.pt")
    assert caught.value.reason == reason


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    """The call in the file is refused by name; torch.load without the guard would make it (positive control)."""
    harmed = tmp_path / "harmed"
    torch.save({"a": Harmful(harmed)}, tmp_path / "m.pt")
    with pytest.raises(io.CheckpointError, match=r"asks to run \S*mkdir.*it was not run") as caught:
        io.load_state(nn.Linear(1, 1), tmp_path / "m.pt")
    assert caught.value.reason == "unsafe"
    assert not harmed.exists()
    torch.load(tmp_path / "m.pt", weights_only=False)
    assert harmed.exists()


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"", "truncated", "is empty"),
        (b"hello, world, I am text", "not-a-checkpoint", "is no state_dict that torch can read"),
        (pickle.dumps({"a": 1}), "not-a-checkpoint", "is no state_dict that torch can read"),
    ],
    ids=["empty", "text", "pickle"],
)
def test_other_bytes_under_a_pickles_ending_are_refused(
    content: bytes, reason: str, message: str, tmp_path: Path
) -> None:
    """Whatever torch raises becomes one CheckpointError."""
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(io.CheckpointError, match=message) as caught:
        io.load_state(nn.Linear(1, 1), tmp_path / "m.pth")
    assert caught.value.reason == reason


def test_another_ending_is_refused(tmp_path: Path) -> None:
    """The ending says the format, and only known ones are read."""
    with pytest.raises(io.CheckpointError, match="ends in '.bin'; load_state reads .safetensors, .pt, .pth, .pkl"):
        io.load_state(nn.Linear(1, 1), tmp_path / "m.bin")


# Looking into files


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


def test_inspect_shows_foreign_and_altered_files(small: Path, tmp_path: Path) -> None:
    """State files, plain safetensors, pickles, and files whose digest does not hold are shown for what they are."""
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


# Writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """An error while writing changes nothing; writing in place would (positive control)."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), _files.atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt), path.open("wb") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"half"


def test_the_file_and_its_folder_are_synced_around_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content reaches the disk before the name does, and the name before the call returns."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    with _files.atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert calls == ["file", "replace", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="modes and links are POSIX")
def test_modes_and_links_stay(tmp_path: Path) -> None:
    """A new file has the umask's mode, a replaced one keeps its own, a link goes on naming the file."""
    umask = os.umask(0o027)
    try:
        with _files.atomic_write(tmp_path / "file"):
            pass
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    (tmp_path / "file").chmod(0o604)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with _files.atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o604


def test_a_folder_is_not_written_to(tmp_path: Path) -> None:
    """A path that is there and is no regular file is refused."""
    with pytest.raises(ValueError, match="is no regular file; give the path of a file"), _files.atomic_write(tmp_path):
        pass


# For other programs


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
