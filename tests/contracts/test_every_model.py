"""What every registered model keeps, whatever it computes: the contract of `check_model`, and what is only ours."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchbasics import io, models
from torchbasics.testing import CHECKS, ContractReport, check_model

KEYS = Path(__file__).with_name("state_dict_keys.json")
"""The names in each model's state_dict as they were when files with them were first written.

Other names are a decision: old files no longer fit. When it is made, ``python tests/contracts/test_every_model.py``
writes the list anew, as it does for a new model, and CHANGELOG.md says what becomes of old files.
"""

# Beside the defaults: the options that change what is computed most.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("cnn", {"in_channels": 3, "image_size": 20, "channels": (4, 8), "hidden": 12}),
    ("dcgan", {"latent_dim": 5, "out_channels": 3, "width": 4, "depth": 1}),
    ("mlp", {"in_features": 6, "hidden": (8, 4), "batch_norm": True, "dropout": 0.5, "activation": "gelu"}),
    ("mlp", {"in_features": 6, "hidden": (), "bias": False}),
    ("rnn_classifier", {"input_size": 6, "num_layers": 2, "cell": "lstm", "bidirectional": True, "dropout": 0.5}),
    ("rnn_classifier", {"input_size": 6, "cell": "rnn", "nonlinearity": "relu"}),
    ("stacked_rnn", {"input_size": 6, "cell": "gru", "num_layers": 2, "batch_first": True, "dropout": 0.5}),
    ("stacked_rnn", {"input_size": 6, "cell": "lstm", "bidirectional": True}),
]

every_model = pytest.mark.parametrize("name", models.list_models())


def make(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return models.get_model(name)


def random_inputs(model: Any, n: int) -> Tensor:
    return torch.randn_like(model.example_inputs(n))


def first(output: Any) -> Tensor:
    """Return the output itself, or of a pair (output, state) the output."""
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, Tensor)
    return tensor


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    state, other = a.state_dict(), b.state_dict()
    return list(state) == list(other) and all(torch.equal(state[key], other[key]) for key in state)


def check(name: str, keys: list[str] | None = None, skip: set[str] | None = None, **config: Any) -> ContractReport:
    """Run the contract on a registered model, whose ``example_inputs`` say where the batch stands."""
    model: Any = models.get_model(name, **config)
    shape = list(model.example_inputs(7).shape)
    batch_dim = shape.index(7)
    del shape[batch_dim]
    loss = judged if model.default_step == "adversarial" else None
    again = partial(models.get_model, name, **config)
    return check_model(again, shape, batch_dim=batch_dim, loss=loss, keys=keys, skip=skip or set())


def judged(model: Any, inputs: Tensor) -> Tensor:
    """The loss that reaches both networks of a GAN."""
    judgement: Tensor = model.discriminator(model(inputs))
    return judgement.sum()


@every_model
def test_the_contract_is_kept(name: str) -> None:
    """Of the default model; nothing is skipped but what its inputs and parameters have no dimensions for."""
    report = check(name, json.loads(KEYS.read_text(encoding="utf-8")).get(name), {"onnx"})

    assert set(report.names("skipped")) <= {"channels_last", "onnx"}


@pytest.mark.slow
@every_model
def test_the_contract_is_kept_by_onnx(name: str) -> None:
    """ONNX, which takes seconds for a model, computes the same."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    report = check(name, skip=set(CHECKS) - {"onnx"})

    assert report.names("passed") == ["onnx"] or "torch 2.6 has no word for batch norm" in repr(report)


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_the_contract_is_kept_by_other_options(name: str, config: dict[str, Any]) -> None:
    """It is not by luck of the defaults."""
    assert check(name, skip={"export", "compile", "onnx"}, **config).passed


def test_names_in_state_dicts_are_stored_of_every_model() -> None:
    """A new model's names are written down, and those of one that is gone are not kept."""
    stored = json.loads(KEYS.read_text(encoding="utf-8"))

    assert sorted(stored) == models.list_models(), "run python tests/contracts/test_every_model.py, which writes them"


@every_model
def test_lists_do_for_tuples(name: str) -> None:
    """The config survives JSON, which turns its tuples into lists; the model made from it is the same."""
    model = make(name)
    config = json.loads(json.dumps(model.config))
    torch.manual_seed(0)

    assert same_weights(model, models.get_model(name, **config))


def as_numpy(value: Any) -> Any:
    """Give numbers, also those in tuples and lists, NumPy's types."""
    if isinstance(value, (tuple, list)):
        return type(value)(as_numpy(item) for item in value)
    kinds = {int: np.int64, float: np.float32}
    return kinds[type(value)](value) if type(value) in kinds else value


@every_model
def test_numbers_of_numpy_become_pythons(name: str, tmp_path: Path) -> None:
    """A model made with NumPy's numbers is the model made with Python's, and can be saved."""
    model = make(name)
    arguments = {key: as_numpy(value) for key, value in model.config.items()}
    again = models.get_model(name, **arguments)
    io.save(again, tmp_path / "model.safetensors")

    assert repr(arguments) != repr(model.config)
    assert repr(again) == repr(model)
    assert repr(io.load(tmp_path / "model.safetensors")) == repr(model)


@every_model
def test_another_seed_gives_other_weights(name: str) -> None:
    """Weights are drawn from the global generator."""
    assert not same_weights(make(name, 1), make(name, 2))


@every_model
def test_repr_shows_every_argument(name: str) -> None:
    """The repr names the class and each constructor argument with its value."""
    model = make(name)
    text = repr(model)

    assert text.startswith(type(model).__name__)
    assert all(f"{key}={value!r}" in text for key, value in model.config.items())


@every_model
def test_uint8_is_refused_and_images_named(name: str) -> None:
    """Raw bytes are no input; the message names what converts them."""
    model = make(name)
    raw = model.example_inputs(2).to(torch.uint8)

    with pytest.raises(
        TypeError, match=r"torch\.uint8, but the weights have torch\.float32; give images as torchbasics"
    ):
        model(raw)


@every_model
def test_another_floating_dtype_is_refused(name: str) -> None:
    """The message says how to convert; nothing is cast silently."""
    model = make(name)

    with pytest.raises(
        TypeError, match=r"(have|has) dtype torch\.float64, .* torch\.float32; call \w+\.to\(torch\.float32\)"
    ):
        model(model.example_inputs(2).double())


@every_model
def test_autocast_takes_any_floating_dtype(name: str) -> None:
    """Under autocast torch converts, so bfloat16 inputs are fine with float32 weights."""
    model = make(name).eval()
    inputs = random_inputs(model, 2)

    with torch.autocast("cpu", torch.bfloat16):
        output = first(model(inputs.bfloat16()))

    assert output.dtype == torch.bfloat16


@every_model
def test_arrays_are_refused(name: str) -> None:
    """What is no tensor is named, with the way to make one."""
    model = make(name)

    with pytest.raises(TypeError, match=r"must be a tensor, got ndarray; torch\.as_tensor\(\.\.\.\) makes one"):
        model(model.example_inputs(2).numpy())


@every_model
def test_default_model_is_small(name: str) -> None:
    """By default a model fits the wheel: at most 600,000 parameters, what an image classifier needs or less."""
    assert sum(p.numel() for p in make(name).parameters()) <= 600_000


if __name__ == "__main__":
    names = {name: list(models.get_model(name).state_dict()) for name in models.list_models()}
    KEYS.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
