"""Models of other projects, loaded without running their code.

`load_dcgan` replaces ``torch.hub.load("facebookresearch/pytorch_GAN_zoo", "DCGAN", pretrained=True, useGPU=False)``;
what it returns answers the same two calls, `buildNoiseData` and `test`, with the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from torchbasics import _checks, _files
from torchbasics.models._dcgan import Generator

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

FASHIONGEN = "https://dl.fbaipublicfiles.com/gan_zoo/DCGAN_fashionGen-1d67302.pth"
CONFIG_CLASS = "models.utils.config.BaseConfig"
LINEAR = {"MSE": False, "DCGAN": False, "WGANGP": True, "Logistic": True}  # whether a loss leaves tanh out


class PretrainedDCGAN(nn.Module):
    """A DCGAN from facebookresearch/pytorch_GAN_zoo, with the calls it has there.

    As upstream, batch norm uses the statistics of the batch at hand: an image depends on the others of its batch.
    What upstream's branch ``main`` does is done here; its branch ``hub`` passes over *getAvG*.

    Shapes: ``(N, latent_dim)`` or ``(N, latent_dim, 1, 1)`` -> ``(N, out_channels, size, size)``.

    Attributes:
        netG: The generator.
        avgG: The generator with the running mean of the weights in training; without gradients.
        which: The one behind `forward`, `sample` and `test`: "netG" or "avgG".
        attributes: The labels an image is conditioned on, in order: each attribute's name and its values.
    """

    def __init__(
        self, netG: Generator, avgG: Generator, config: Mapping[str, Any], which: Literal["netG", "avgG"]
    ) -> None:
        super().__init__()
        self.netG: Generator = _with_batch_statistics(netG)
        self.avgG: Generator = _with_batch_statistics(avgG).requires_grad_(False)
        self.which = which
        self.noise_dim: int = config["noiseVectorDim"]
        self.linear: bool = LINEAR[config["lossCriterion"]]
        given = config.get("attribKeysOrder") or {}
        ordered = sorted(given, key=lambda name: given[name]["order"])
        self.attributes: dict[str, list[Any]] = {name: list(given[name]["values"]) for name in ordered}

    if TYPE_CHECKING:

        def __call__(self, noise: Tensor) -> Tensor: ...  # noqa: D102  # forward has it

    def forward(self, noise: Tensor) -> Tensor:
        """Return images: in [-1, 1], unless the checkpoint was trained for an output without bounds."""
        return self._run(self.netG if self.which == "netG" else self.avgG, noise)

    def buildNoiseData(self, n: int, inputLabels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:  # noqa: N802  # upstream's name
        """Draw noise and labels for *n* images: ``(n, latent_dim)``, and ``(n, attributes)`` or None without labels.

        As upstream, noise comes from torch's global generator on the CPU, labels from numpy's.

        Args:
            n: How many.
            inputLabels: The labels to take, int64 ``(n, attributes)``; None draws them.
        """
        device = self.netG.formatLayer.weight.device
        noise = torch.randn(_checks.positive_int("n", n), self.noise_dim)
        if not self.attributes:
            return noise.to(device), None
        sizes = [len(values) for values in self.attributes.values()]
        if inputLabels is None:
            drawn = [np.random.randint(0, size, n) for size in sizes]  # noqa: NPY002  # upstream's generator
            labels = torch.stack([torch.as_tensor(column) for column in drawn], 1)
        else:
            labels = inputLabels.cpu().long()
        one_hot = [nn.functional.one_hot(labels[:, i], size).float() for i, size in enumerate(sizes)]
        targets = labels.float() if inputLabels is None else inputLabels
        return torch.cat([noise, *one_hot], 1).to(device), targets.to(device)

    @torch.no_grad()
    def test(self, noise: Tensor, getAvG: bool = False, toCPU: bool = True) -> Tensor:
        """Return the images of *noise*, without gradients.

        Args:
            noise: What `buildNoiseData` gave first.
            getAvG: Use `avgG`, whatever `which` says.
            toCPU: Bring the images to the CPU.
        """
        noise = noise.to(self.netG.formatLayer.weight.device)
        images = self._run(self.avgG, noise) if getAvG else self(noise)
        return images.cpu() if toCPU else images

    def sample(self, n: int) -> Tensor:
        """Draw noise for *n* images, and return the images, on the CPU."""
        return self.test(self.buildNoiseData(n)[0])

    def _run(self, net: Generator, noise: Tensor) -> Tensor:
        x = noise.reshape(len(noise), -1)  # (N, latent_dim, 1, 1) -> (N, latent_dim)
        return net.main(net.formatLayer(x[..., None, None])) if self.linear else net(x)


def load_dcgan(
    weights: str | os.PathLike[str] = "fashiongen",
    *,
    which: Literal["netG", "avgG"] = "netG",
    device: torch.device | str | None = None,
) -> PretrainedDCGAN:
    """Load a DCGAN of facebookresearch/pytorch_GAN_zoo; no code of that project is run.

    Args:
        weights: "fashiongen", the published one, downloaded once to ``torch.hub.get_dir()``; or a checkpoint's path.
        which: The network behind ``forward``, ``sample`` and ``test``; ``test(getAvG=True)`` is always "avgG".
        device: Where it goes: "cpu", "cuda", "auto", ...; None = the CPU. It stands for upstream's ``useGPU``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no such checkpoint, is damaged, or asks to run code.

    References:
        Radford, Metz, Chintala, Unsupervised Representation Learning with DCGANs, 2016, arXiv:1511.06434.
    """
    _checks.choice("network", which, ("netG", "avgG"))
    path = _download() if weights == "fashiongen" else Path(weights)
    if weights != "fashiongen" and not path.exists():
        raise FileNotFoundError(f"no file {str(path)!r}; give the path of a GAN-zoo checkpoint, or 'fashiongen'")
    state = _read(path)
    config = _config(path, state["config"])
    net = _generator(path, state["netG"], config)
    average = _generator(path, state["avgG"], config) if "avgG" in state else copy.deepcopy(net)  # as upstream
    model = PretrainedDCGAN(net, average, config, which)
    if device is not None:
        from torchbasics._env import device as named

        model.to(named(str(device)))
    return model


class _Config:
    """Stands in for upstream's bag of attributes."""


