"""Mistakes at the command line: exit code 2, one line, nothing written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from torch import nn

import torchbasics
from torchbasics import _zoo, data, io, models
from torchbasics.cli import _train, main

if TYPE_CHECKING:
    from torchbasics.training import State

SOURCE = Path(torchbasics.__file__).parents[1]


class Blur(nn.Conv2d):
    """A model from images to images."""

    def __init__(self) -> None:
        super().__init__(1, 1, 3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, without the extras: that saves time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, see that it exits with 2 and one line on stderr, and return the line."""
    try:
        code = main(arguments)
    except SystemExit as e:
        code = int(str(e.code))
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    return captured.err.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: COMMAND; see torchbasics --help"),
        ("trian", "invalid choice: 'trian'"),
        ("train", "torchbasics train: the following arguments are required: NAME"),
        ("train cnnn", "torchbasics train: unknown model 'cnnn'; did you mean 'cnn'?"),
        ("train cnn --epochs x", "argument --epochs: invalid int value: 'x'; see torchbasics train --help"),
        ("train cnn --epochs 0", "epochs must be at least 1, got 0"),
        ("train cnn --batch-size 0", "batch_size must be at least 1, got 0"),
        ("train cnn --seed -1", "seed must be at least 0, got -1"),
        ("train cnn --lr -1", "lr must be positive, got -1.0"),
        ("train cnn --optimizer sdg", "unknown optimizer 'sdg'; did you mean 'sgd'?"),
        ("train cnn --recipe x", "unknown recipe 'x'; choose from 'tutorial'"),
        ("train cnn --data fashion_mnst", "unknown data 'fashion_mnst'; did you mean 'fashion_mnist'?"),
        ("train cnn --root .", "--root goes with --data fashion_mnist or mnist, got --data mini"),
        ("train cnn --size 3", "--size and --grey go with a folder of images, got --data mini"),
        ("train cnn --size 1,2,3", "argument --size: takes pixels, SIDE or H,W, of at least 1, got '1,2,3'"),
        ("train cnn --data few --size 0", "argument --size: takes pixels, SIDE or H,W, of at least 1, got '0'"),
        ("train cnn --data few --size 8,x", "argument --size: takes pixels, SIDE or H,W, of at least 1, got '8,x'"),
        ("train cnn --data mixed", "'mixed/b/1.png' has 5x4 pixels, but those before it 4x4; give --size"),
        ("train cnn --augment flip,shfit", "unknown augmentation 'shfit'; did you mean 'shift'?"),
        ("train cnn --seed 99999999999999999999", "seed must be below 2**63, got 99999999999999999999"),
        ("train cnn --data empty", "'empty' holds no folders"),
        ("train cnn --data few", "'few' holds only 2 images; a fifth of them has to be left for the test"),
        ("train cnn --set hiden=3", "unknown argument 'hiden'; did you mean 'hidden'?"),
        ("train cnn --set hidden", "--set takes NAME=VALUE, got 'hidden'"),
        ("train cnn --set hidden=x", "hidden must be an integer, got 'x'"),
        ("train cnn --set num_classes=3", "target"),
        ("train cnn --device cuda:99", "no device 'cuda:99' here"),
        ("train cnn --validation 2", "argument --validation: must be a number in (0, 1), got '2'"),
        ("train cnn --validation 0", "argument --validation: must be a number in (0, 1), got '0'"),
        ("train cnn --validation nan", "argument --validation: must be a number in (0, 1), got 'nan'"),
        ("train cnn --validation x", "argument --validation: must be a number in (0, 1), got 'x'"),
        ("train cnn --out full", "--out 'full' is there and not empty; give another folder"),
        (
            "train stacked_rnn",
            "'stacked_rnn' is a layer, not a classifier: it returns a tuple, not logits; did you mean 'rnn_classifier'?",
        ),
        ("check stacked_rnn", "'stacked_rnn' is a layer, not a classifier"),
        ("evaluate nothing.safetensors", "torchbasics evaluate: no file 'nothing.safetensors'"),
        (
            "evaluate full/text.safetensors",
            "'full/text.safetensors' is no safetensors file; give one that io.save or `torchbasics train` wrote",
        ),
        ("evaluate nothing", "no file 'nothing', and no weights of this name; `torchbasics list` shows them"),
        ("predict dcgan a.png", "'dcgan' draws images and sees none; torchbasics generate dcgan -o grid.png"),
        ("predict nothing.safetensors a.png", "no file 'nothing.safetensors'"),
        ("inspect full/text.safetensors", "'full/text.safetensors' is no safetensors file"),
        ("inspect", "the following arguments are required: FILE"),
        ("convert full/text.safetensors x.safetensors", "IN must end in .pt, .pth, .pkl, got 'full/text.safetensors'"),
        ("convert nothing.pt x.safetensors", "no file 'nothing.pt'"),
        ("export nothing.safetensors x.pt2", "no file 'nothing.safetensors'"),
        ("generate nothing.safetensors -o x.png", "no file 'nothing.safetensors'"),
        ("generate nothing.safetensors -n 0 -o x.png", "-n must be at least 1, got 0"),
        (
            "generate nothing.safetensors -n 1001 -o x.png",
            "-n must be at most 1,000, which one picture can show, got 1,001",
        ),
        ("generate nothing.safetensors --seed -1 -o x.png", "seed must be at least 0, got -1"),
        ("generate nothing.safetensors", "the following arguments are required: -o/--out"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line that names the value and the way out, nothing written."""
    (here / "full").mkdir()
    (here / "full/text.safetensors").write_text("hello, this is some text")
    (here / "empty").mkdir()
    for name in ("a", "b"):
        (here / "few" / name).mkdir(parents=True)
        (here / "mixed" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(here / "few" / name / "1.png")
        Image.new("RGB", (4, 4 + (name == "b"))).save(here / "mixed" / name / "1.png")
    assert message in told(capsys, *words.split())
    assert sorted(path.name for path in here.iterdir()) == ["empty", "few", "full", "mixed"]


def test_a_folder_without_the_files_is_told_in_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder and what it lacks are named, when nothing could be downloaded."""
    monkeypatch.setattr("torchbasics.data._sets._download", lambda *args: None)
    line = told(capsys, *["train", "cnn", "--data", "fashion_mnist", "--root", "."])
    assert "'.' lacks files of Fashion-MNIST, plain or .gz: train-images-idx3-ubyte" in line
    assert "name the folder that has them (root=, --root)" in line
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("predict cnn.safetensors missing.png", "'missing.png' is not a file; expected a PNG or JPEG image"),
        ("predict cnn.safetensors text.png", "'text.png' cannot be read as a PNG or JPEG image"),
        ("predict cnn.safetensors text.png --top 0", "--top must be at least 1, got 0"),
        (
            "predict dcgan.safetensors image.png",
            "draws images and sees none; torchbasics generate dcgan.safetensors -o",
        ),
        ("predict mlp.safetensors image.png", "does not say which images it takes; save it with metadata="),
        ("predict odd.safetensors image.png", "names 2 classes, but its model tells 10 apart"),
        ("evaluate cnn.safetensors --data photos --size 28 --grey", "was trained for the classes ('T-shirt/top', "),
        ("evaluate cnn.safetensors --batch-size 0", "batch_size must be at least 1, got 0"),
        ("evaluate cut.safetensors", "is truncated"),
        ("predict cut.safetensors image.png", "is truncated"),
        ("export cnn.safetensors x.zip", "path must end in .pt2 or .onnx, got 'x.zip'"),
        (
            "generate cnn.safetensors -o x.png",
            "'cnn.safetensors' holds a CNNModel, which draws no images; give a saved",
        ),
        ("convert state.pt x.zip", "path must end in .safetensors, got 'x.zip'"),
        ("convert whole.pt x.safetensors", "'whole.pt' holds a whole pickled model"),
        ("evaluate whole.pt", "`torch.save(model.state_dict(), 'state-whole.pt')`, and use that file"),
        ("evaluate state.pt", "'state.pt' holds parameters only; make the model and use io.load_state"),
    ],
)
def test_a_mistake_with_a_saved_model_is_told_in_one_line(
    words: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that are no images or damaged models, and data of other classes, are named."""
    Path("text.png").write_text("no image")
    for name in ("a", "b"):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4)).save(here / "photos" / name / f"{i}.png")
    shutil.copy(here / "photos/a/0.png", "image.png")
    clothes = data.fashion_mnist_mini()[1].classes
    io.save(models.get_model("cnn"), "cnn.safetensors", metadata={"classes": clothes, "data": "mini"})
    Path("cut.safetensors").write_bytes(Path("cnn.safetensors").read_bytes()[:-9])
    io.save(models.get_model("dcgan", width=2), "dcgan.safetensors")
    io.save(models.get_model("mlp"), "mlp.safetensors")
    io.save(models.get_model("cnn"), "odd.safetensors", metadata={"classes": ["a", "b"]})
    torch.save(nn.Linear(1, 1), "whole.pt")
    torch.save(nn.Linear(1, 1).state_dict(), "state.pt")
    assert message in told(capsys, *words.split())
    assert not list(here.glob("x.*"))


def test_predict_needs_a_classifier(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model whose outputs are no logits is named."""
    models.register("blur")(Blur)
    io.save(Blur(), "blur.safetensors", metadata={"shape": [1, 4, 4]})
    Image.new("L", (4, 4)).save("image.png")
    try:
        line = told(capsys, *["predict", "blur.safetensors", "image.png"])
    finally:
        _zoo.forget("blur")
    assert "'blur.safetensors' is no classifier: its outputs have shape (1, 1, 2, 2)" in line


def test_a_loss_that_is_nan_is_told_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate far too large ends the run with the reason, not with a traceback."""
    words = "train mlp --set hidden=8 --optimizer sgd --lr 1e30 --epochs 1"
    assert re.search("torchbasics train: .*(nan|inf)", told(capsys, *words.split()))


@pytest.fixture
def with_events(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with TensorBoard."""
    monkeypatch.delitem(sys.modules, "tensorboard")
    pytest.importorskip("tensorboard")
    return here


@pytest.mark.parametrize("out", ["", "--out x/y"])
def test_a_run_that_fails_before_its_first_epoch_leaves_nothing(
    out: str, with_events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its events and the untrained weights go with it; the folder's name is free again."""
    words = f"train mlp --set hidden=8 --optimizer sgd --lr 1e30 --epochs 1 {out}"
    assert "the loss is nan at step 2" in told(capsys, *words.split())
    assert not list(with_events.iterdir())


@pytest.mark.parametrize("step", [1, 51], ids=["first epoch", "second epoch"])
def test_ctrl_c_leaves_a_run_only_where_there_is_a_checkpoint_of_work(
    step: int, with_events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A KeyboardInterrupt before anything was learnt leaves nothing; after an epoch it leaves all there is."""

    def interrupt(self: object, state: State) -> None:
        if state.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(_train.Ended, "on_step", interrupt, raising=False)
    assert main(["train", "mlp", "--set", "hidden=8", "--epochs", "2"]) == 130
    assert capsys.readouterr().err == "torchbasics: interrupted\n"
    left = {path.name.split(".")[0] for path in with_events.glob("runs/mlp/*")}
    assert left == (set() if step == 1 else {"checkpoint", "events"})
    assert (with_events / "runs").exists() == (step != 1)


def test_a_failed_run_keeps_what_it_did_not_write(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that someone put into the folder meanwhile is not removed."""

    def fail(*args: object) -> None:
        (here / "runs/mlp/notes.txt").write_text("mine")
        raise ValueError("no")

    monkeypatch.setattr(_train, "_fit", fail)
    assert told(capsys, "train", "mlp") == "torchbasics train: no"
    assert (here / "runs/mlp/notes.txt").read_text() == "mine"


def test_our_own_faults_keep_their_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no user can cause is not hidden: a saved model that predicts otherwise, for one."""
    monkeypatch.setattr(io, "load", lambda path: models.get_model("mlp", hidden=(4,)).eval())
    with pytest.raises(RuntimeError, match="does not predict what the trained one does"):
        main(["train", "mlp", "--epochs", "1", "--set", "hidden=4"])


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_ctrl_c_ends_with_the_line_to_go_on(tmp_path: Path) -> None:
    """Exit code 130 and what to type, no traceback."""
    # A background job of a shell ignores Ctrl-C, and so would its children: the child takes it up again.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run = "from torchbasics.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", f"{start}; {run}", "train", "mlp", "--epochs", "1000"]
    variables = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors == (
        "\nSIGINT: ending the run after this step; Ctrl-C ends it at once\n"
        "torchbasics train: ended by a signal; go on with\n"
        "  torchbasics train mlp --epochs 1000 --out runs/mlp --resume\n"
    )
