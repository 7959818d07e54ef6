"""DCGAN: the GAN zoo's names, sizes, noise, samples, and images made to fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchbasics.models import DCGAN
from torchbasics.models._folded import folded

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def small(**arguments: Any) -> DCGAN:
    return DCGAN(**{"latent_dim": 5, "width": 4} | arguments)


def test_parameters_have_the_gan_zoos_names_and_shapes() -> None:
    """The generator's and discriminator's state_dict are, key by key in order, those of facebookresearch's GAN zoo."""
    model = DCGAN(latent_dim=7, out_channels=3, width=4, depth=2)
    generator = {
        "formatLayer.weight": (7, 16, 4, 4),
        **{f"main.batchNorm0.{key}": (16,) for key in BATCH_NORM},
        "main.convTranspose1.weight": (16, 8, 4, 4),
        **{f"main.batchNorm1.{key}": (8,) for key in BATCH_NORM},
        "main.convTranspose2.weight": (8, 4, 4, 4),
        **{f"main.batchNorm2.{key}": (4,) for key in BATCH_NORM},
        "main.outlayer.weight": (4, 3, 4, 4),
    }
    discriminator = {
        "main.convTranspose2.weight": (4, 3, 4, 4),
        "main.convTranspose1.weight": (8, 4, 4, 4),
        **{f"main.batchNorm1.{key}": (8,) for key in BATCH_NORM},
        "main.convTranspose0.weight": (16, 8, 4, 4),
        **{f"main.batchNorm0.{key}": (16,) for key in BATCH_NORM},
        "decisionLayer.weight": (1, 16, 4, 4),
    }
    for module, names in ((model.generator, generator), (model.discriminator, discriminator)):
        shapes = {key: () if "num_batches" in key else shape for key, shape in names.items()}

        assert [(key, tuple(t.shape)) for key, t in module.state_dict().items()] == list(shapes.items())


