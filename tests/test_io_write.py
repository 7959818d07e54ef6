"""Writing a model: what is written is what was hashed, whatever a thread does meanwhile, and in little memory."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from torchbasics import _safetensors, io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO


def net(tied: bool = False) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    if tied:
        model[1].weight = model[0].weight
    return model


def trains(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every hash of the writer come after one more step of training, as with a thread that trains."""
    monkeypatch.setattr(_safetensors, "PIECE", 1000)
    sha256 = _safetensors._sha256

    def step_first(piece: memoryview) -> bytes:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        return sha256(piece)

    monkeypatch.setattr(_safetensors, "_sha256", step_first)


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "one"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "plain"])
def test_a_model_that_is_trained_meanwhile_is_written_whole(
    tied: bool, threads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file loads: hashed is the copy that is written, and two names of one tensor get the same one."""
    source, path, target = net(tied), tmp_path / "m.safetensors", net(tied)
    before = source.get_parameter("0.weight").detach().clone()
    with monkeypatch.context() as patch:
        trains(source, patch)
        patch.setattr(_safetensors, "SMALL", 0 if threads else 2**30)
        io.save_state(source, path)
    assert not torch.equal(before, source.get_parameter("0.weight"))
    monkeypatch.setattr(_safetensors, "PIECE", 1000)
    io.load_state(target, path)
    assert torch.equal(target.get_parameter("0.weight"), target.get_parameter("1.weight")) == tied


def test_hashing_the_memory_of_the_model_would_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: with the model's own memory instead of a copy, its file is refused."""
    source, path = net(), tmp_path / "m.safetensors"

    def uncopied(file: BinaryIO, tensor: Tensor, places: Sequence[int]) -> Iterator[memoryview]:
        for start, piece in enumerate(_safetensors._pieces(tensor)):
            file.seek(places[0] + start * 1000)
            file.write(piece)
            yield piece

    monkeypatch.setattr(_safetensors, "_written", uncopied)
    monkeypatch.setattr(_safetensors, "SMALL", 2**30)
    with monkeypatch.context() as patch:
        patch.setattr(_safetensors, "PIECE", 1000)
        io.save_state(source, path)
        io.load_state(net(), path)  # as long as nothing trains
        trains(source, patch)
        io.save_state(source, path)
    monkeypatch.setattr(_safetensors, "PIECE", 1000)
    with pytest.raises(io.CheckpointError, match="its digest does not match its content"):
        io.load_state(net(), path)


def test_a_few_pieces_are_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow hashing is, the copies that wait for it are few."""
    written, sha256, made, most = _safetensors._written, _safetensors._sha256, 0, 0
    done: list[bytes] = []  # threads that add to a number may lose one

    def counted(file: BinaryIO, tensor: Tensor, places: Sequence[int]) -> Iterator[memoryview]:
        nonlocal made, most
        for piece in written(file, tensor, places):
            made += 1
            most = max(most, made - len(done))
            yield piece

    def slow(piece: memoryview) -> bytes:
        time.sleep(0.002)
        digest = sha256(piece)
        done.append(digest)
        return digest

    monkeypatch.setattr(_safetensors, "PIECE", 1000)
    monkeypatch.setattr(_safetensors, "SMALL", 0)
    monkeypatch.setattr(_safetensors, "_written", counted)
    monkeypatch.setattr(_safetensors, "_sha256", slow)
    io.save_state(nn.Linear(100, 100), tmp_path / "m.safetensors")
    assert made == 41
    assert most <= 3 * min(8, os.cpu_count() or 1) + 2


@pytest.mark.parametrize(
    "make",
    [lambda t: t.t(), lambda t: t[::2], lambda t: t.expand(3, 4, 6), lambda t: t[0, 0]],
    ids=["transposed", "strided", "expanded", "zero-dimensional"],
)
def test_any_layout_is_written_row_by_row(
    make: Callable[[Tensor], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transposed, strided, expanded and zero-dimensional tensors come back as they look."""
    monkeypatch.setattr(_safetensors, "PIECE", 16)
    source, target = nn.Module(), nn.Module()
    source.register_buffer("t", make(torch.arange(24.0).reshape(4, 6)))
    target.register_buffer("t", torch.zeros_like(source.get_buffer("t"), memory_format=torch.contiguous_format))
    io.save_state(source, tmp_path / "m.safetensors")
    io.load_state(target, tmp_path / "m.safetensors")
    assert torch.equal(source.get_buffer("t"), target.get_buffer("t"))


def test_a_negated_view_is_written_as_it_looks(tmp_path: Path) -> None:
    """Memory with the other sign, as the imaginary part of a conjugate is, is saved, and can be loaded into."""
    models = [nn.Module(), nn.Module()]
    for i, model in enumerate(models):
        model.register_buffer("t", torch._neg_view(torch.full((3,), 2.0 + i)))
        assert model.get_buffer("t").is_neg()
    io.save_state(models[0], tmp_path / "m.safetensors")
    io.load_state(models[1], tmp_path / "m.safetensors")
    assert models[1].get_buffer("t").tolist() == [-2, -2, -2]
