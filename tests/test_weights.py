"""The pretrained weights: files and cards agree, and with what is written of them; what is damaged is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import module_at, needs
from torchbasics import _weights, data, io, models
from torchbasics._files import CheckpointError
from torchbasics._transforms import Transforms
from torchbasics.cli import _frechet, _reproduce, main
from torchbasics.models import CNNModel
from torchbasics.training import History, State, confusion_matrix, evaluate, fit, frechet_distance

ROOT = Path(__file__).parents[1]
CARDS = _weights.all_cards()
CLASSIFIERS = [card for card in CARDS if card.classes]
PAINTERS = [card for card in CARDS if "frechet_distance" in card.metrics]
every_card = pytest.mark.parametrize("card", CARDS, ids=str)
every_classifier = pytest.mark.parametrize("card", CLASSIFIERS, ids=str)
every_painter = pytest.mark.parametrize("card", PAINTERS, ids=str)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the weights that a test may damage."""
    folder = tmp_path / "weights"
    shutil.copytree(_weights.FOLDER, folder)
    monkeypatch.setattr(_weights, "FOLDER", folder)
    return folder


def edit_card(folder: Path, name: str, change: Any) -> None:
    path = folder / f"{name}.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    change(card)
    path.write_text(json.dumps(card), encoding="utf-8")


# Cards and files


def test_the_tutorials_network_has_weights() -> None:
    """The default of "cnn" is the tutorial's network with its 54,840 parameters, trained on Fashion-MNIST."""
    card = models.get_weights("cnn")[0]

    assert (card.model, card.name, card.parameters, card.default) == ("cnn", "fashion_mnist", 54_840, True)
    assert card.config == CNNModel().config


def test_the_gan_has_weights() -> None:
    """Generator and discriminator, trained on Fashion-MNIST; noise goes in."""
    card = models.get_weights("dcgan")[0]

    assert (card.model, card.name, card.default, card.classes) == ("dcgan", "fashion_mnist", True, ())
    assert card.config == models.DCGAN(latent_dim=64, width=48).config
    assert card.input_shape == (64,)
    with pytest.raises(TypeError, match=r"'dcgan' takes no images but noise; call model\.sample\(n\)"):
        card.transforms()


def test_each_card_says_how_good_its_weights_are() -> None:
    """By an accuracy or by a distance."""
    assert CARDS
    assert {str(card) for card in CARDS} == {str(card) for card in [*CLASSIFIERS, *PAINTERS]}


def test_a_model_has_one_default_and_it_comes_first() -> None:
    for name in {card.model for card in CARDS}:
        defaults = [card.default for card in models.get_weights(name)]

        assert defaults == [True] + [False] * (len(defaults) - 1)


def test_all_weights_together_are_small() -> None:
    """All files of the folder take at most 8 MB in the wheel."""
    assert 0 < sum(path.stat().st_size for path in _weights.FOLDER.iterdir()) <= 8e6


@every_card
def test_a_card_tells_the_truth_about_its_file(card: _weights.Weights) -> None:
    """Digest, size, arguments, parameters, multiply-adds: each found again from the file."""
    model: Any = io.load(card.path)
    shape = (1, *card.input_shape)

    assert _weights.sha256_of(card.path) == card.sha256
    assert _weights.sha256_of(card.golden_path) == card.golden["sha256"]
    assert card.path.stat().st_size == card.size
    assert card.golden_path.stat().st_size == card.golden["size"]
    assert model.config == card.config
    assert sum(p.numel() for p in model.parameters()) == card.parameters
    assert models.summary(model, shape).multiply_adds == card.multiply_adds


@every_card
def test_a_card_is_complete(card: _weights.Weights) -> None:
    """Nothing is left out: figures, how they were measured, how the weights were made, data, licence, limits."""
    assert {field.name for field in fields(card)} == json.loads(card.path.with_suffix(".json").read_text()).keys()
    assert {"name", "licence", "source"} <= card.data.keys()
    assert {"seeds", "command", "samples"} <= card.metrics.keys()
    assert {"recipe", "teacher", "threads", "seconds", "torch", "cpu", "command"} <= card.training.keys()
    assert all([card.description, card.limits, card.torch, card.input_shape])
    assert len(card.metrics["seeds"]["values"]) >= 3


