"""Models of other packages: real ones, built as wheels and installed by pip."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import zipfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import torchbasics
from torchbasics import _safetensors, _zoo, io, models
from torchbasics._third_party import GROUP
from torchbasics.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SOURCE = Path(torchbasics.__file__).parents[1]
CLASSIFIER = """
    from torch import nn

    class {name}(nn.Module):
        def __init__(self, num_classes=10):
            super().__init__()
            self.num_classes = num_classes
            self.head = nn.Linear(784, num_classes)

        def forward(self, inputs):
            return self.head(inputs.flatten(1))
"""
# Package -> what it declares, and its code.
GOOD = {
    "tinypkg": (
        "tiny = tinypkg:Tiny",
        """
        from torch import nn
        from torchbasics.models import register

        @register("tiny", defaults={"size": 3})
        class Tiny(nn.Linear):
            def __init__(self, size):
                super().__init__(size, size)
                self.size = size
        """,
    ),
    "plainpkg": (
        "plain = plainpkg:Plain",
        f"import random, torch\nDRAWN = random.random(), torch.rand(1)\n{textwrap.dedent(CLASSIFIER.format(name='Plain'))}",
    ),
    "lentpkg": ("lent = lentpkg:Bilinear", "from torch.nn import Bilinear"),  # a class that is defined elsewhere
}
BAD = {
    "failpkg": ("fails = failpkg:Net", "1 / 0"),
    "gonepkg": ("gone = gonepkg:Net", ""),
    "funpkg": ("function = funpkg:make", "def make(): ..."),
    "wordpkg": (
        "word = wordpkg:Net",
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, weights=None): ...",
    ),
    "mixpkg": (
        "mixed = mixpkg:Old",
        """
        from torch import nn
        from torchbasics.models import register
        class Old(nn.Identity): ...
        @register("mixed")
        class New(nn.Identity): ...
        """,
    ),
    "twinpkg": ("twin = twinpkg:A", textwrap.dedent(CLASSIFIER.format(name="A"))),
    "twinpkg2": ("twin = twinpkg2:B", textwrap.dedent(CLASSIFIER.format(name="B"))),
}
ODD = {"ourspkg": ("cnn = ourspkg:Net", "1 / 0"), "dashpkg": ("my-net = dashpkg:Net", "1 / 0")}


def write_wheel(folder: Path, package: str, declares: str, code: str, version: str = "1.0") -> Path:
    """Write a wheel with one module, as a build backend would."""
    info = f"{package}-{version}.dist-info"
    files = {
        f"{package}/__init__.py": textwrap.dedent(code),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{GROUP}]\n{declares}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    path = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


def install(folder: Path, packages: dict[str, tuple[str, str]]) -> Path:
    """Install *packages* into a folder of their own."""
    pytest.importorskip("pip", reason="installs packages with pip")
    wheels = [str(write_wheel(folder, name, *parts)) for name, parts in packages.items()]
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--no-compile", "-q")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), *wheels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where pip has installed packages, good and bad."""
    return install(tmp_path_factory.mktemp("site"), GOOD | BAD)


@pytest.fixture(scope="module")
def odd_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where pip has installed packages with names that they cannot have."""
    return install(tmp_path_factory.mktemp("odd"), ODD)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let this process find other packages; afterwards it knows nothing of them."""
    names = [*GOOD, *BAD, *ODD]
    _zoo.declared.cache_clear()
    try:
        yield monkeypatch
    finally:
        for name in set(_zoo.list_models()) - set(_zoo.BUILT_IN):
            _zoo.forget(name)
        for name in names:
            sys.modules.pop(name, None)
        monkeypatch.undo()
        _zoo.declared.cache_clear()


@pytest.fixture
def installed(path: pytest.MonkeyPatch, site: Path) -> Path:
    """Have the packages of *site* installed in this process."""
    path.syspath_prepend(site)
    return site


def run(site: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, for which the packages are installed."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(SOURCE)])}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def ours_loaded() -> set[str]:
    return {*GOOD, *BAD, *ODD} & set(sys.modules)


# What a package declares is a model of the zoo


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


# What is wrong with a package is said, and of the others nothing is lost


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
