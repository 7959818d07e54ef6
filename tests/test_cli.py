"""The command line, as its user sees it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchbasics
from tests.helpers import needs
from torchbasics import _recipe, _safetensors, data, io, models
from torchbasics.cli import COMMANDS, main
from torchbasics.training import evaluate

SOURCE = Path(torchbasics.__file__).parents[1]


def run(*arguments: str, folder: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command, or *code* with its arguments, in a process of its own."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "torchbasics"]), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


class Trained:
    """A run of ``torchbasics train cnn --epochs 1``, and what it printed."""

    def __init__(self, folder: Path, output: str) -> None:
        self.folder = folder
        self.lines = output.splitlines()
        self.file = str(folder / "runs/cnn/model.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run that all tests read and none changes."""
    if importlib.util.find_spec("matplotlib") is not None:  # it says so on stderr where it looks for fonts for long
        importlib.import_module("matplotlib.font_manager")
    folder = tmp_path_factory.mktemp("trained")
    done = run("train", "cnn", "--epochs", "1", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return Trained(folder, done.stdout)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("way", "code"), [("| true", 141), ("--json | true", 141), (">&-", 0), ("--json >&-", 0)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_where_nobody_reads_the_command_ends_in_silence(tmp_path: Path, way: str, code: int, unbuffered: str) -> None:
    """As with any tool: ``| head`` leaves no word on stderr."""
    script = f"{shlex.quote(sys.executable)} -m torchbasics list {way}; exit ${{PIPESTATUS[0]}}"
    variables = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_another_broken_pipe_is_no_end_in_silence(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where stdout is read, the pipe was another, such as that of a worker."""

    def broken(args: object) -> None:
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("torchbasics.cli._list.run", broken)
    assert main(["list"]) == 2
    assert capfd.readouterr().err == "torchbasics list: of a worker\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what needs extras, to save time."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture
def photos(here: Path) -> Path:
    """Return a folder of two classes of coloured images."""
    for label, name in enumerate(("dark", "light")):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.full((9, 12, 3), 200 * label + i, dtype=np.uint8)
            Image.fromarray(pixels).save(here / "photos" / name / f"{i}.png")
    return here / "photos"


# Without torch


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["list", "--json"], ["train", "--help"]])
def test_help_and_lists_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    """What needs no torch does not wait for it."""
    code = """if True:
        import sys
        from torchbasics.cli import main
        try:
            main(sys.argv[1:])
        finally:
            print({"torch", "numpy", "PIL"} & set(sys.modules), file=sys.stderr)
    """
    assert run(*arguments, folder=tmp_path, code=code).stderr == "set()\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help ends with examples, each of which the parser takes."""
    from torchbasics.cli import make_parser

    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"] if command else ["--help"])
    examples = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    assert examples
    for line in examples:
        words = line.partition("#")[0].split()
        assert make_parser().parse_args(words[1:]).command == (command or words[1])


def test_check_tells_its_findings_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a good model that there are none; --json lists them."""
    assert main(["check", "mlp", "--set", "hidden=16"]) == 0
    assert capsys.readouterr().out == "nothing found in mlp on 5,000 images of mini\n"
    assert main(["check", "mlp", "--set", "out_features=12"]) == 0
    assert capsys.readouterr().out.startswith(
        "classes-missing: the model has 12 classes, but none of 5000 labels is 10"
    )
    assert main(["check", "mlp", "--set", "out_features=12", "--json"]) == 0
    assert [f["name"] for f in json.loads(capsys.readouterr().out)["findings"]] == ["classes-missing"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version says the package's."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"torchbasics {torchbasics.__version__}\n"


def test_list_has_a_line_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    """The registry is what is listed; weights stand below their model."""
    assert main(["list"]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert [first for first in lines if first != "-"] == models.list_models()
    assert lines.count("-") == sum(len(models.get_weights(name)) for name in models.list_models())
    assert main(["list", "--json"]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)["models"]] == models.list_models()


def test_info_reports_versions(capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms name the torch that runs."""
    assert main(["info"]) == 0
    assert torch.__version__ in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"] == torch.__version__


def test_there_is_a_flag_for_every_value_of_a_recipe() -> None:
    """The flags of train are computed, so that no value of a recipe can be forgotten."""
    from torchbasics.cli import make_parser

    taken = vars(make_parser().parse_args(["train", "cnn"]))
    assert not {field.name for field in fields(_recipe.Recipe)} & set(taken)  # left to fit unless given
    words = "--epochs 2 --lr 0.1 --batch-size none --seed none --no-shuffle --fused --optimizer sgd --early-stopping 3"
    given = make_parser().parse_args(["train", "cnn", *words.split(), "--clip-norm", "1", "--memory-format", "auto"])
    assert (given.epochs, given.lr, given.batch_size, given.seed) == (2, 0.1, None, None)
    assert (given.shuffle, given.fused, given.optimizer, given.early_stopping) == (False, True, "sgd", 3)
    assert (given.clip_norm, given.memory_format) == (1.0, "auto")


# Train, evaluate, predict, inspect


@needs("tensorboard", "matplotlib")
def test_train_says_what_it_chose_and_ends_with_the_result(trained: Trained) -> None:
    """The first line is the recipe, then comes a line an epoch, and the last has accuracy and paths."""
    first, *epochs, last = trained.lines
    assert first.startswith("CNNModel: adamw, lr ")
    assert len(epochs) == 1
    assert re.fullmatch(
        r"test accuracy 0\.\d{4} on 1,000 images; saved runs/cnn/model.safetensors, runs/cnn/history.csv, "
        r"runs/cnn/predictions.png; TensorBoard: tensorboard --logdir runs/cnn",
        last,
    )


@needs("tensorboard", "matplotlib")
def test_train_leaves_model_history_picture_and_events(trained: Trained) -> None:
    """The folder holds all that the last line names, and what --resume goes on from."""
    names = sorted(path.name.split(".")[0] for path in (trained.folder / "runs/cnn").iterdir())
    assert names == ["checkpoint", "events", "history", "model", "predictions"]
    with Image.open(trained.folder / "runs/cnn/predictions.png") as picture:
        assert picture.size[0] > 500
    history = (trained.folder / "runs/cnn/history.csv").read_text()
    assert history.startswith("epoch,loss,accuracy,seconds\n1,")


def test_the_saved_model_has_the_accuracy_that_was_told(trained: Trained) -> None:
    """Evaluating the file in Python gives the number of the last line; the file knows classes and recipe."""
    result = evaluate(io.load(trained.file), data.fashion_mnist_mini()[1])
    assert trained.lines[-1].startswith(f"test accuracy {result['accuracy']:.4f} ")
    report = io.inspect(trained.file)
    assert report["metadata"]["classes"] == list(data.fashion_mnist_mini()[1].classes)
    assert report["recipe"]["epochs"] == 1
    assert len(report["history"]) == 1


def test_evaluate_tells_what_train_told(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """The same file and data give the same accuracy, in words and as JSON."""
    accuracy = trained.lines[-1].split()[2]
    assert main(["evaluate", trained.file]) == 0
    assert f"accuracy {accuracy} on 1,000 images of mini" in capsys.readouterr().out
    assert main(["evaluate", trained.file, "--data", "mini", "--batch-size", "77", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert f"{report['accuracy']:.4f}" == accuracy
    assert report["samples"] == 1000


def test_predict_names_the_classes_of_image_files(
    trained: Trained, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PNG and JPEG of any size are scaled; the likeliest classes come first, as the model in Python says."""
    test = data.fashion_mnist_mini()[1]
    trouser = test.images[test.targets == 1][0, 0].numpy()
    Image.fromarray(trouser).save(here / "a.png")
    Image.fromarray(255 - trouser).resize((300, 300)).save(here / "b.jpg")
    assert main(["predict", trained.file, "a.png"]) == 0
    assert re.match(r"a\.png: Trouser \d+\.\d%, .+ \d+\.\d%, .+ \d+\.\d%\n", capsys.readouterr().out)
    assert main(["predict", trained.file, "b.jpg", "a.png", "--invert", "--top", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [image["image"] for image in report["images"]] == ["b.jpg", "a.png"]
    assert report["images"][0]["classes"][0]["class"] == "Trouser"
    assert main(["predict", trained.file, "a.png", "--top", "99", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["images"][0]["classes"]
    logits = io.load(trained.file)(torch.from_numpy(trouser)[None, None] / 255)
    torch.testing.assert_close(  # the same forward pass, but JSON's float64 of a float32
        torch.tensor([b["probability"] for b in best]), logits.softmax(1)[0].sort(descending=True).values
    )


def test_inspect_shows_the_file(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Kind, model, history, metadata and tensors are shown, in words and as JSON."""
    assert main(["inspect", trained.file]) == 0
    text = capsys.readouterr().out
    for part in (
        "model, ",
        "bytes, intact",
        "cnn(in_channels=1",
        "1 epochs; last: loss",
        "conv1.weight  float32  (10,",
    ):
        assert part in text
    assert main(["inspect", trained.file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["elements"] == 54840


def test_a_saved_model_is_read_once(
    trained: Trained, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluate and predict take model and metadata from one reading."""
    Image.new("L", (28, 28)).save("a.png")
    opened, paths = _safetensors.opened, list[str]()

    def counted(path: str) -> AbstractContextManager[_safetensors.File]:
        paths.append(path)
        return opened(path)

    monkeypatch.setattr(_safetensors, "opened", counted)
    for words in (["evaluate", trained.file], ["predict", trained.file, "a.png"]):
        assert main(words) == 0
        assert paths == [trained.file]
        paths.clear()


@pytest.mark.usefixtures("no_extras")
def test_several_augmentations_are_separated_by_commas(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One name stays a name; several are made in turn, as the recipe says."""
    for words, expected in {"flip": "flip", "flip,shift": ["flip", "shift"]}.items():
        assert main(["train", "cnn", "--epochs", "1", "--augment", words, "--set", "channels=1,1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["recipe"]["augment"] == expected


@pytest.mark.usefixtures("no_extras")
def test_a_second_run_goes_to_the_next_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No run is written over; the same command gives the same parameters."""
    for name in ("mlp", "mlp-2", "mlp-3"):
        assert main(["train", "mlp", "--epochs", "1", "--set", "hidden=8"]) == 0
        assert f"saved runs/{name}/model.safetensors" in capsys.readouterr().out
    first, second = (io.load(here / f"runs/{name}/model.safetensors") for name in ("mlp", "mlp-2"))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.usefixtures("no_extras")
def test_json_is_one_object_and_all_else_goes_to_stderr(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script can read stdout whole."""
    words = "train mlp --epochs 2 --set hidden=8,4 activation=tanh bias=false --lr 0.1 --optimizer sgd --validation 0.1"
    assert main([*words.split(), "--out", "x/y", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["config"]["hidden"] == [8, 4]
    assert (report["config"]["activation"], report["config"]["bias"]) == ("tanh", False)
    assert (report["recipe"]["optimizer"], report["recipe"]["lr"], report["recipe"]["epochs"]) == ("sgd", 0.1, 2)
    assert len(report["history"]) == 2
    assert "validation_accuracy" in report["history"][-1]
    assert report["files"]["model"] == "x/y/model.safetensors"
    assert "epoch 2/2" in captured.err


@pytest.mark.usefixtures("no_extras")
def test_a_named_recipe_brings_its_own_values(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag changes one value of it."""
    assert main(["train", "mlp", "--set", "hidden=4", "--recipe", "tutorial", "--epochs", "1", "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert (recipe["optimizer"], recipe["lr"], recipe["epochs"]) == ("sgd", 5e-4, 1)


@needs("tensorboard", "matplotlib")
def test_dcgan_leaves_samples(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A generator's picture shows what it draws, and its result is the loss."""
    assert main(["train", "dcgan", "--epochs", "1", "--batch-size", "500", "--set", "width=4", "depth=1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"test loss \d+\.\d{4} on 1,000 images; saved .*runs/dcgan/samples\.png;", last)
    assert (here / "runs/dcgan/samples.png").is_file()


@pytest.mark.parametrize("name", ["cnn", "mlp", "rnn_classifier"])
def test_a_folder_of_images_is_data_and_the_model_fits_it(
    name: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes, channels and sizes come from the images; evaluate and predict remember them."""
    assert main(["train", name, "--data", "photos", "--epochs", "1", "--batch-size", "8"]) == 0
    file = f"runs/{name}/model.safetensors"
    assert io.inspect(file)["metadata"]["shape"] == [3, 9, 12]
    capsys.readouterr()
    assert main(["evaluate", file]) == 0
    assert "on 4 images of" in capsys.readouterr().out
    assert main(["predict", file, "photos/dark/1.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["images"][0]["classes"]
    assert {f["class"] for f in found} == {"dark", "light"}


def test_size_and_grey_change_the_images_of_a_folder(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of a folder are scaled and lose their colour when asked; train and test may have their own folders."""
    shutil.copytree(photos, "parts/train")
    shutil.copytree(photos, "parts/test")
    assert (
        main(
            [
                "train",
                "mlp",
                "--data",
                "parts",
                "--size",
                "6,4",
                "--grey",
                "--epochs",
                "1",
                "--batch-size",
                "20",
                "--json",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["config"]["in_features"] == 24
    assert report["test"]["samples"] == 20
    assert main(["evaluate", report["files"]["model"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == report["test"]["accuracy"]


@pytest.mark.parametrize(
    ("module", "note", "left"),
    [
        ("tensorboard", "left out: tensorboard is not installed; pip install 'torchbasics[tensorboard]'", "events"),
        ("matplotlib", "left out: matplotlib is not installed; pip install 'torchbasics[plot]'", "predictions"),
    ],
)
@needs("tensorboard", "matplotlib")
def test_a_missing_extra_is_said_and_its_part_left_out(
    module: str, note: str, left: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training works without the extras; one line names the pip line."""
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["train", "mlp", "--epochs", "1", "--set", "hidden=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == note
    assert not [path for path in (here / "runs/mlp").iterdir() if path.name.startswith(left)]