def test_the_weights_that_had_a_part_in_a_training_are_those_of_the_package() -> None:
    """So that it can be done again: a teacher that was trained anew would teach something else."""
    others = [card.training.get(key) for card in _weights.all_cards() for key in ("teacher", "classifier")]
    then = [(other["weights"], other["sha256"]) for other in others if other]

    assert then
    assert then == [(name, _weights.find_named(name).sha256) for name, _ in then]


@every_card
def test_the_deviation_over_seeds_is_that_of_the_values(card: _weights.Weights) -> None:
    seeds = card.metrics["seeds"]

    assert seeds["mean"] == pytest.approx(statistics.mean(seeds["values"]), abs=1e-5)
    assert seeds["sd"] == pytest.approx(statistics.stdev(seeds["values"]), abs=1e-5)


@every_classifier
def test_the_figures_of_a_card_agree_with_each_other(card: _weights.Weights) -> None:
    """Accuracy, accuracy by class, confusion and the first seed are one measurement."""
    metrics = card.metrics
    confusion = torch.tensor(metrics["confusion"])

    assert int(confusion.sum()) == metrics["samples"] == 10_000
    assert int(confusion.trace()) / 10_000 == metrics["accuracy"] == metrics["seeds"]["values"][0]
    assert list(metrics["per_class"]) == list(card.classes)
    assert list(metrics["per_class"].values()) == [
        pytest.approx(float(row[i] / row.sum()), abs=1e-4) for i, row in enumerate(confusion)
    ]


@every_classifier
def test_the_classes_are_those_of_the_data(card: _weights.Weights) -> None:
    _, test = data.fashion_mnist_mini()

    assert card.classes == test.classes
    assert card.input_shape == tuple(test.images.shape[1:])


@every_classifier
def test_the_accuracy_of_a_card_is_found_again(card: _weights.Weights, fashion_mnist_test: data.Images) -> None:
    """On the 10,000 test images, but for two on which another processor may round another way."""
    model = models.get_model(card.model, weights=card.name)

    assert evaluate(model, fashion_mnist_test)["accuracy"] == pytest.approx(card.metrics["accuracy"], abs=2e-4)
    difference = confusion_matrix(model, fashion_mnist_test) - torch.tensor(card.metrics["confusion"])
    assert int(difference.abs().sum()) <= 4


@every_painter
def test_the_distances_of_a_card_agree_with_each_other(card: _weights.Weights) -> None:
    """The distance is the mean over draws of noise, and the first seed's; that of training images is below it."""
    metrics = card.metrics

    assert metrics["samples"] == 10_000
    assert len(metrics["draws"]["values"]) == _frechet.DRAWS
    assert metrics["frechet_distance"] == metrics["seeds"]["values"][0]
    assert metrics["frechet_distance"] == pytest.approx(statistics.mean(metrics["draws"]["values"]), abs=1e-4)
    assert metrics["draws"]["sd"] == pytest.approx(statistics.stdev(metrics["draws"]["values"]), abs=2e-4)
    assert 0 < metrics["train_test"] < metrics["frechet_distance"]


def is_of_now(card: _weights.Weights) -> bool:
    """Whether the distance of *card* was measured with the features of the weights that are in the package."""
    features = card.metrics["features"]
    return bool(_weights.find_named(features["weights"]).sha256 == features["sha256"])


@every_painter
def test_a_distance_is_that_of_the_features_in_the_package(card: _weights.Weights) -> None:
    """Other weights that see: `python scripts/make_weights.py dcgan/fashion_mnist` measures again."""
    assert is_of_now(card)


def test_a_distance_by_other_features_is_seen(own_folder: Path) -> None:
    """Positive control: the network that sees was trained again."""
    edit_card(own_folder, "cnn-fashion_mnist", lambda card: card.update(sha256="0" * 64))

    assert not is_of_now(models.get_weights("dcgan")[0])


@every_painter
def test_the_distance_of_a_card_is_found_again(card: _weights.Weights, fashion_mnist_test: data.Images) -> None:
    """Of the first draw of noise; processors round differently."""
    images = _frechet.drawn(models.get_model(card.model, weights=card.name), len(fashion_mnist_test), seed=0)
    distance = frechet_distance(_frechet.seen(images), _frechet.seen(fashion_mnist_test))

    assert distance == pytest.approx(card.metrics["draws"]["values"][0], rel=0.01)


