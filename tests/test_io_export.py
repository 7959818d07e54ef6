"""Models for other programs: what is exported computes what the model does, for every batch size."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from torchbasics import io, models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Float32 sums in another order: 2e-7 at most was measured over the zoo, at outputs of about 1.
RTOL, ATOL = 1e-5, 2e-6


def running(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """The exported file as a function, run by the library that is meant to."""
    if path.suffix == ".pt2":
        program: Any = torch.export.load(path).module()
        return lambda inputs: listed(program(inputs))
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda inputs: [torch.from_numpy(array) for array in session.run(None, {given.name: inputs.numpy()})]


def listed(outputs: Any) -> list[Tensor]:
    """The tensors of a model's output, one or several."""
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "mlp" else pytest.mark.slow) for name in models.list_models()]
)
def test_what_is_exported_computes_the_same_at_every_batch_size(name: str, suffix: str, tmp_path: Path) -> None:
    """Batches of 1, 2 and 7 give the model's own outputs in eval mode; the model stays in training mode."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    model: Any = models.get_model(name)
    path = tmp_path / f"{name}{suffix}"
    if (name, suffix) == ("dcgan", ".onnx") and torch.__version__.startswith("2.6."):
        with pytest.raises(ValueError, match=r"torch 2\.6.* cannot write DCGAN as ONNX; write \.pt2, or use a newer"):
            io.export(model, path)
        assert not path.exists()
        return
    io.export(model, path)
    assert model.training
    run = running(path)
    model.eval()
    for n in (1, 2, 7):
        inputs = torch.randn_like(model.example_inputs(n))
        with torch.no_grad():
            expected, got = listed(model(inputs)), run(inputs)
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=RTOL, atol=ATOL)
    size, parameters = path.stat().st_size, sum(t.nbytes for t in model.state_dict().values())
    print(f"{path.name}: {size:,} bytes, of which {parameters:,} are the model's")
    assert size > parameters // 2 if name == "dcgan" else size > parameters  # of DCGAN, the generator alone


def test_other_weights_are_noticed(tmp_path: Path) -> None:
    """Positive control: with a weight changed by 1e-4, the file no longer computes what the model does."""
    model: Any = models.get_model("cnn").eval()
    io.export(model, tmp_path / "m.pt2")
    inputs = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        model.fc2.weight.add_(1e-4)
        (got,) = running(tmp_path / "m.pt2")(inputs)
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(got, model(inputs), rtol=RTOL, atol=ATOL)


class Unexportable(nn.Module):
    """Asks for values, which no program of tensors can."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum().item() > 0 else -inputs


def test_a_failed_export_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a model that cannot be exported nor a disk that fails harms what is there."""
    path = tmp_path / "m.pt2"
    path.write_bytes(b"old")
    with pytest.raises(Exception, match=r"data-dependent|Could not guard"):
        io.export(Unexportable(), path, inputs=torch.ones(2, 2))

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        io.export(models.get_model("mlp"), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class Branches(nn.Module):
    """Computes one of two things, in graphs within its graph."""

    def forward(self, inputs: Tensor) -> Tensor:
        branches = (lambda x: x.sin() @ x.new_ones(2, 2), lambda x: x.cos() @ x.new_ones(2, 2))
        result: Tensor = torch.cond(inputs.sum() > 0, *branches, (inputs,))
        return result


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", ["mlp", "branches"])
def test_an_exported_file_tells_no_folder_of_this_machine(name: str, suffix: str, tmp_path: Path) -> None:
    """The exporters note stack traces beside each operation; they name where the sources lie."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    path = tmp_path / f"{name}{suffix}"
    if name == "mlp":
        io.export(models.get_model(name), path)
    else:
        io.export(Branches(), path, inputs=torch.ones(2, 2))

    parts = [path.read_bytes()]
    if suffix == ".pt2":
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    sources = (b"torchbasics/models", b"site-packages", __file__.encode())
    assert not [part for part in parts if any(source in part for source in sources)]


def test_onnx_without_the_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra, and nothing is written."""
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"torchbasics\[export\]"):
        io.export(models.get_model("mlp"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
