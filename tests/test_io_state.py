"""Parameters alone: all of them or none, from our files and from those of torch."""

from __future__ import annotations

import contextlib
import io as memory
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from torchbasics import _zoo, io, models


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Tell whether two modules of one class hold the same values."""
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_load_state_lists_every_difference_and_changes_nothing(tmp_path: Path) -> None:
    """Missing, unexpected, misshaped and wrong-dtype names stand in one error; the model is as it was."""
    path = tmp_path / "m.safetensors"
    source = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 2).double(), "c": nn.Linear(1, 1, bias=False)})
    io.save_state(source, path)
    target = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(2, 2), "d": nn.Linear(1, 1, bias=False)})
    before = {name: t.clone() for name, t in target.state_dict().items()}
    with pytest.raises(io.CheckpointError, match=r"does not fit ModuleDict.*nothing was loaded") as caught:
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
        (
            {"state": {"a": torch.ones(1)}, "epoch": 3},
            "unsupported",
            "is a checkpoint with the state_dict under 'state'",
        ),
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
    """The ending says the format, and only known ones are read; a file that is not there has no format."""
    with pytest.raises(FileNotFoundError, match=r"no file '.*m.bin'"):
        io.load_state(nn.Linear(1, 1), tmp_path / "m.bin")
    (tmp_path / "m.bin").write_text("text")
    with pytest.raises(io.CheckpointError, match=r"ends in '.bin'; load_state reads .safetensors, .pt, .pth, .pkl"):
        io.load_state(nn.Linear(1, 1), tmp_path / "m.bin")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_model_without_memory_is_refused(suffix: str, tmp_path: Path) -> None:
    """Copying to the device "meta" does nothing; with the memory that the message asks for, it loads."""
    source, path = nn.Linear(2, 2), tmp_path / f"m{suffix}"
    io.save_state(source, path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    with torch.device("meta"):
        target = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'weight' is on the device 'meta', .*; call model\.to_empty\(device='cpu'\)"):
        io.load_state(target, path)
    io.load_state(target.to_empty(device="cpu"), path)
    assert same_state(source, target)


def test_a_model_with_a_sparse_buffer_is_refused(tmp_path: Path) -> None:
    """No file has such a tensor: neither save_state nor load_state takes it."""
    model = nn.Linear(2, 2)
    io.save_state(model, tmp_path / "m.safetensors")
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    with pytest.raises(TypeError, match=r"'sparse' is a tensor \(sparse_coo.* that cannot be written"):
        io.save_state(model, tmp_path / "n.safetensors")
    with pytest.raises(TypeError, match=r"'sparse' is a tensor \(torch.sparse_coo\) that no file has; only dense"):
        io.load_state(model, tmp_path / "m.safetensors")


def test_torchs_setting_for_memory_maps_changes_nothing(tmp_path: Path) -> None:
    """What was looked at is what torch reads, from memory."""
    config: Any = pytest.importorskip("torch.utils.serialization").config
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(source.state_dict(), tmp_path / "m.pt")
    with config.patch({"load.mmap": True}):
        with pytest.raises(ValueError, match="mmap"):  # positive control
            torch.load(memory.BytesIO((tmp_path / "m.pt").read_bytes()), weights_only=True)
        io.load_state(target, tmp_path / "m.pt")
    assert same_state(source, target)


class Deaf(nn.Linear):
    """A layer that does not load what it is told to."""

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict({**state, f"{prefix}bias": self.bias}, prefix, *args)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_model_whose_own_code_loads_something_else_is_noticed(suffix: str, tmp_path: Path) -> None:
    """What was not loaded is named, and what was is put back."""
    source, path = nn.Linear(2, 2), tmp_path / f"m{suffix}"
    io.save_state(source, path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    target = Deaf(2, 2)
    before = target.weight.detach().clone()
    with pytest.raises(io.CheckpointError, match=r"'bias' is not as in the file after loading.*own code") as caught:
        io.load_state(target, path)
    assert caught.value.reason == "mismatch"
    assert torch.equal(target.weight, before)


class Overlapping(nn.Module):
    """Two parameters, the second of which is a part of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.arange(4.0))
        self.b = nn.Parameter(self.a.data[:2])


def test_parameters_that_overlap_must_agree(tmp_path: Path) -> None:
    """A file that gives their common part two values is refused, by load too; one that agrees loads."""
    path, target = tmp_path / "m.safetensors", Overlapping()
    models.register("overlapping")(Overlapping)
    try:
        io.save(target, path)
        io.load_state(target, path)
        loaded = io.load(path)
        assert same_state(loaded, target)
        assert loaded.get_parameter("b").data_ptr() == loaded.get_parameter("a").data_ptr()
        contrary = Overlapping()
        contrary.b = nn.Parameter(torch.tensor([7.0, 8.0]))
        io.save(contrary, path)
        for load in (io.load, lambda p: io.load_state(target, p)):
            with pytest.raises(io.CheckpointError, match=r"'a' is not as in the file after loading.*overlap"):
                load(path)
        assert target.a.tolist() == [0, 1, 2, 3]
    finally:
        _zoo.forget("overlapping")


def test_a_complex_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """In either part; others load."""
    target = nn.Linear(1, 1, dtype=torch.complex64)
    for value in (complex(torch.nan, 0), complex(0, torch.inf), complex(1, 2)):
        source = nn.Linear(1, 1, dtype=torch.complex64)
        nn.init.constant_(source.bias, value)  # type: ignore[arg-type]  # complex too
        torch.save(source.state_dict(), tmp_path / "m.pt")
        if value != complex(1, 2):
            with pytest.raises(io.CheckpointError, match="'bias' has values that are not finite"):
                io.load_state(target, tmp_path / "m.pt")
    io.load_state(target, tmp_path / "m.pt")
    assert target.bias.item() == complex(1, 2)


@pytest.mark.parametrize("scope", ["with", "default"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_default_device_changes_nothing(scope: str, suffix: str, tmp_path: Path) -> None:
    """Files are read to the CPU, and from there into the model, whatever new tensors are made on."""
    source, target, path = (
        models.MLP(2, (3,), 2, batch_norm=True),
        models.MLP(2, (3,), 2, batch_norm=True),
        tmp_path / f"m{suffix}",
    )
    try:
        with torch.device("meta") if scope == "with" else contextlib.nullcontext():
            if scope == "default":
                torch.set_default_device("meta")
            if suffix == ".safetensors":
                io.save(source, path)
                assert same_state(io.load(path), source)
            else:
                torch.save(source.state_dict(), path)
            io.load_state(target, path)
    finally:
        if scope == "default":
            torch.set_default_device(None)
            vars(torch._GLOBAL_DEVICE_CONTEXT).pop("device_context", None)  # its None breaks get_default_device in 2.6
    assert same_state(source, target)
