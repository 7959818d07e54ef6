"""Files of ``torch.save``: what honest programs write is read, and what cannot be read is told apart."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import subprocess
import sys
from argparse import Namespace
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchbasics import _pickles, io
from torchbasics.cli import main
from torchbasics.io._pickle import _command

OLD = Path(__file__).parent / "fixtures" / "torch16"
DTYPES = [
    torch.bfloat16, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip

# Without a storage class of their own.
UNTYPED = [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64]


class MyModel(nn.Module):
    """The tutorial's first model."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.f1 = nn.Sigmoid()
        self.fc2 = nn.Linear(2, 3)
        self.f2 = nn.Softmax(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        x: Tensor = self.f2(self.fc2(self.f1(self.fc1(inputs))))
        return x


class Bag:
    """A class of another program."""


def refused(path: Path) -> io.CheckpointError:
    """The error of load_state; that of inspect or its report say the same."""
    with pytest.raises(io.CheckpointError) as caught:
        io.load_state(nn.Linear(1, 1), path)
    return caught.value


def save(content: object, path: Path, *, legacy: bool = False, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_state_dict_of_torch_1_6_gives_the_outputs_it_gave_there(form: str) -> None:
    """The tutorial's parameter.pkl, written by torch 1.6.0: the same parameters, bit for bit, and the same outputs."""
    expected = json.loads((OLD / "expected.json").read_text(encoding="utf-8"))
    model = MyModel()
    io.load_state(model, OLD / form / "parameter.pkl")
    assert expected["torch"].startswith("1.6.0")
    for name, value in model.state_dict().items():
        assert torch.equal(value, torch.tensor(expected["parameters"][name]))
    outputs = model(torch.tensor(expected["inputs"]))
    # Softmax of another release: its last bits, at values below 1.
    torch.testing.assert_close(outputs, torch.tensor(expected["outputs"]), rtol=0, atol=2e-7)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_whole_model_of_torch_1_6_is_refused_with_what_to_do(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The tutorial's my_model.pkl: its class is named, and the two lines that convert it; inspect tells as much."""
    path = OLD / form / "my_model.pkl"
    error = refused(path)
    assert error.reason == "whole-model-pickle"
    for part in (
        "holds a whole pickled model of the class __main__.MyModel, which only runs with its code",
        "`model = torch.load('my_model.pkl', weights_only=False)`",
        "`torch.save(model.state_dict(), 'state-my_model.pkl')`",
    ):
        assert part in str(error)
    report = io.inspect(path)
    assert (report["kind"], report["model"]) == ("whole model (pickle)", "__main__.MyModel")
    assert report["refused"] == str(error)
    assert "torch.nn.modules.linear.Linear" in report["names"]
    assert main(["inspect", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "whole model (pickle)" in out
    assert "asks for  __main__.MyModel, " in out
    assert err == f"torchbasics inspect: {error}\n"


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize(("legacy", "protocol"), [(False, 2), (False, 4), (True, 2)], ids=["zip", "new", "legacy"])
def test_whole_models_of_today_are_told_apart(legacy: bool, protocol: int, tmp_path: Path) -> None:
    """Also inside a dict, and with another pickle protocol; code beside the model is named."""
    model = nn.Sequential(nn.Linear(2, 2), MyModel())
    path = save({"model": model, "bag": Bag()}, tmp_path / "m.pt", legacy=legacy, pickle_protocol=protocol)
    error = refused(path)
    assert error.reason == "whole-model-pickle"
    assert "of the class torch.nn.modules.container.Sequential" in str(error)
    assert f"it also asks for {MyModel.__module__}.MyModel, {Bag.__module__}.Bag)" in str(error)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back(dtype: torch.dtype, legacy: bool, tmp_path: Path) -> None:
    """Values, shapes and dtypes are those that torch.load gives."""
    if legacy and dtype in UNTYPED:
        pytest.skip("torch itself does not read them in this format")
    content = {"a": torch.arange(6).reshape(2, 3).to(dtype), "empty": torch.zeros(0, 2, dtype=dtype)}
    content["zero_dim"] = torch.tensor(1).to(dtype)
    path = save(content, tmp_path / "m.pt", legacy=legacy)
    found = _pickles.read_object(path)
    assert found.keys() == content.keys()
    for name, value in content.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name].to(torch.complex128), value.to(torch.complex128))
    assert {name: tensor["shape"] for name, tensor in io.inspect(path)["tensors"].items()} == {
        name: tuple(value.shape) for name, value in content.items()
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_honest_layouts_are_read(legacy: bool, tmp_path: Path) -> None:
    """Channels last, parts of one flat storage, columns, tied parameters, a part of a larger storage, Parameters."""
    flat = torch.arange(24.0)
    last = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    content = {
        "last": last, "first": flat[:6].view(2, 3), "second": flat[6:], "columns": flat.view(4, 6)[:, 1:3],
        "turned": flat.view(4, 6).T, "tied": last, "parameter": nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    path = save(content, tmp_path / "m.pt", legacy=legacy)
    target = nn.ParameterDict({name: torch.zeros(value.shape) for name, value in content.items()})
    io.load_state(target, path)
    for name, value in content.items():
        assert torch.equal(target[name], value)


def test_a_part_of_a_storage_leaves_the_rest_behind(tmp_path: Path) -> None:
    """What lies in the storage beside the tensor neither stays in memory nor goes on into other files."""
    from torchbasics.io._pickle import read_pickle

    path = save({"a": torch.arange(1000.0)[:2]}, tmp_path / "m.pt")
    assert read_pickle(path)["a"].untyped_storage().nbytes() == 8


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_an_optimizers_state_is_read(legacy: bool, tmp_path: Path) -> None:
    """A checkpoint with optimizer and schedule has nothing in it that is refused."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    found = _pickles.read_object(save(content, tmp_path / "m.pt", legacy=legacy))
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert found["schedule"]["milestones"] == Counter([2, 3])


def test_a_class_that_the_reader_trusts_is_made(tmp_path: Path) -> None:
    """Only by its full name, and of the reader's class; without trust it is refused by that name."""
    bag = Bag()
    bag.__dict__.update(size=3, names=["a"])
    path = save({"config": bag, "net": OrderedDict(a=torch.ones(1))}, tmp_path / "m.pt")
    full = f"{Bag.__module__}.Bag"
    found = _pickles.read_object(path, safe_globals=[(Namespace, full)])
    assert vars(found["config"]) == {"size": 3, "names": ["a"]}
    assert type(found["config"]) is Namespace
    with pytest.raises(io.CheckpointError, match=f"asks to run {full}, which no state_dict does; it was not run"):
        _pickles.read_object(path)
    assert (Namespace, full) not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_the_state_dict_in_a_checkpoint_is_named_and_converted(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """load_state names the key and the command; the command takes it out; inspect shows what else there is."""
    monkeypatch.chdir(tmp_path)
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    path = save({"epoch": 3, key: source.state_dict(), "best": {"at": 1}}, Path("checkpoint.pt"))
    error = refused(path)
    assert error.reason == "unsupported"
    command = f"torchbasics convert --key={key} checkpoint.pt OUT.safetensors"
    assert (
        str(error) == f"'checkpoint.pt' is a checkpoint with the state_dict under {key!r}; take it out with `{command}`"
    )
    report = io.inspect(path)
    assert (report["kind"], report["refused"]) == ("checkpoint (pickle)", None)
    assert report["tensors"][f"{key}: weight"] == {"dtype": "float32", "shape": (3, 2)}
    assert report["metadata"] == {"epoch": 3, "best": "dict"}
    assert main(command.split()[1:]) == 0
    assert "2 tensors with 9 values" in capsys.readouterr().out
    io.load_state(target, "OUT.safetensors")
    assert torch.equal(target.weight, source.weight)
    assert main(["convert", "--key", "other", "checkpoint.pt", "x.safetensors"]) == 2
    assert f"has no key 'other'; it has 'epoch', '{key}', 'best'" in capsys.readouterr().err


KEYS = ["my state", "a; touch harmed", "$(touch harmed)", "`touch harmed`", "a' & touch harmed '", "--help", "größe"]


@pytest.mark.skipif(os.name == "nt", reason="the shell of other systems")
@pytest.mark.parametrize("key", KEYS)
def test_a_shell_takes_the_command_of_a_message_as_one_word_each(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file's author has chosen as key, or as the file's name; the command converts."""
    (tmp_path / "a folder; touch harmed").mkdir()
    monkeypatch.chdir(tmp_path)
    path = save({"epoch": 3, key: {"weight": torch.ones(1, 1)}}, Path("a folder; touch harmed/m.pt"))
    command = str(refused(path)).partition("take it out with `")[2].removesuffix("`")
    assert command.startswith("torchbasics convert ")
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    shell = f'torchbasics() {{ {shlex.quote(sys.executable)} -c {shlex.quote(script)} "$@"; }}\n{command}'
    words = json.loads(subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout)
    assert words == ["convert", f"--key={key}", str(path), "OUT.safetensors"]
    assert not Path("harmed").exists()
    assert main(words) == 0
    assert Path("OUT.safetensors").exists()


def test_a_key_without_quotes_would_harm(tmp_path: Path) -> None:
    """Positive control: a shell does run what stands in such a key."""
    subprocess.run(["sh", "-c", f"true --key={KEYS[1]}"], check=True, cwd=tmp_path)
    assert (tmp_path / "harmed").exists()


@pytest.mark.parametrize("key", ["state\n", "a\x1b[2J", "k" * 101])
def test_no_command_holds_a_key_that_cannot_be_typed(key: str, tmp_path: Path) -> None:
    """It has a word to put it in the place of; nor is any longer text of the file in a message."""
    error = str(refused(save({key: {"weight": torch.ones(1, 1)}}, tmp_path / "m.pt")))
    assert error.isprintable()
    assert "`torchbasics convert --key=KEY " in error


def test_on_windows_no_command_holds_a_key_in_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command prompt reads beyond single quotes; plain words are as elsewhere."""
    assert _command("a & calc", "m.pt") == "torchbasics convert '--key=a & calc' m.pt OUT.safetensors"
    monkeypatch.setattr("torchbasics.io._pickle.os", Namespace(name="nt"))
    assert _command("a & calc", "m.pt") == "torchbasics convert --key=KEY m.pt OUT.safetensors"
    assert _command("model", "m.pt") == "torchbasics convert --key=model m.pt OUT.safetensors"


@pytest.mark.parametrize("many", [1, 1000])
def test_messages_stay_short(many: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With keys of a megabyte, and with a thousand of them."""
    key = "k" * (1_000_000 // many)
    contents: dict[str, dict[str, Any]] = {
        "values": {f"{i}{key}": i for i in range(many)},
        "states": {f"{i}{key}": {"a": torch.ones(1)} for i in range(many)},
        "names": {f"{i}{key}": torch.ones(1) for i in range(many)},
    }
    for content in contents.values():
        path = save(content, tmp_path / "m.pt")
        assert len(str(refused(path))) < 4000
        assert main(["convert", "--key", "other", str(path), str(tmp_path / "o.safetensors")]) == 2
        err = capsys.readouterr().err
        assert "has no key 'other'; it has '0k" in err
        assert len(err) < 4000


def test_convert_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors are written, the rest is named; load_state takes no such file; a file without tensors gives none."""
    monkeypatch.chdir(tmp_path)
    save({"weight": torch.ones(1, 1), "epoch": 3, "bias": torch.ones(1), 5: torch.ones(1)}, Path("m.pt"))
    assert "holds no state_dict: 'epoch' is int; `torchbasics convert` takes the tensors out" in str(
        refused(Path("m.pt"))
    )
    assert main(["convert", "m.pt", "m.safetensors"]) == 0
    assert capsys.readouterr().out == (
        "m.pt -> m.safetensors: 2 tensors with 2 values, for io.load_state\n"
        "left out: 'epoch' is int\nleft out: 5 is Tensor\n"
    )
    io.load_state(nn.Linear(1, 1), "m.safetensors")
    save({"epoch": 3}, Path("none.pt"))
    assert main(["convert", "gone.pt", "none.safetensors"]) == main(["convert", "gone.bin", "none.safetensors"]) == 2
    assert (
        capsys.readouterr().err == "torchbasics convert: no file 'gone.pt'\ntorchbasics convert: no file 'gone.bin'\n"
    )
    assert main(["convert", "none.pt", "none.safetensors"]) == 2
    assert capsys.readouterr().err == "torchbasics convert: 'none.pt' holds no tensors, but int\n"
    assert not Path("none.safetensors").exists()


def test_convert_refuses_what_is_not_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, and one line says why."""
    monkeypatch.chdir(tmp_path)
    save({"weight": torch.ones(1), "config": Bag()}, Path("m.pt"))
    assert main(["convert", "m.pt", "m.safetensors"]) == 2
    assert "asks to run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_a_pickle_that_torch_did_not_write_is_told_apart(tmp_path: Path) -> None:
    """Plain pickles, TorchScript programs, other zip archives, and the protocols that weights_only does not read."""
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": [1, 2]}))
    assert "torch.save did not write it" in str(refused(tmp_path / "plain.pkl"))
    torch.save({"a": torch.ones(1)}, tmp_path / "new.pt", pickle_protocol=4)
    error = refused(tmp_path / "new.pt")
    assert error.reason == "unsupported"
    assert "its pickle has the opcode FRAME" in str(error) or "opcode SHORT_BINUNICODE" in str(error)


@pytest.mark.parametrize("contiguous", [True, False])
def test_truth_values_other_than_0_and_1_are_damage(contiguous: bool, tmp_path: Path) -> None:
    """load_state and convert refuse them, as in a safetensors file: a copy would quietly turn 7 into 1."""
    path, model = tmp_path / "m.pt", nn.Module()
    content = torch.tensor([[1, 0, 7], [0, 1, 1]], dtype=torch.uint8).view(torch.bool)
    torch.save({"mask": content if contiguous else content.t()}, path)
    model.register_buffer("mask", torch.zeros(2, 3, dtype=torch.bool) if contiguous else torch.zeros(3, 2).bool())
    with pytest.raises(io.CheckpointError, match="'mask' has truth values other than 0 and 1") as caught:
        io.load_state(model, path)
    assert caught.value.reason == "damaged"
    assert main(["convert", str(path), str(tmp_path / "m.safetensors")]) == 2
    assert not (tmp_path / "m.safetensors").exists()
