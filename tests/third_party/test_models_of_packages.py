"""What an installed package declares is a model of the zoo: real packages, installed by pip."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.third_party.packages import BAD, GOOD, ROOT, ours_loaded, run, write_wheel
from torchbasics import _zoo, io, models


def test_models_are_listed_without_importing_torch_or_a_package(site: Path, tmp_path: Path) -> None:
    """list_models, and the command's list and help, read metadata alone."""
    code = f"""if True:
        import sys
        from torchbasics import _zoo
        from torchbasics.cli import main
        names = _zoo.list_models()
        main(["list"])
        try:
            main(["train", "--help"])
        except SystemExit:
            pass
        print(names, {{"torch", *{[*GOOD, *BAD]!r}}} & set(sys.modules), file=sys.stderr)
    """
    done = run(site, "-c", code, folder=tmp_path)
    names = sorted([*_zoo.BUILT_IN, "fails", "function", "gone", "lent", "mixed", "plain", "tiny", "twin", "word"])

    assert done.stderr == f"{names} set()\n"
    assert "\ntiny            tinypkg:Tiny of the package tinypkg 1.0\n" in done.stdout
    assert "\ntwin            twinpkg:A of the package twinpkg 1.0 and twinpkg2:B of the package twinpkg2 1.0\n" in (
        done.stdout
    )
    assert " tiny," in done.stdout.partition("usage")[2]


LIST = """
import sys, torchbasics
from torchbasics import _zoo
print(_zoo.list_models() == [*_zoo.BUILT_IN], "importlib.metadata" in sys.modules)
"""


def test_where_no_package_declares_a_model_the_list_costs_little(tmp_path: Path) -> None:
    """importlib.metadata takes half as long to import as the command to start."""
    (tmp_path / "other-1.0.dist-info").mkdir()
    (tmp_path / "other-1.0.dist-info/entry_points.txt").write_text("[console_scripts]\nother = other:main\n")

    assert run(tmp_path, "-S", "-c", LIST, folder=tmp_path).stdout == "True False\n"


def test_a_package_in_an_archive_is_found(tmp_path: Path) -> None:
    """What the quick look does not see into is left to importlib.metadata."""
    wheel = write_wheel(tmp_path, "tinypkg", *GOOD["tinypkg"])

    assert run(wheel, "-S", "-c", LIST, folder=tmp_path).stdout == "False True\n"


def test_a_package_that_another_finder_finds_is_listed(tmp_path: Path) -> None:
    """The quick look leaves to importlib.metadata what is not on the path as well."""
    code = f"""if True:
        import sys
        class Finder:
            def find_spec(self, *args): ...
            def find_distributions(self, context):
                from importlib.metadata import DistributionFinder, MetadataPathFinder
                place = DistributionFinder.Context(name=context.name, path=[{str(tmp_path / "site")!r}])
                return MetadataPathFinder.find_distributions(place)
        sys.meta_path.append(Finder())
    """
    zipfile.ZipFile(write_wheel(tmp_path, "tinypkg", *GOOD["tinypkg"])).extractall(tmp_path / "site")

    assert run(tmp_path, "-S", "-c", code + LIST, folder=tmp_path).stdout == "False True\n"


@pytest.mark.usefixtures("installed")
def test_a_model_is_made_by_its_name_and_imports_its_own_package_only() -> None:
    """With the defaults that its module registers; arguments are checked as those of any model."""
    assert ours_loaded() == set()
    model: Any = models.get_model("tiny")
    assert (type(model).__module__, model.size) == ("tinypkg", 3)
    assert ours_loaded() == {"tinypkg"}
    assert models.get_model("tiny", size=5).size == 5
    with pytest.raises(TypeError, match=r"^'tiny': unknown argument 'sise'; did you mean 'size'\?$"):
        models.get_model("tiny", sise=5)
    with pytest.raises(ValueError, match=r"^unknown model 'tinny'; did you mean 'tiny'\?$"):
        models.get_model("tinny")


@pytest.mark.usefixtures("installed")
def test_the_models_of_the_library_import_no_package() -> None:
    """Nor does asking for weights, or a name that there is not."""
    for name in _zoo.BUILT_IN:
        models.get_model(name)
        models.get_weights(name)
    assert models.get_weights("tiny") == ()
    with pytest.raises(ValueError, match="unknown model"):
        models.get_model("twins")
    assert ours_loaded() == set()