def _download() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / FASHIONGEN.rpartition("/")[2]
    begins = path.stem.rpartition("-")[2]  # the first digits of the file's SHA-256
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(FASHIONGEN, str(path), hash_prefix=begins)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(begins):
        text = f"is damaged: its SHA-256 begins with {digest[: len(begins)]}, not {begins}; delete it and load again"
        raise _files.refuse(path, "damaged", text)
    return path


def _read(path: Path) -> dict[str, Any]:
    """Return the parts of a checkpoint, on the CPU."""
    _files.check_file(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Config, CONFIG_CLASS)]):
            warnings.simplefilter("ignore")  # torch speaks of its own future
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds: EOFError, KeyError, RuntimeError, UnpicklingError, ...
        asked = re.search(r"GLOBAL (\S+)", str(e))
        if asked:
            text = f"asks to run {asked[1]}, which no GAN-zoo checkpoint does; it was not run"
            raise _files.refuse(path, "unsafe", text) from e
        reason: _files.Reason = "not-a-checkpoint" if path.stat().st_size else "truncated"
        raise _files.refuse(path, reason, f"is nothing that torch can read ({type(e).__name__})") from e
    if not isinstance(state, dict) or not {"config", "netG"} <= state.keys():
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise _files.refuse(path, "unsupported", f"is no GAN-zoo checkpoint: it has {found}, not 'config' and 'netG'")
    return state


def _config(path: Path, config: Any) -> dict[str, Any]:
    """Return the configuration as a dict in which what is used has been looked at."""
    values: dict[str, Any] = dict(config if isinstance(config, dict) else vars(config))
    attributes = values.get("attribKeysOrder") or {}
    noise = values.get("noiseVectorDim")
    if not isinstance(noise, int) or values.get("lossCriterion") not in LINEAR:
        shown = f"noiseVectorDim={noise!r}, lossCriterion={values.get('lossCriterion')!r}"
        raise _files.refuse(path, "unsupported", f"has the configuration {shown}; needed: a number, one of {[*LINEAR]}")
    try:
        orders = sorted(attributes[name]["order"] for name in attributes)
        values["labels"] = sum(len(attributes[name]["values"]) for name in attributes)
    except (KeyError, TypeError) as e:
        raise _files.refuse(
            path, "unsupported", f"has attribKeysOrder={attributes!r}, which is no table of them"
        ) from e
    if orders != list(range(len(orders))):
        raise _files.refuse(path, "unsupported", f"numbers its attributes {orders}, not from 0 on")
    return values


def _generator(path: Path, state: Any, config: dict[str, Any]) -> Generator:
    """Build the generator that the shapes in *state* tell of, and fill it."""
    tensors = dict(state) if isinstance(state, dict) else {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise _files.refuse(path, "unsafe", f"holds {name!r}, which is no plain dense tensor")
    first, last = tensors.get("formatLayer.weight"), tensors.get("main.outlayer.weight")
    depth = sum(re.fullmatch(r"main\.convTranspose\d+\.weight", str(name)) is not None for name in tensors)
    if first is None or last is None or not first.ndim == last.ndim == 4 or first.shape[1] != last.shape[0] << depth:
        raise _files.refuse(path, "unsupported", "holds no generator of the GAN zoo's DCGAN")
    wanted = config["noiseVectorDim"] + config["labels"]
    if first.shape[0] != wanted:
        text = f"has a generator of {first.shape[0]} inputs, but its configuration tells of {wanted}"
        raise _files.refuse(path, "mismatch", text)
    net = Generator(first.shape[0], last.shape[1], last.shape[0], depth)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as e:
        raise _files.refuse(
            path, "mismatch", f"does not fit the generator it tells of: {' '.join(str(e).split())}"
        ) from e
    return net


def _with_batch_statistics(net: Generator) -> Generator:
    """Make batch norm use the batch at hand in every mode, and keep nothing of it."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return net