def test_networks_equal_the_paper_written_out() -> None:
    """The numbers are those of the paper's layers: 4x4 kernels, stride 2, batch norm, ReLU and leaky ReLU 0.2."""
    model = small(depth=1)
    up, down = model.generator.main, model.discriminator.main
    noise = torch.randn(6, 5)
    x = nn.functional.conv_transpose2d(noise.view(6, 5, 1, 1), model.generator.formatLayer.weight)
    x = torch.relu(nn.BatchNorm2d(8).requires_grad_(False)(x) * up.batchNorm0.weight[:, None, None])  # type: ignore[index, union-attr]
    x = nn.functional.conv_transpose2d(x, up.convTranspose1.weight, stride=2, padding=1)  # type: ignore[arg-type, union-attr]
    x = torch.relu(nn.BatchNorm2d(4).requires_grad_(False)(x) * up.batchNorm1.weight[:, None, None])  # type: ignore[index, union-attr]
    images = torch.tanh(nn.functional.conv_transpose2d(x, up.outlayer.weight, stride=2, padding=1))  # type: ignore[arg-type, union-attr]
    x = nn.functional.conv2d(images, down.convTranspose1.weight, stride=2, padding=1)  # type: ignore[arg-type, union-attr]
    x = nn.functional.conv2d(nn.functional.leaky_relu(x, 0.2), down.convTranspose0.weight, stride=2, padding=1)  # type: ignore[arg-type, union-attr]
    x = nn.BatchNorm2d(8).requires_grad_(False)(x) * down.batchNorm0.weight[:, None, None]  # type: ignore[index, union-attr]
    logits = nn.functional.conv2d(nn.functional.leaky_relu(x, 0.2), model.discriminator.decisionLayer.weight)

    # scaling after batch norm instead of in it rounds once more
    torch.testing.assert_close(model(noise), images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.discriminator(images), logits.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_depth_decides_the_size(depth: int) -> None:
    """Images have a side of 2**(depth + 3); the discriminator gives one logit for each."""
    model = small(depth=depth, out_channels=3)
    images = model(model.noise(2))

    assert model.image_size == 2 ** (depth + 3)
    assert images.shape == (2, 3, model.image_size, model.image_size)
    assert model.discriminator(images).shape == (2,)


def test_images_are_in_range_and_logits_are_not() -> None:
    """The generator ends in tanh; the discriminator has no sigmoid."""
    model = small()
    nn.init.constant_(model.generator.main.outlayer.weight, 100.0)  # type: ignore[arg-type, union-attr]
    nn.init.constant_(model.discriminator.decisionLayer.weight, -100.0)
    images = model(model.noise(4))

    assert images.abs().max() == 1
    assert model.discriminator(images).abs().max() > 1


def test_weights_start_as_in_the_paper() -> None:
    """Convolutions are N(0, 0.02), batch norm N(1, 0.02) with zero bias."""
    torch.manual_seed(0)
    model = DCGAN(width=64)
    convolutions = torch.cat([p.flatten() for p in model.parameters() if p.ndim == 4])
    norms = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    biases = [m.bias for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    # means of n numbers of deviation 0.02 lie within 5 * 0.02 / sqrt(n)
    torch.testing.assert_close(convolutions.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(convolutions.std(), torch.tensor(0.02), atol=1e-4, rtol=0)
    torch.testing.assert_close(norms.mean(), torch.tensor(1.0), atol=5e-3, rtol=0)
    torch.testing.assert_close(norms.std(), torch.tensor(0.02), atol=5e-3, rtol=0)
    assert not any(bias.any() for bias in biases)


def test_it_is_trained_adversarially() -> None:
    """The model says itself which step trains it."""
    assert DCGAN.default_step == "adversarial"


def test_noise_is_standard_normal_in_the_models_dtype() -> None:
    """One row per image, drawn by torch's global generator or one's own."""
    model = small().double()
    torch.manual_seed(3)
    noise = model.noise(4)

    assert torch.equal(noise, torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    assert torch.equal(noise, model.noise(4, generator=torch.Generator().manual_seed(3)))


def test_own_generator_leaves_the_global_one_alone() -> None:
    """Sampling with a generator draws nothing from torch's."""
    model = small()
    state = torch.get_rng_state()
    model.sample(2, generator=torch.Generator().manual_seed(0))

    assert torch.equal(torch.get_rng_state(), state)


def test_sample_runs_in_eval_mode_and_restores_every_mode() -> None:
    """Images depend on their own noise only, carry no gradient, and leave modes and statistics as they were."""
    model = small()
    model.generator.main[0].eval()
    modes = [m.training for m in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = model.sample(3, generator=torch.Generator().manual_seed(0))

    assert not images.requires_grad
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(images, model.eval()(model.noise(3, generator=torch.Generator().manual_seed(0))))


def test_sample_restores_the_modes_after_an_error() -> None:
    """A failing forward leaves the model in training."""
    model = small()
    model.generator.main[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.sample(1)

    assert all(m.training for m in model.modules())


@pytest.mark.parametrize(("height", "width"), [(28, 28), (17, 32), (31, 20), (32, 32)])
def test_preprocess_centres_smaller_images_on_black(height: int, width: int) -> None:
    """More than half the size: no pixel changes but for the range, and the border is -1."""
    images = torch.rand(2, 1, height, width)
    fitted = small().preprocess(images)
    top, left = (32 - height) // 2, (32 - width) // 2

    assert fitted.shape == (2, 1, 32, 32)
    assert torch.equal(fitted[:, :, top : top + height, left : left + width], images * 2 - 1)
    assert (fitted == -1).sum() >= 2 * (32 * 32 - height * width)


@pytest.mark.parametrize(("height", "width"), [(16, 28), (8, 8), (64, 64), (40, 28), (100, 33)])
def test_preprocess_resizes_other_images(height: int, width: int) -> None:
    """At most half or above the size: resized bilinearly with antialiasing, then brought to [-1, 1]."""
    images = torch.rand(2, 3, height, width)
    fitted = small(out_channels=3).preprocess(images)
    resized = nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)

    assert torch.equal(fitted, resized * 2 - 1)
    assert fitted.abs().max() <= 1


def test_preprocessed_images_fit_the_discriminator() -> None:
    """Black is -1, white is 1, and the discriminator takes the result."""
    model = small()
    assert torch.equal(model.preprocess(torch.zeros(1, 1, 28, 28)), torch.full((1, 1, 32, 32), -1.0))
    assert torch.equal(model.preprocess(torch.ones(1, 1, 32, 32)), torch.ones(1, 1, 32, 32))
    assert model.discriminator(model.preprocess(torch.rand(4, 1, 28, 28))).shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"latent_dim": 0}, ValueError, r"^latent_dim must be at least 1, got 0$"),
        ({"out_channels": "3"}, TypeError, r"^out_channels must be an integer, got '3'$"),
        ({"width": 0}, ValueError, r"^width must be at least 1, got 0$"),
        ({"depth": -1}, ValueError, r"^depth must be at least 0, got -1$"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each argument is checked at construction."""
    with pytest.raises(error, match=message):
        DCGAN(**arguments)


def forward(model: DCGAN, x: Tensor) -> Tensor:
    return model(x)


def discriminate(model: DCGAN, x: Tensor) -> Tensor:
    return model.discriminator(x)


def preprocess(model: DCGAN, x: Tensor) -> Tensor:
    return model.preprocess(x)


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        (forward, (2, 6), r"^noise has shape \(2, 6\), but DCGAN\(latent_dim=5\) needs \(N, 5\)$"),
        (forward, (5,), r"^noise has shape \(5,\), but DCGAN\(latent_dim=5\) needs \(N, 5\)$"),
        (
            discriminate,
            (2, 1, 28, 28),
            r"^images have shape \(2, 1, 28, 28\), but the discriminator needs \(N, 1, 32, 32\); preprocess makes them so$",
        ),
        (discriminate, (1, 32, 32), r"^images have shape \(1, 32, 32\), but the discriminator needs \(N, 1, 32, 32\)"),
        (
            preprocess,
            (2, 3, 28, 28),
            r"^images have shape \(2, 3, 28, 28\), but DCGAN\(out_channels=1\) needs \(N, 1, H, W\)$",
        ),
        (preprocess, (28, 28), r"^images have shape \(28, 28\), but DCGAN\(out_channels=1\) needs \(N, 1, H, W\)$"),
    ],
)
def test_wrong_shapes_are_refused(call: Any, shape: tuple[int, ...], message: str) -> None:
    """The message has both shapes."""
    with pytest.raises(ValueError, match=message):
        call(small(), torch.zeros(shape))


def test_preprocess_refuses_bytes() -> None:
    """uint8 images are not in [0, 1]; the message names what converts them."""
    with pytest.raises(
        TypeError, match=r"^images have dtype torch\.uint8, .* give images as torchbasics\.data\.Images"
    ):
        small().preprocess(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


def test_a_fast_sample_is_the_same_but_for_rounding() -> None:
    """Also after training, with statistics of its own; and the model stays as it was."""
    model = DCGAN().train()
    for _ in range(3):
        model(torch.randn(8, 100))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    slow, fast = (model.sample(5, generator=torch.Generator().manual_seed(0), fast=flag) for flag in (False, True))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)
    assert fast.is_contiguous()
    assert len(list(folded(model.generator).main)) == 6
    assert model.generator.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_sample_needs_an_image() -> None:
    """No image is no sample."""
    with pytest.raises(ValueError, match=r"^n must be at least 1, got 0$"):
        small().sample(0)


def test_a_seed_is_no_generator() -> None:
    """As numpy's and scikit-learn's functions take a number there."""
    with pytest.raises(TypeError, match=r"^generator must be a torch.Generator or None, got 3; torch"):
        small().sample(1, generator=3)  # type: ignore[arg-type]  # the mistake