@pytest.fixture(scope="module")
def fashion_mnist_test() -> data.Images:
    """Return the official test images."""
    for root in (None, "/usr/share/datasets"):
        try:
            return data.fashion_mnist(root, download=False)[1]
        except FileNotFoundError:
            continue
    pytest.skip("the official files of Fashion-MNIST are not here; TORCHBASICS_DATA names their folder")


def test_readme_and_docs_say_what_the_cards_say() -> None:
    """`python scripts/generate_cards.py` writes them."""
    command = [sys.executable, str(ROOT / "scripts/generate_cards.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_docs_say_is_seen_to_differ(tmp_path: Path) -> None:
    """One digit changed in each README, a page gone, a page of weights that are no more: each is named."""
    generate = module_at("scripts/generate_cards.py")
    shutil.copytree(ROOT / "docs/weights", tmp_path / "docs/weights")
    readmes = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")}
    for name, text in readmes.items():
        (tmp_path / name).write_text(text.replace("54,840 |", "54,841 |"), encoding="utf-8")
    (tmp_path / "docs/weights/cnn-fashion_mnist.md").unlink()
    (tmp_path / "docs/weights/old.md").write_text("gone", encoding="utf-8")

    assert generate.main(["--check"], tmp_path) == 1
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in readmes} == readmes
    assert not (tmp_path / "docs/weights/old.md").exists()


# Loading


@every_card
def test_pretrained_models_are_ready_for_use(card: _weights.Weights) -> None:
    """In eval mode, with the bits of the file; the global random numbers are as they were."""
    before = torch.get_rng_state()
    model = models.get_model(card.model, weights=card.name)
    expected = io.load(card.path).state_dict()

    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_default_is_the_default() -> None:
    named = models.get_model("cnn", weights="fashion_mnist").state_dict()

    assert all(torch.equal(v, named[k]) for k, v in models.get_model("cnn", weights="DEFAULT").state_dict().items())


def test_unknown_weights_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown weights of 'cnn' 'fashion_mnst'; did you mean 'fashion_mnist'\?"):
        models.get_model("cnn", weights="fashion_mnst")


def test_a_card_is_no_name() -> None:
    """The way out is named, in a line; a card can be a key."""
    card = models.get_weights("cnn")[0]

    with pytest.raises(TypeError, match=r"^weights must be a name, got Weights; of a card, give card\.name$"):
        models.get_model("cnn", weights=card)  # type: ignore[call-overload]  # what is refused
    assert {card: 1}[models.get_weights("cnn")[0]] == 1


def test_a_layer_of_another_size_is_no_head() -> None:
    """A first layer of as many channels as there are classes is not made anew."""
    with pytest.raises(ValueError, match=r"conv1\.weight has shape \(7, 1, 5, 5\)"):
        models.get_model("cnn", weights="DEFAULT", num_classes=5, channels=(7, 20))


def test_a_model_without_weights_says_so() -> None:
    assert models.get_weights("stacked_rnn") == ()
    with pytest.raises(ValueError, match="'stacked_rnn' has no weights, got weights='DEFAULT'; leave it out for an"):
        models.get_model("stacked_rnn", weights="DEFAULT")


@pytest.mark.parametrize("offset", [0, 8, 500, -1], ids=["length", "header", "middle", "end"])
def test_a_changed_byte_is_refused_at_every_load(own_folder: Path, offset: int) -> None:
    """The digest is looked at whether or not the file was loaded before."""
    path = own_folder / "cnn-fashion_mnist.safetensors"
    models.get_model("cnn", weights="DEFAULT")
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"its SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}; reinstall") as e:
        models.get_model("cnn", weights="DEFAULT")
    assert e.value.reason == "damaged"


def test_a_file_that_is_gone_is_named(own_folder: Path) -> None:
    (own_folder / "cnn-fashion_mnist.safetensors").unlink()

    with pytest.raises(CheckpointError, match="the file is gone"):
        models.get_model("cnn", weights="DEFAULT")


