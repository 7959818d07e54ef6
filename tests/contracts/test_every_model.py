"""What every registered model keeps, whatever it computes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchbasics import io, models

if TYPE_CHECKING:
    from pathlib import Path

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


@every_model
def test_config_makes_the_model_again(name: str) -> None:
    """A model made from the config of another, with the same seed, is the same."""
    model = make(name)
    torch.manual_seed(0)
    again = type(model)(**model.config)

    assert again.config == model.config
    assert same_weights(model, again)


@every_model
def test_config_is_plain_data(name: str) -> None:
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
def test_weights_follow_from_the_seed(name: str) -> None:
    """Equal seeds give equal weights, other seeds others."""
    assert same_weights(make(name, 1), make(name, 1))
    assert not same_weights(make(name, 1), make(name, 2))


@every_model
def test_repr_shows_every_argument(name: str) -> None:
    """The repr names the class and each constructor argument with its value."""
    model = make(name)
    text = repr(model)

    assert text.startswith(type(model).__name__)
    assert all(f"{key}={value!r}" in text for key, value in model.config.items())


@every_model
def test_gradient_reaches_every_parameter(name: str) -> None:
    """No parameter is left out of the graph, and none gets only zeros."""
    model = make(name)
    output = first(model(random_inputs(model, 4)))
    if model.default_step == "adversarial":
        output = model.discriminator(output)
    torch.autograd.backward(output.square().sum())

    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_model
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_equal_and_apart(name: str, copied: Any) -> None:
    """A copy gives the same outputs, and changing it leaves the model alone."""
    model = make(name).eval()
    twin = copied(model)
    inputs = random_inputs(model, 2)
    before = first(model(inputs))

    assert torch.equal(first(twin(inputs)), before)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)

    assert not torch.equal(first(twin(inputs)), before)
    assert torch.equal(first(model(inputs)), before)


@every_model
def test_float64_works_and_agrees(name: str) -> None:
    """In float64 the output is float64, and that of float32 up to rounding."""
    model = make(name).eval()
    inputs = random_inputs(model, 2)
    single = first(model(inputs))
    double = first(model.double()(inputs.double()))

    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)  # float32 sums of up to 784 terms


@every_model
def test_inputs_are_left_alone(name: str) -> None:
    """Neither forward nor backward writes to the inputs."""
    model = make(name)
    inputs = random_inputs(model, 3)
    before = inputs.clone()
    torch.autograd.backward(first(model(inputs)).sum())

    assert torch.equal(inputs, before)


@every_model
def test_eval_is_deterministic_and_draws_no_random_numbers(name: str) -> None:
    """Twice the same inputs in eval mode: the same bits, buffers and random state."""
    model = make(name).eval()
    inputs = random_inputs(model, 3)
    state, buffers = torch.get_rng_state(), copy.deepcopy(dict(model.named_buffers()))

    assert torch.equal(first(model(inputs)), first(model(inputs)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in model.named_buffers())


@every_model
def test_a_batch_of_one_gives_what_it_gives_among_others(name: str) -> None:
    """In eval mode a sample's output does not depend on the rest of its batch."""
    model = make(name).eval()
    inputs = random_inputs(model, 3)
    batch_dim = model.example_inputs(7).shape.index(7)
    alone = first(model(inputs.narrow(batch_dim, 0, 1)))

    # another batch size may take another matrix kernel, which sums in another order
    torch.testing.assert_close(alone, first(model(inputs)).narrow(batch_dim, 0, 1), rtol=1e-4, atol=1e-5)


@every_model
def test_an_empty_batch_works(name: str) -> None:
    """No samples in, no samples out."""
    model = make(name).eval()

    assert 0 in first(model(model.example_inputs(0))).shape


@every_model
def test_layout_of_the_inputs_does_not_matter(name: str) -> None:
    """Inputs whose memory is in another order give the same outputs."""
    model = make(name).eval()
    inputs = random_inputs(model, 3)
    strided = inputs.transpose(0, -1).contiguous().transpose(0, -1)

    assert not strided.is_contiguous()
    torch.testing.assert_close(first(model(strided)), first(model(inputs)), rtol=1e-4, atol=1e-5)


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
def test_exports_for_any_batch_size(name: str) -> None:
    """torch.export takes the model with a dynamic batch, and the program gives its outputs."""
    model = make(name).eval()
    batch_dim = model.example_inputs(7).shape.index(7)
    batch: Any = torch.export.Dim("N")
    program: Any = torch.export.export(model, (model.example_inputs(3),), dynamic_shapes=({batch_dim: batch},)).module()
    inputs = random_inputs(model, 5)

    torch.testing.assert_close(first(program(inputs)), first(model(inputs)), rtol=1e-4, atol=1e-5)


@every_model
def test_compiles(name: str) -> None:
    """torch.compile traces the model as one graph, checks included."""
    model = make(name).eval()
    inputs = random_inputs(model, 2)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)

    torch.testing.assert_close(first(compiled(inputs)), first(model(inputs)), rtol=1e-4, atol=1e-5)


@every_model
def test_parameters_can_come_from_outside(name: str) -> None:
    """torch.func.functional_call runs the model on the parameters it is given."""
    model, other = make(name, 1).eval(), make(name, 2).eval()
    inputs = random_inputs(model, 2)
    state = dict(other.named_parameters()) | dict(other.named_buffers())
    output = torch.func.functional_call(model, state, (inputs,))

    assert torch.equal(first(output), first(other(inputs)))


@every_model
def test_default_model_is_small(name: str) -> None:
    """By default a model fits the wheel: at most 600,000 parameters, what an image classifier needs or less."""
    assert sum(p.numel() for p in make(name).parameters()) <= 600_000
