"""device and info: what there is to compute with."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import torchbasics
from torchbasics import _env


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Let torch report *cuda* CUDA devices, and Apple's or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    properties = SimpleNamespace(name="Card", total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 2**30)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (2, True, "auto", "cuda"),
        (0, True, "auto", "mps"),
        (2, True, "cpu", "cpu"),
        (2, False, "cuda", "cuda"),
        (2, False, "cuda:1", "cuda:1"),
        (0, True, "mps", "mps"),
        (0, True, "mps:0", "mps:0"),
        (0, False, torch.device("cpu"), "cpu"),
        (0, False, "cpu:0", "cpu:0"),
    ],
)
def test_a_device_that_is_there_is_returned(
    cuda: int, mps: bool, name: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name asked for; "auto" prefers CUDA, then MPS, then the processor."""
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert _env.device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("cuda", "name", "message"),
    [
        (0, "cuda", "no device 'cuda' here; choose from 'auto', 'cpu'$"),
        (2, "cuda:2", "no device 'cuda:2' here; choose from 'auto', 'cpu', 'cuda:0', 'cuda:1'$"),
        (0, torch.device("mps"), "no device 'mps' here"),
        (0, "gpu", "no device 'gpu' here"),
        (0, 0, "no device '0' here"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    cuda: int, name: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error lists those there are."""
    pretend(monkeypatch, cuda=cuda)
    with pytest.raises(ValueError, match=message):
        _env.device(name)


def test_the_device_of_this_machine_computes() -> None:
    """What "auto" returns can hold a tensor."""
    assert torch.ones(2, device=_env.device()).sum() == 2


def test_info_is_plain_json_data() -> None:
    """It goes through JSON unchanged, and its versions are the installed ones."""
    info = _env.info()
    assert json.loads(json.dumps(info)) == info
    assert info["torchbasics"] == torchbasics.__version__
    assert info["torch"] == torch.__version__
    assert info["numpy"] == metadata.version("numpy")
    assert info["cpu"]["threads"] == torch.get_num_threads()


def test_info_names_devices_and_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA and MPS devices, memory in bytes."""
    pretend(monkeypatch, cuda=1, mps=True)
    cuda, mps = _env.info()["devices"]
    assert cuda == {"device": "cuda:0", "name": "Card", "memory": 8 * 2**30}
    assert (mps["device"], mps["memory"]) == ("mps", 12 * 2**30)


def test_extras_are_those_of_the_package() -> None:
    """The table here and pyproject.toml name the same extras and packages."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    del extras["all"]
    assert {name: [p.partition(">=")[0] for p in packages] for name, packages in extras.items()} == {
        name: list(packages) for name, packages in _env._EXTRAS.items()
    }


def test_info_imports_no_extra() -> None:
    """Versions of extras are read from their metadata."""
    code = (
        "import sys; from torchbasics import _env; _env.format_info(_env.info()); "
        "assert not {'torchvision', 'tensorboard', 'matplotlib', 'onnx', 'onnxscript'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_report_has_a_line_for_each_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions, devices with GiB, extras that are there, and the pip line for those that are not."""
    pretend(monkeypatch, cuda=1)
    monkeypatch.setattr(_env, "_version", lambda name: None if name in {"onnx", "torchvision"} else "1.2")
    rows = dict(line.split(maxsplit=1) for line in _env.format_info(_env.info()).splitlines())
    assert rows["torch"] == torch.__version__
    assert rows["torchvision"] == "not installed"
    assert rows["cuda:0"] == "Card, 8.0 GiB"
    assert rows["[plot]"] == "matplotlib 1.2"
    assert rows["[export]"] == "not installed; pip install 'torchbasics[export]'"


def test_a_package_that_is_missing_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is null in the report's data."""
    monkeypatch.setattr(_env, "_EXTRAS", {"plot": ("no-such-package",)})
    assert _env.info()["extras"] == {"plot": {"no-such-package": None}}


@pytest.mark.parametrize(("version", "built"), [("12.4", "CUDA 12.4"), (None, "no CUDA")])
def test_the_report_says_where_there_is_no_gpu(
    version: str | None, built: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for what this torch was built."""
    pretend(monkeypatch)
    report = _env.format_info({**_env.info(), "cuda": version})
    assert f"none (this torch is built for {built})" in report