def test_another_number_of_classes_gets_a_new_last_layer() -> None:
    """The rest is the pretrained one, a warning names what is not, and the seed decides about the new layer."""
    whole = models.get_model("cnn", weights="DEFAULT").state_dict()
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match=r"fc2\.bias is newly initialised for num_classes=3; fc2\.weight is newly"):
            made.append(models.get_model("cnn", weights="DEFAULT", num_classes=3))

    state = made[0].state_dict()
    assert made[0](torch.zeros(2, 1, 28, 28)).shape == (2, 3)
    assert all(torch.equal(state[key], whole[key]) for key in whole if not key.startswith("fc2"))
    assert torch.equal(state["fc2.weight"], made[1].state_dict()["fc2.weight"])


def test_more_channels_share_what_the_first_layer_has_learned() -> None:
    """A grey image in three equal channels gets the logits that it had."""
    images = torch.rand(4, 1, 28, 28)
    with pytest.warns(UserWarning, match=r"conv1\.weight spreads the sum over its 1 input channels over 3"):
        coloured = models.get_model("cnn", weights="DEFAULT", in_channels=3)

    logits = models.get_model("cnn", weights="DEFAULT")(images)
    torch.testing.assert_close(coloured(images.expand(-1, 3, -1, -1)), logits, rtol=1e-4, atol=1e-4)  # other sums