@pytest.mark.usefixtures("installed")
def test_a_class_that_nobody_has_registered_is_on_use(tmp_path: Path) -> None:
    """A plain module that a package declares can be made and saved; wherever the class comes from."""
    io.save(models.get_model("plain", num_classes=4), tmp_path / "plain.safetensors")
    assert io.inspect(tmp_path / "plain.safetensors")["model"] == "plain"
    lent = models.get_model("lent", in1_features=2, in2_features=3, out_features=4)
    assert type(lent) is nn.Bilinear


@pytest.mark.usefixtures("installed")
def test_a_model_that_was_made_without_the_zoo_is_saved_under_its_name(tmp_path: Path) -> None:
    """The package declares the class, so the file can name it."""
    import plainpkg  # type: ignore[import-not-found]  # installed by the fixture

    io.save(plainpkg.Plain(), tmp_path / "plain.safetensors")
    assert io.inspect(tmp_path / "plain.safetensors")["model"] == "plain"


LOAD = """
import random, sys, torch
from torchbasics import io
torch.manual_seed(3); random.seed(3)
model = io.load(sys.argv[1])
drawn = random.random(), torch.rand(1)
torch.manual_seed(3); random.seed(3)
print(type(model), model.training, drawn == (random.random(), torch.rand(1)))
print(sorted({*sys.modules} & {*sys.argv[2:]}))
torch.save(model.state_dict(), sys.argv[1] + ".pt")
"""


@pytest.mark.parametrize(("name", "package"), [("tiny", "tinypkg"), ("plain", "plainpkg")])
@pytest.mark.usefixtures("installed")
def test_a_saved_model_loads_where_its_package_was_never_imported(
    name: str, package: str, site: Path, tmp_path: Path
) -> None:
    """The file's name is looked up, its package imported, and no other; numbers drawn at import are not seen."""
    saved = models.get_model(name)
    io.save(saved, tmp_path / "m.safetensors")
    done = run(site, "-c", LOAD, str(tmp_path / "m.safetensors"), *GOOD, *BAD, folder=tmp_path)

    assert done.stderr == ""
    assert done.stdout == f"<class '{package}.{name.capitalize()}'> False True\n{[package]}\n"
    loaded = torch.load(tmp_path / "m.safetensors.pt", weights_only=True)
    assert all(torch.equal(loaded[key], value) for key, value in saved.state_dict().items())


@pytest.mark.usefixtures("installed")
def test_importing_a_package_draws_random_numbers() -> None:
    """Positive control for what loading puts back."""
    random.seed(3)
    before = random.getstate()
    models.get_model("plain")
    assert random.getstate() != before


@pytest.mark.slow
def test_a_model_of_a_package_is_trained_by_the_command(site: Path, tmp_path: Path) -> None:
    """``torchbasics train`` makes it to fit the images, and ``evaluate`` reads it in another process."""
    train = run(site, "-m", "torchbasics", "train", "plain", "--epochs", "1", "--json", folder=tmp_path)
    report = json.loads(train.stdout)
    done = run(site, "-m", "torchbasics", "evaluate", report["files"]["model"], "--json", folder=tmp_path)

    assert (report["model"], report["config"]) == ("plain", {"num_classes": 10})
    assert report["test"]["accuracy"] > 0.5
    assert json.loads(done.stdout)["accuracy"] == report["test"]["accuracy"]


def test_the_hub_lists_the_library_s_own_models_only(site: Path, tmp_path: Path) -> None:
    """What is installed beside a clone is no entry point of it."""
    (tmp_path / "org_torchbasics_main").symlink_to(ROOT)  # as torch.hub keeps what it has downloaded
    code = """if True:
        import sys, torch
        torch.hub.set_dir(sys.argv[1])
        listed = torch.hub.list("org/torchbasics:main", trust_repo=True, verbose=False)
        from torchbasics import models
        print(listed, {"tiny", "plain"} - {*models.list_models()}, {"tinypkg", "plainpkg"} & {*sys.modules})
    """
    done = run(site, "-c", code, str(tmp_path), folder=tmp_path)

    assert done.stdout == f"{list(_zoo.BUILT_IN)} set() set()\n", done.stderr
