"""The zoo by name: get_model, get_weights, list_models, register, and what is generated from the model files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import pytest
from torch import nn

from tests.helpers import module_at
from torchbasics import _zoo, io, models
from torchbasics.models import DCGAN, MLP, CNNModel, RNNClassifier, StackedRNN

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
CLASSES = {"cnn": CNNModel, "dcgan": DCGAN, "mlp": MLP, "rnn_classifier": RNNClassifier, "stacked_rnn": StackedRNN}


def test_public_names_are_these() -> None:
    """A new public name is a decision, not an accident."""
    functions = {"features", "freeze", "get_model", "get_weights", "list_models", "register", "summary"}

    classes = {"Weights"} | {cls.__name__ for cls in CLASSES.values()}
    assert {n for n in vars(models) if not n.startswith("_")} == functions | classes


def test_list_models_names_every_class() -> None:
    """The list is sorted and complete."""
    assert models.list_models() == sorted(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_get_model_needs_no_argument(name: str) -> None:
    """Every registered name has a full default config."""
    assert type(models.get_model(name)) is CLASSES[name]


def test_get_model_is_typed_by_its_name() -> None:
    """A type checker knows the class behind a literal name; a name known only at run time gives a Module."""
    assert_type(models.get_model("cnn"), CNNModel)
    assert_type(models.get_model("dcgan"), DCGAN)
    assert_type(models.get_model("mlp", hidden=(3,)), MLP)
    assert_type(models.get_model("rnn_classifier"), RNNClassifier)
    assert_type(models.get_model("stacked_rnn"), StackedRNN)
    assert_type(models.get_model("".join("cnn")), nn.Module)


@pytest.mark.parametrize("name", CLASSES)
def test_convolutions_ask_for_channels_last(name: str) -> None:
    """The models of convolutions say which memory format suits them; no others do."""
    convolves = any(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) for m in models.get_model(name).modules())

    assert (getattr(CLASSES[name], "default_memory_format", "contiguous") == "channels_last") == convolves


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cnn", {"image_size": [np.int64(28), 28], "channels": (np.int64(10), 20)}),
        ("mlp", {"in_features": np.int64(4), "hidden": [np.int64(3)]}),
        ("rnn_classifier", {"hidden_size": np.int64(3), "num_layers": 2}),
        ("stacked_rnn", {"num_layers": np.int64(2)}),
    ],
    ids=str,
)
def test_a_config_of_numpy_numbers_is_of_pythons(name: str, arguments: dict[str, Any]) -> None:
    """Integers in lists and tuples, and a float that NumPy rounds, are Python's in the config; lists stay lists."""
    model: Any = models.get_model(name, **arguments, dropout=np.float32(0.1))
    config = model.config

    assert type(config["dropout"]) is float
    assert config["dropout"] == np.float32(0.1)
    assert {key: config[key] for key in arguments} == arguments
    assert json.dumps(config)


def test_get_model_passes_the_config_on() -> None:
    """Arguments go to the constructor; the defaults fill the gaps."""
    model = models.get_model("mlp", hidden=(32,), activation="tanh")

    assert (model.in_features, model.hidden, model.out_features, model.activation) == (784, (32,), 10, "tanh")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A misspelt model is named with the likely one."""
    with pytest.raises(ValueError, match=r"^unknown model 'mpl'; did you mean 'mlp'\?$"):
        models.get_model("mpl")


def test_the_name_of_weights_is_answered_with_the_call() -> None:
    """What every listing prints is the name of a card; the model has another."""
    with pytest.raises(ValueError, match=r"^unknown model 'cnn/a'; .* get_model\('cnn', weights='a'\)$"):
        models.get_model("cnn/a")
    with pytest.raises(ValueError, match=r"^unknown model 'cn/a'; "):
        models.get_model("cn/a")
    with pytest.raises(ValueError, match=r"^unknown model 'cnn/a'; get_weights\('cnn'\) returns the cards"):
        models.get_weights("cnn/a")
    cnn: Any = models.get_model("cnn")
    sequential: Any = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match=r"^unknown model CNNModel; choose from 'cnn', "):
        models.get_weights(cnn)
    with pytest.raises(ValueError, match=r"^unknown model Sequential; choose from 'cnn', "):
        models.get_model(sequential)


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    """A misspelt argument is named with the likely one."""
    with pytest.raises(TypeError, match=r"^'mlp': unknown argument 'hiden'; did you mean 'hidden'\?$"):
        models.get_model("mlp", hiden=(3,))
    with pytest.raises(TypeError, match=r"unknown argument 'pretrained'; .*; .* weights='DEFAULT' gives them$"):
        models.get_model("cnn", pretrained=True)


def test_weights_of_an_unknown_model_are_refused() -> None:
    """get_weights checks the model's name."""
    with pytest.raises(ValueError, match=r"^unknown model 'cn'; did you mean 'cnn'\?$"):
        models.get_weights("cn")
    with pytest.raises(ValueError, match=r"^unknown model 'cn'; did you mean 'cnn'\?$"):
        models.get_model("cn", weights="DEFAULT")