def test_weights_for_the_config_of_the_card_are_used_whole() -> None:
    """Naming an argument that the card has too is no change, and nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.get_model("cnn", weights="DEFAULT", num_classes=10, channels=[10, 20])


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"hidden": 60}, ValueError, r"do not fit 'cnn' with hidden=60: fc1\.bias has shape \(60,\)"),
        ({"channels": (10, 20, 30)}, ValueError, r"conv3\.bias is not in the weights"),
        ({"hiden": 60}, TypeError, "unknown argument 'hiden'; did you mean 'hidden'"),
        (
            {"hidden": 60},
            ValueError,
            "only num_classes and in_channels and arguments without parameters can differ from the card's",
        ),
    ],
    ids=["width", "layers", "unknown", "way out"],
)
def test_what_the_weights_do_not_fit_is_refused(config: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        models.get_model("cnn", weights="DEFAULT", **config)


def test_a_gan_has_no_ends_that_could_differ() -> None:
    with pytest.raises(
        ValueError, match=r"shape .*; only arguments without parameters can differ from the card's config$"
    ):
        models.get_model("dcgan", weights="DEFAULT", out_channels=3)


def test_another_function_between_the_layers_is_told() -> None:
    """The weights fit, and were learned with another one."""
    with pytest.warns(UserWarning, match="are adapted: activation is 'tanh', and was 'relu' in training$"):
        models.get_model("mlp", weights="DEFAULT", activation="tanh")


@pytest.mark.parametrize(
    "config",
    [
        {"dropout": 0.5},
        {"init": "zeros"},
        {"bias_init": "zeros"},
        {"hidden": [256, 128]},
        {"output_activation": "identity"},
    ],
    ids=lambda config: next(iter(config)),
)
def test_what_a_trained_model_does_not_depend_on_is_no_change(config: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = models.get_model("mlp", weights="DEFAULT", **config)

    inputs = data.fashion_mnist_mini()[1].inputs[:8]
    assert torch.equal(model(inputs), models.get_model("mlp", weights="DEFAULT")(inputs))


@pytest.mark.parametrize("content", ["{", "[]", '{"model": "mlp"}'])
def test_a_damaged_card_is_named(own_folder: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (own_folder / "mlp-fashion_mnist.json").write_text(content, encoding="utf-8")

    assert main(["list"]) == 2
    assert re.search(r"mlp-fashion_mnist.json' is no card of weights \(.*\); reinstall", capsys.readouterr().err)


# What goes in


def test_transforms_do_what_the_data_does() -> None:
    """Raw images become what `Images` gives, bit for bit; as a first module they go before the model."""
    _, test = data.fashion_mnist_mini()
    card = models.get_weights("cnn")[0]
    transforms, model = card.transforms(), models.get_model("cnn", weights="DEFAULT")

    assert torch.equal(transforms(test.images), test.inputs)
    assert torch.equal(nn.Sequential(transforms, model)(test.images[:8]), model(test.inputs[:8]))


def test_transforms_scale_images_of_other_sizes() -> None:
    transforms = models.get_weights("cnn")[0].transforms()
    images = torch.full((2, 1, 90, 60), 51, dtype=torch.uint8)

    torch.testing.assert_close(transforms(images), torch.full((2, 1, 28, 28), 0.2))


READ = r"; torchbasics\.data\.read_image\(path, channels=%d\)\[None\] makes such of a file"


@pytest.mark.parametrize(
    ("channels", "shape", "way_out"),
    [
        (1, (28, 28), r"; give images\[None, None\]"),
        (1, (1, 28, 28), r"; give images\[None\]"),
        (1, (9, 28, 28), r"; give images\[:, None\]"),
        (1, (28, 28, 1), r"; channels come first: give images\.movedim\(-1, -3\)\[None\]"),
        (1, (2, 28, 28, 1), r"; channels come first: give images\.movedim\(-1, -3\)"),
        *((1, shape, READ % 1) for shape in ((28, 28, 3), (28, 28, 4), (3, 28, 28), (2, 3, 28, 28))),
        (1, (28,), ""),
        (3, (28, 28), ""),
        (3, (3, 28, 28), r"; give images\[None\]"),
        (3, (28, 28, 3), r"; channels come first: give images\.movedim\(-1, -3\)\[None\]"),
        *((3, shape, READ % 3) for shape in ((9, 28, 28), (2, 1, 28, 28))),
    ],
)
def test_transforms_tell_how_images_of_another_shape_fit(channels: int, shape: tuple[int, ...], way_out: str) -> None:
    images, message = torch.zeros(shape, dtype=torch.uint8), rf"have shape .* know \(N, {channels}, H, W\){way_out}$"
    with pytest.raises(ValueError, match=message):
        Transforms((channels, 28, 28))(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 28, 28), r"got torch\.float32; .* \(images \* 255\).*, in \[0, 255\] images\.round\(\)"),
        (torch.zeros(2, 1, 28, 28).long(), r"got torch\.int64; .* in \[0, 255\] images\.to\(torch\.uint8\)$"),
        ("a.png", r"a uint8 tensor, got str; torchbasics\.data\.read_image\(path, channels=1\)\[None\] makes one of a"),
        (torch.zeros(2, 1, 28, 28).numpy(), r"got ndarray; .* torch\.from_numpy\(\.\.\.\)"),
    ],
    ids=["float", "int", "path", "array"],
)
def test_transforms_refuse_what_are_no_bytes(images: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        models.get_weights("cnn")[0].transforms()(images)


# The commands


def test_verify_looks_at_all_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0

    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [str(card) for card in CARDS]
    assert all("golden outputs within" in line and "SHA-256" in line for line in printed)


@pytest.mark.parametrize("name", ["cnn", "cnn/fashion_mnist"])
def test_verify_looks_at_those_that_are_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", name, "--json"]) == 0

    checked = json.loads(capsys.readouterr().out.splitlines()[-1])["verified"]
    assert {entry["weights"].partition("/")[0] for entry in checked} == {"cnn"}
    assert len(checked) == (1 if "/" in name else len(models.get_weights("cnn")))


def test_verify_needs_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "stacked_rnn"]) == 2
    assert "'stacked_rnn' has no weights; `torchbasics list` shows which have" in capsys.readouterr().err


def damage_file(folder: Path) -> None:
    with (folder / "cnn-fashion_mnist.safetensors").open("ab") as file:
        file.write(b" ")


def damage_golden(folder: Path) -> None:
    with (folder / "cnn-fashion_mnist.golden.safetensors").open("ab") as file:
        file.write(b" ")


def swap_weights(folder: Path) -> None:
    """Put an untrained model in the place of the trained, and make the card fit."""
    path = folder / "cnn-fashion_mnist.safetensors"
    io.save(CNNModel(), path)
    facts = {"sha256": _weights.sha256_of(path), "size": path.stat().st_size}
    edit_card(folder, "cnn-fashion_mnist", lambda card: card.update(facts))


def boast(folder: Path) -> None:
    edit_card(folder, "cnn-fashion_mnist", lambda card: card["metrics"].update(mini_accuracy=0.99))


def miscount(folder: Path) -> None:
    edit_card(folder, "cnn-fashion_mnist", lambda card: card.update(parameters=54_839))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_file, "its SHA-256 is"),
        (damage_golden, "golden.safetensors' is not the file that its card describes"),
        (swap_weights, "golden outputs differ by"),
        (boast, "the card says 0.9900"),
        (miscount, "the card says 54839 parameters in 220584 bytes, but there are 54840 in 220584"),
    ],
)
def test_verify_sees_what_is_not_as_the_card_says(
    own_folder: Path, damage: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Positive controls: each check turns red."""
    damage(own_folder)

    assert main(["verify", "cnn"]) == 2
    assert message in capsys.readouterr().err


