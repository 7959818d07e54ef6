"""What is wrong with a package is said, and of the others nothing is lost."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.third_party.packages import GOOD, ours_loaded, write_wheel
from torchbasics import _safetensors, _zoo, io, models
from torchbasics._third_party import GROUP
from torchbasics.cli import main


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("fails", ImportError, "importing it gave ZeroDivisionError: division by zero"),
        ("gone", ImportError, "importing it gave AttributeError: module 'gonepkg' has no attribute 'Net'"),
        ("function", ImportError, r"it is <function make at 0x\w+>, not a class of torch\.nn\.Module"),
        ("word", ImportError, "Net has an argument 'weights', which get_model has too; rename it"),
        ("mixed", ImportError, "another class is registered under its name: <class 'mixpkg.New'>"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_package_that_does_not_keep_its_word_is_named(name: str, error: type[Exception], message: str) -> None:
    """With its version and the way out, at every use; the others can be used all the same."""
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            models.get_model(name)
    value, package = _zoo.declared()[name][0].path, _zoo.declared()[name][0].package
    start = f"the model {name!r}, {value} of the package {package} 1.0, cannot be used: "
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(f"; update the package, or pip uninstall {package}")
    assert name in models.list_models()
    assert models.get_model("tiny").size == 3
    assert isinstance(models.get_model("mlp"), models.MLP)


@pytest.mark.usefixtures("installed")
def test_a_name_that_two_packages_declare_is_nobody_s() -> None:
    """Both are named; neither is imported."""
    with pytest.raises(
        ValueError,
        match=r"^the name 'twin' is declared twice, as twinpkg:A of the package twinpkg 1\.0 and twinpkg2:B of the "
        r"package twinpkg2 1\.0; pip uninstall one of them$",
    ):
        models.get_model("twin")
    assert ours_loaded() == set()


@pytest.mark.parametrize("name", ["fails", "twin"])
@pytest.mark.usefixtures("installed")
def test_a_file_that_names_a_model_that_cannot_be_used_is_refused(name: str, tmp_path: Path) -> None:
    """As a file whose model cannot be made here, with the reason."""
    fields = {"kind": "model", "model": name, "config": "{}", "history": "null", "metadata": "{}"}
    _safetensors.write(tmp_path / "m.safetensors", {"a": torch.zeros(1)}, fields)
    with pytest.raises(io.CheckpointError, match=f"cannot make: the (model|name) '{name}'.* pip uninstall") as caught:
        io.load(tmp_path / "m.safetensors")
    assert caught.value.reason == "unsupported"


@pytest.mark.usefixtures("installed")
def test_a_file_cannot_name_a_module() -> None:
    """Only names that are declared are looked up: what is behind one is no name itself."""
    for name in ("tinypkg", "tinypkg:Tiny", "fails:Net", "os"):
        with pytest.raises(ValueError, match="unknown model"):
            _zoo.entry(name)
    assert ours_loaded() == set()


@pytest.mark.usefixtures("installed")
def test_a_name_that_a_package_declares_is_taken() -> None:
    """A class of one's own is not put in its place in silence; a name that nobody declares is free (control)."""
    with pytest.raises(
        ValueError,
        match=r"^the name 'tiny' is taken by tinypkg:Tiny of the package tinypkg 1\.0; register "
        r"torch\.nn\.modules\.linear:Identity under another one$",
    ):
        models.register("tiny")(nn.Identity)
    models.register("tiny_of_mine")(nn.Identity)


def test_a_name_of_the_library_stays_the_library_s(path: pytest.MonkeyPatch, odd_site: Path) -> None:
    """The package that declares it is named in a warning, once, and not imported; so is a name that is none."""
    path.syspath_prepend(odd_site)
    with pytest.warns(UserWarning, match=r"torchbasics itself|identifier") as said:
        assert isinstance(models.get_model("cnn"), models.CNNModel)
    models.get_model("cnn")

    assert sorted(str(one.message) for one in said) == [
        "'cnn' is a model of torchbasics itself, which is used, and not ourspkg:Net of the package ourspkg 1.0",
        "a model's name must be an identifier, got 'my-net': dashpkg:Net of the package dashpkg 1.0 is left out",
    ]
    assert models.list_models() == sorted(_zoo.BUILT_IN)
    assert ours_loaded() == set()


def test_the_first_of_two_versions_on_the_path_counts(path: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As an import finds it; the other one does not make the name ambiguous."""
    for version in ("2.0", "1.0"):
        wheel = write_wheel(tmp_path, "tinypkg", *GOOD["tinypkg"], version)
        zipfile.ZipFile(wheel).extractall(tmp_path / version)
        path.syspath_prepend(tmp_path / version)

    assert list(map(str, _zoo.declared()["tiny"])) == ["tinypkg:Tiny of the package tinypkg 1.0"]


def test_a_damaged_package_does_not_keep_the_others_from_use(path: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it declares cannot be read, which a warning says; one that declares nothing of ours is passed over."""
    for name, content in {"hurtpkg": f"[{GROUP}]\nno value\n".encode(), "strange": b"\xff\xfe"}.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_bytes(content)
    path.syspath_prepend(tmp_path)

    with pytest.warns(
        UserWarning, match=r"^the models that the package hurtpkg in '.*' declares cannot be read"
    ) as said:
        assert models.list_models() == sorted(_zoo.BUILT_IN)
    assert len(said) == 1


def test_metadata_is_read_once(path: pytest.MonkeyPatch) -> None:
    """However often names are asked for."""
    read, calls = metadata.distributions, []

    def count(**options: Any) -> Any:
        calls.append(options)
        return read(**options)

    path.setattr(metadata, "distributions", count)
    for _ in range(3):
        models.list_models()
        models.get_model("cnn")
        assert main(["list"]) == 0

    assert calls == [{}]


@pytest.mark.usefixtures("installed")
def test_a_layer_s_likeness_is_sought_among_our_own_models(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in a command imports no package."""
    assert main(["train", "stacked_rnn"]) == 2
    assert "did you mean 'rnn_classifier'?" in capsys.readouterr().err
    assert ours_loaded() == set()
