"""The commands that make files of a saved model: export, convert, generate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchbasics import io, models
from torchbasics.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_export_writes_what_other_programs_run(suffix: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program computes what the saved model does."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    model, inputs = models.get_model("cnn").eval(), torch.rand(3, 1, 28, 28)
    io.save(model, "cnn.safetensors")
    assert main(["export", "cnn.safetensors", f"cnn{suffix}"]) == 0
    assert capsys.readouterr().out == f"cnn.safetensors -> cnn{suffix}; the batch size is free\n"
    if suffix == ".pt2":
        program = torch.export.load(here / "cnn.pt2").module()
        torch.testing.assert_close(program(inputs), model(inputs))  # the exported graph may fuse: last bits
    else:
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession("cnn.onnx", providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(inputs), rtol=1e-4, atol=1e-5)  # other kernels


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
def test_convert_turns_a_state_dict_into_safetensors(
    suffix: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The values are the same bits, and the file is the one of io.save_state."""
    source, target = (
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
    )
    torch.save(source.state_dict(), f"m{suffix}")
    assert main(["convert", f"m{suffix}", "m.safetensors"]) == 0
    assert capsys.readouterr().out == f"m{suffix} -> m.safetensors: 7 tensors with 17 values, for io.load_state\n"
    io.load_state(target, "m.safetensors")
    assert all(torch.equal(t, target.state_dict()[name]) for name, t in source.state_dict().items())
    io.save_state(source, "same.safetensors")
    assert (here / "m.safetensors").read_bytes() == (here / "same.safetensors").read_bytes()


def test_generate_draws_what_the_seed_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same seed gives the same picture, another one another; JSON tells what was done."""
    io.save(models.get_model("dcgan", width=2, depth=1), "dcgan.safetensors")
    for name, seed in {"a": "0", "b": "0", "c": "1"}.items():
        assert main(["generate", "dcgan.safetensors", "-n", "3", "-o", f"{name}.png", "--seed", seed, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "file": "dcgan.safetensors", "out": f"{name}.png", "number": 3, "seed": int(seed)
        }  # fmt: skip
    first, again, other = (np.asarray(Image.open(f"{name}.png")) for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert main(["generate", "dcgan.safetensors", "-o", "grid.jpg"]) == 0
    assert capsys.readouterr().out == "64 images by dcgan.safetensors, seed 0: grid.jpg\n"
    with Image.open("grid.jpg") as picture:
        assert picture.format == "JPEG"


def test_generate_writes_nothing_where_the_format_is_unknown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ending says the format; what cannot be written leaves no file."""
    io.save(models.get_model("dcgan", width=2, depth=0), "dcgan.safetensors")
    assert main(["generate", "dcgan.safetensors", "-n", "1", "-o", "a.foo"]) == 2
    assert "Format 'foo' is not supported" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["dcgan.safetensors"]