def test_list_and_info_say_what_the_cards_say(capsys: pytest.CaptureFixture[str]) -> None:
    card = models.get_weights("cnn")[0]
    assert main(["list"]) == 0
    assert f"- cnn/fashion_mnist: test accuracy {card.metrics['accuracy']:.4g}; 54,840" in capsys.readouterr().out
    assert main(["info", "cnn"]) == 0
    printed = capsys.readouterr().out
    assert card.sha256 in printed
    assert f"{card.metrics['seeds']['mean']:.4f} ± {card.metrics['seeds']['sd']:.4f}" in printed
    assert f"\nlearned from  {card.training['teacher']['weights']}\n" in printed
    assert "\nothers        cnn/fashion_mnist_deep, cnn/fashion_mnist_wide\n" in printed
    assert main(["info", "cnn/fashion_mnist", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == json.loads(card.path.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "command", ["info stacked_rnn", "verify stacked_rnn", "evaluate stacked_rnn", "reproduce stacked_rnn"]
)
def test_a_command_names_what_has_weights(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    assert "'stacked_rnn' has no weights; `torchbasics list` shows which have" in capsys.readouterr().err


def test_a_path_that_is_not_there_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "cnn/best"]) == 2
    assert "there is no file 'cnn/best', and unknown weights of 'cnn' 'best'" in capsys.readouterr().err


def test_a_terminal_without_signs_gets_an_answer() -> None:
    """A sign that an encoding lacks becomes a question mark."""
    variables = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "torchbasics", "info", "cnn"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)

    assert (done.returncode, done.stderr) == (0, "")
    assert " ? 0.00" in done.stdout