def test_a_model_of_ones_own_is_registered() -> None:
    """A decorated class is listed and made by name."""

    @models.register("scale", defaults={"size": 3})
    class Scale(nn.Linear):
        def __init__(self, size: int) -> None:
            super().__init__(size, size)
            self.size = size

    try:
        assert "scale" in models.list_models()
        assert isinstance(models.get_model("scale", size=4), Scale)
    finally:
        _zoo.forget("scale")


def test_defaults_of_a_class_that_takes_any_argument(tmp_path: Path) -> None:
    """Such as one that hands them on. Others cannot be given by name: a file would not have them."""

    @models.register("wrapped", defaults={"channels": (4, 8)})
    class Wrapped(models.CNNModel):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)

    try:
        made: Any = models.get_model("wrapped")
        assert (made.channels, repr(made).partition("(")[0]) == ((4, 8), "Wrapped")
        io.save(made, tmp_path / "wrapped.safetensors")
        loaded: Any = io.load(tmp_path / "wrapped.safetensors")
        assert loaded.channels == (4, 8)
        with pytest.raises(TypeError, match=r"unknown argument 'hidden'; .*Wrapped names none in its __init__$"):
            models.get_model("wrapped", hidden=3)
    finally:
        _zoo.forget("wrapped")


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: models.register(nn.Identity), r'^write @register\("name"\), .*, got <class .*Identity'),  # type: ignore[arg-type]  # the mistake
        (lambda: models.register("scale")(lambda: 3), "^register takes a class of .*, got <function .* for 'scale'$"),  # type: ignore[type-var]  # the mistake
        (lambda: models.register("scale")(dict), "^register takes a class of torch.nn.Module, got <class 'dict'>"),  # type: ignore[type-var]  # the mistake
        (
            lambda: models.register("scale", defaults={"in_feature": 3})(nn.Linear),
            "^'scale': unknown argument 'in_feature'; did you mean 'in_features'",
        ),
    ],
    ids=["no name", "function", "no module", "defaults"],
)
def test_what_is_no_model_is_not_registered(register: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register()
    assert "scale" not in models.list_models()


def test_a_name_of_ours_is_taken() -> None:
    """Registering another class as "cnn" is refused."""
    with pytest.raises(ValueError, match=r"^the name 'cnn' is taken by torchbasics\.models\._cnn:CNNModel; register"):
        models.register("cnn")(nn.Identity)


@pytest.mark.parametrize("name", CLASSES)
def test_the_table_says_where_a_class_is_and_what(name: str) -> None:
    """The table in _zoo.py says where the class is and, in its words, what it is."""
    path, line = _zoo.BUILT_IN[name]

    assert path == f"{CLASSES[name].__module__}:{CLASSES[name].__name__}"
    assert (CLASSES[name].__doc__ or "").startswith(line)


@pytest.fixture(name="generate")
def load_generate() -> Callable[..., int]:
    """The main function of scripts/generate.py."""
    main: Callable[..., int] = module_at("scripts/generate.py").main
    return main


@pytest.fixture(name="tree")
def copy_tree(tmp_path: Path) -> Path:
    """A copy of the sources that the script reads and writes."""
    compiled = shutil.ignore_patterns("__pycache__")  # which other processes write meanwhile
    shutil.copytree(ROOT / "src/torchbasics/models", tmp_path / "src/torchbasics/models", ignore=compiled)
    shutil.copy(ROOT / "src/torchbasics/_zoo.py", tmp_path / "src/torchbasics")
    return tmp_path


def test_generated_parts_are_up_to_date() -> None:
    """What scripts/generate.py would write is what stands there."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate.py", "--check"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_new_model_file_is_stale_until_generated(
    generate: Callable[..., int], tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check names the two stale files and writes nothing; without it they are written, and then are up to date."""
    new = tree / "src/torchbasics/models/_tiny.py"
    new.write_text('@register("tiny")\nclass Tiny:\n    """A tiny one.\n\n    More.\n    """\n', encoding="utf-8")
    stale = ["src/torchbasics/_zoo.py", "src/torchbasics/models/_get.py"]
    before = (tree / stale[0]).read_text(encoding="utf-8")

    assert generate(["--check"], tree) == 1
    assert capsys.readouterr().out.splitlines() == [f"stale: {path}" for path in stale]
    assert (tree / stale[0]).read_text(encoding="utf-8") == before

    assert generate([], tree) == 0
    assert '"torchbasics.models._tiny:Tiny",\n        "A tiny one.",' in (tree / stale[0]).read_text(encoding="utf-8")
    assert 'name: Literal["tiny"], ' in (tree / stale[1]).read_text(encoding="utf-8")
    assert generate(["--check"], tree) == 0
