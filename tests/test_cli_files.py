"""The commands that make files of a saved model: export, convert, generate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.helpers import needs
from torchbasics import _safetensors, io, models
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


ODD = "\x1b]0;title\x07\nintact: yes\u202e"


@pytest.mark.parametrize("name", ["esc.pt", "model.safetensors", "state.safetensors"])
def test_inspect_shows_a_terminal_nothing_but_plain_text(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences and line ends, in whatever text a file's author has chosen, stand there in quotes; JSON has all."""
    if name == "esc.pt":
        torch.save({f"a{ODD}": torch.ones(1), f"note{ODD}": f"text{ODD}", "n": 3}, name)
        shown = [f"a{ODD}", f"note{ODD}", f"text{ODD}"]
    elif name == "model.safetensors":
        io.save(models.MLP(2, (), 2), name, metadata={f"note{ODD}": [f"text{ODD}"], "b": f"other{ODD}", "c": "plain"})
        shown = [f"note{ODD}", f"text{ODD}", f"other{ODD}"]
    else:  # what only another program writes
        fields = {"kind": f"k{ODD}", "model": f"m{ODD}", "config": json.dumps({f"c{ODD}": f"v{ODD}"}), "metadata": "{}"}
        history = json.dumps({"epochs": [{f"h{ODD}": f"x{ODD}", "loss": 0.5, "b": [1]}]})
        _safetensors.write(name, {"a": torch.ones(1)}, {**fields, "history": history})
        shown = [f"{letter}{ODD}" for letter in "kmcvhx"]

    assert main(["inspect", name]) == 0
    out = capsys.readouterr().out

    assert all(line.isprintable() for line in out.splitlines())
    assert not any(line.startswith("intact") for line in out.splitlines())
    assert all(repr(text) in out for text in shown)
    assert main(["inspect", name, "--json"]) == 0
    report = json.dumps(json.loads(capsys.readouterr().out))
    assert all(json.dumps(text)[1:-1] in report for text in shown)


def test_inspect_shows_plain_text_as_it_is_and_long_text_cut(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Positive control of the quotes, and a megabyte of notes."""
    io.save(
        models.MLP(2, (), 2), "m.safetensors", metadata={"größe": "10 px", "long": "n" * 10**6, "list": [1] * 10**6}
    )
    assert main(["inspect", "m.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "metadata  größe: 10 px\n" in out
    assert f"metadata  long: {'n' * 1000}...\n" in out
    assert len(out) < 4000


@needs("matplotlib")
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


@needs("matplotlib")
def test_generate_writes_nothing_where_the_format_is_unknown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ending says the format; what cannot be written leaves no file."""
    io.save(models.get_model("dcgan", width=2, depth=0), "dcgan.safetensors")
    assert main(["generate", "dcgan.safetensors", "-n", "1", "-o", "a.foo"]) == 2
    assert "Format 'foo' is not supported" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["dcgan.safetensors"]


def test_lists_in_lists_of_a_file_do_not_grow_when_they_are_shown(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Indented, each level would be longer than the one before: 90 kB made 81 MB."""
    deep = "[" * 450 + "1" + "]" * 450
    fields = {"kind": "state", "model": "", "config": "{}", "history": "null"}
    metadata = json.dumps({"a": [json.loads(deep)] * 20})
    _safetensors.write("m.safetensors", {"t": torch.ones(1)}, {**fields, "metadata": metadata})
    for more in ([], ["--json"]):
        assert main(["inspect", "m.safetensors", *more]) == 0
        assert len(capsys.readouterr().out) < 2 * (here / "m.safetensors").stat().st_size