def test_predict_asks_the_pretrained_network_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same answers with its name in front; nothing but a name is refused."""
    from PIL import Image

    _, test = data.fashion_mnist_mini()
    trousers = int((test.targets == 1).nonzero()[0])
    picture = str(tmp_path / "trousers.png")
    Image.fromarray(test.images[trousers, 0].numpy()).save(picture)
    assert main(["predict", picture]) == 0
    first = capsys.readouterr().out
    assert main(["predict", "cnn/fashion_mnist", picture]) == 0

    assert capsys.readouterr().out == first
    assert first.startswith(f"{picture}: Trouser ")
    assert main(["predict", "cnn"]) == 2
    assert "no images to look at, got 'cnn' alone; give PNG or JPEG files" in capsys.readouterr().err
    assert main(["predict", "tests"]) == 2
    assert "'tests' is a folder; give its files, such as tests/*.png" in capsys.readouterr().err
    assert main(["info", __file__]) == 2
    assert "is a file; torchbasics inspect shows what is in it" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cnn").touch()
    assert main(["info", "cnn"]) == 0


@needs("matplotlib")
def test_generate_asks_the_pretrained_gan_where_no_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same picture with its name in front."""
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "-n", "4", "-o", "a.png"]) == 0
    assert capsys.readouterr().out == "4 images by dcgan, seed 0: a.png\n"
    assert main(["generate", "dcgan/fashion_mnist", "-n", "4", "-o", "b.png"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_list_and_info_say_how_far_drawn_images_are(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = models.get_weights("dcgan")[0].metrics
    said = f"Fréchet distance {metrics['frechet_distance']:.4g}, train against test {metrics['train_test']:.4g}; "
    for command in (["list"], ["info", "dcgan"]):
        assert main(command) == 0
        assert said in capsys.readouterr().out


def test_evaluate_takes_the_name_of_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "cnn", "--data", "mini", "--json"]) == 0

    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["accuracy"] == pytest.approx(models.get_weights("cnn")[0].metrics["mini_accuracy"], abs=0.002)


# Making weights, and making them again


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of weights that scripts/make_weights.py made from few images: a pair of teacher and taught, a GAN."""
    folder = tmp_path_factory.mktemp("made")
    make = module_at("scripts/make_weights.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(_weights, "FOLDER", folder / "weights")
        patch.setattr(data, "fashion_mnist", few)
        patch.setattr(sys, "argv", ["make_weights.py", "--seeds", "0", "1"])
        small = make.SPECS["cnn/fashion_mnist"]
        recipe = small["recipe"].replace(epochs=1)
        teacher = {"weights": "cnn/teacher", "shift": 1, "precision": "bfloat16"}
        taught = {**small, "recipe": recipe, "teacher": teacher}
        alone = {**make.SPECS["cnn/fashion_mnist_wide"], "recipe": recipe, "config": {"hidden": 20, "batch_norm": True}}
        gan = {
            **make.SPECS["dcgan/fashion_mnist"],
            "config": {"width": 4, "latent_dim": 8},
            "classifier": {"weights": "cnn/teacher"},
        }
        gan["recipe"] = gan["recipe"].replace(epochs=1)
        specs = {"cnn/teacher": alone, "cnn/fashion_mnist": taught, "dcgan/fashion_mnist": gan}
        patch.setattr(make, "SPECS", specs)
        make.main()
    return folder / "weights"


def few(root: Any = None, **options: Any) -> tuple[data.Images, data.Images]:
    """Stand in for the 70,000 images with 1,000 of the packaged ones; files by the official names have to be whole."""
    train, test = data.fashion_mnist_mini()
    return train[::5], test


def reproduce(made: Path, here: Path, monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int:
    """Run ``torchbasics reproduce`` with those weights; return its exit code."""
    monkeypatch.chdir(here)
    monkeypatch.setattr(_weights, "FOLDER", made)
    monkeypatch.setattr(data, "fashion_mnist", few)
    return main(["reproduce", name, "--json", *arguments])


@pytest.mark.parametrize("name", ["cnn/teacher", "cnn/fashion_mnist", "dcgan/fashion_mnist"])
def test_weights_are_reproduced_bit_by_bit(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """From the card alone, in another folder: the same file."""
    code = reproduce(made, tmp_path, monkeypatch, name)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert code == 0
    assert report["same_bits"]
    assert Path(report["file"]).read_bytes() == _weights.find_named(name).path.read_bytes()


def test_batch_norm_becomes_a_part_of_the_convolutions() -> None:
    """The plain network gives what the one with batch norm gives in eval mode; without its statistics it would not."""
    torch.manual_seed(0)
    trained = CNNModel(batch_norm=True)
    images = torch.rand(64, 1, 28, 28)
    for _ in range(3):
        trained(images)  # statistics of its own
    plain = _reproduce.without_batch_norm(trained, CNNModel())

    torch.testing.assert_close(plain(images), trained.eval()(images), rtol=1e-4, atol=1e-5)
    assert plain.state_dict().keys() == CNNModel().state_dict().keys()
    assert not torch.allclose(plain.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"])


class Interrupt:
    """Sends SIGTERM at the third update."""

    def on_step(self, state: State) -> None:
        if state.step == 3:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
@pytest.mark.parametrize(("name", "teachers"), [("cnn/teacher", 0), ("cnn/fashion_mnist", 1)])
def test_reproducing_goes_on_where_a_signal_ended_it(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    teachers: int,
    *,
    damaged: bool,
) -> None:
    """The first call ends with 143 and writes no model; the second ends on the bits of the card.

    What the teacher says is asked once; again where the file of it is damaged.
    """
    asked: list[Any] = []

    def probabilities(teacher: Any, train: data.Images) -> Tensor:
        asked.append(teacher)
        return original(teacher, train)

    original = _reproduce.probabilities
    monkeypatch.setattr(_reproduce, "probabilities", probabilities)

    def interrupted(*arguments: Any, callbacks: Any, **options: Any) -> History:
        return fit(*arguments, callbacks=[*callbacks, Interrupt()], **options)

    with monkeypatch.context() as patch:
        patch.setattr(_reproduce, "fit", interrupted)
        with pytest.raises(SystemExit) as e:
            reproduce(made, tmp_path, patch, name)
    assert e.value.code == 143
    assert "the same command goes on" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/model.safetensors"))
    for kept in tmp_path.glob("runs/*/.taught.safetensors"):
        kept.write_bytes(kept.read_bytes()[: -1 if damaged else None])

    assert reproduce(made, tmp_path, monkeypatch, name) == 0
    assert len(asked) == teachers * (1 + damaged)
    assert [path.name for path in tmp_path.glob("runs/*/*")] == ["model.safetensors"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["same_bits"]


def test_a_long_run_has_four_times_the_epochs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a folder of its own, and is not held to the card's accuracy."""
    assert reproduce(made, tmp_path, monkeypatch, "cnn/teacher", "--long") == 0

    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not report["same_bits"]
    assert "-long/" in report["file"]


def test_reproducing_again_trains_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier call has left in the folder is not taken for the result."""
    updates: list[int] = []

    def counted(*arguments: Any, callbacks: Any, **options: Any) -> History:
        history = fit(*arguments, callbacks=[*callbacks, counter], **options)
        updates.append(counter.steps)
        return history

    counter = Counter()
    monkeypatch.setattr(_reproduce, "fit", counted)
    assert [reproduce(made, tmp_path, monkeypatch, "cnn/teacher") for _ in range(2)] == [0, 0]
    assert updates == [8, 16]


class Counter:
    """Counts updates."""

    steps = 0

    def on_step(self, state: State) -> None:
        self.steps += 1


def test_another_seed_gives_other_weights(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce(made, tmp_path, monkeypatch, "cnn/teacher")
    code = reproduce(made, tmp_path, monkeypatch, "cnn/teacher", "--seed", "1")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    second = _weights.find_named("cnn/teacher").metrics["seeds"]["values"][1]

    assert code == 0
    assert not report["same_bits"]
    assert report["accuracy"] == second


def test_an_accuracy_that_is_not_found_again_is_an_error(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Positive control: a card that promises more than its recipe gives."""
    folder = tmp_path / "weights"
    shutil.copytree(made, folder)
    edit_card(folder, "cnn-teacher", lambda card: card["metrics"].update(accuracy=card["metrics"]["accuracy"] + 0.01))

    assert reproduce(folder, tmp_path, monkeypatch, "cnn/teacher") == 2
    assert "is not within 0.003 of the card's" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "key"), [("cnn/fashion_mnist", "teacher"), ("dcgan/fashion_mnist", "classifier")])
