"""Files that were altered, cut, or are no files of ours: refused, each with its reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from torch import nn

from torchbasics import io, models

if TYPE_CHECKING:
    from collections.abc import Callable


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
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    change(header)
    path.write_bytes(seal_bytes(header, data) if seal else unsealed_bytes(header, data))


def unsealed_bytes(header: dict[str, Any], data: bytes) -> bytes:
    """Return a file of that header and those data."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def seal_bytes(header: dict[str, Any], data: bytes) -> bytes:
    """Return a file of that header and those data whose digest holds, written as the module docstring says."""
    header = {**header, "__metadata__": {**header["__metadata__"], "torchbasics.digest": "0" * 64}}
    header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **dict(sorted(header.items()))}

    def encode() -> bytes:
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    digest = hashlib.sha256(encode())
    for start, stop in sorted(slot["data_offsets"] for name, slot in header.items() if name != "__metadata__"):
        for at in range(start, stop, 2**22):
            digest.update(hashlib.sha256(data[at : min(at + 2**22, stop)]).digest())
    header["__metadata__"]["torchbasics.digest"] = digest.hexdigest()
    return encode() + data


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
        (
            b"PK\x03\x04 some archive",
            "not-a-checkpoint",
            "is no safetensors file; give one that io.save or `torchbasics",
        ),
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


def test_an_empty_tensor_of_impossible_sizes_is_damaged(tmp_path: Path) -> None:
    """No bytes, and other sizes whose product no tensor can have."""
    shape = [2**47, 2**47, 0]
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(io.CheckpointError, match="'a' has an impossible shape") as caught:
        io.load_state(nn.Linear(1, 1), path)
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("read", [io.load, io.inspect, lambda p: io.load_state(nn.Linear(1, 1), p)])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_a_missing_file_is_file_not_found(read: Callable[[Path], object], name: str, tmp_path: Path) -> None:
    """A path that is not there is no CheckpointError; a folder is."""
    with pytest.raises(FileNotFoundError, match=rf"no file '.*{name}'"):
        read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(io.CheckpointError, match="is no "):
        read(tmp_path / name)


def test_load_of_parameters_alone_names_load_state(small: Path, tmp_path: Path) -> None:
    """A file of save_state, or of safetensors, holds no model."""
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "plain.safetensors")
    for path in (small, tmp_path / "plain.safetensors"):
        with pytest.raises(io.CheckpointError, match=r"holds parameters only; make the model and use io\.load_state"):
            io.load(path)


def test_load_of_a_pickle_says_what_to_do_with_it(tmp_path: Path) -> None:
    """A state_dict is for load_state; a whole model has to be written again by the program that has its code."""
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "state.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "my_model.pkl")
    with pytest.raises(io.CheckpointError, match=r"state\.pt' holds parameters only; .* use io\.load_state") as caught:
        io.load(tmp_path / "state.pt")
    assert caught.value.reason == "unsupported"
    with pytest.raises(
        io.CheckpointError, match=r"write .* `torch\.save\(model\.state_dict\(\), 'state-my_model\.pkl'\)`"
    ) as caught:
        io.load(tmp_path / "my_model.pkl")
    assert caught.value.reason == "whole-model-pickle"


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