def test_a_training_with_other_weights_than_then_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, key: str
) -> None:
    """Before it begins: what was taught by another teacher would be something else."""
    folder = tmp_path / "weights"
    shutil.copytree(made, folder)
    edit_card(folder, name.replace("/", "-"), lambda card: card["training"][key].update(sha256="0" * 64))

    assert reproduce(folder, tmp_path, monkeypatch, name) == 2
    assert f"and the training was with {'0' * 64}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_distance_that_is_further_is_an_error(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Positive control: a card that promises twice of what its recipe gives; another seed is only told of."""
    folder = tmp_path / "weights"
    shutil.copytree(made, folder)

    def boast(card: Any) -> None:
        card["metrics"]["frechet_distance"] /= 2

    edit_card(folder, "dcgan-fashion_mnist", boast)

    assert reproduce(folder, tmp_path, monkeypatch, "dcgan") == 2
    assert "is more than 1.5 times the card's" in capsys.readouterr().err
    other = 1 - _weights.find_named("dcgan").training["recipe"]["seed"]  # of the two that were trained
    assert reproduce(folder, tmp_path, monkeypatch, "dcgan", "--seed", str(other)) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not report["same_bits"]
    assert report["frechet_distance"] == _weights.find_named("dcgan").metrics["seeds"]["values"][1]


def test_reproducing_takes_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown weights and missing data are told in a line."""
    assert main(["reproduce", "stacked_rnn"]) == 2
    assert "'stacked_rnn' has no weights" in capsys.readouterr().err
