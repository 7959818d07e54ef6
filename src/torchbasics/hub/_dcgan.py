"""The GAN zoo's DCGAN, with the calls it has there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from torchbasics import _checks, _env, _pickles
from torchbasics._model import plain_state, unwrapped
from torchbasics.hub import _checkpoint, _download, _repository
from torchbasics.models._inputs import check_generator, check_tensor, wrong_shape

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from torchbasics.models._dcgan import Generator

FASHIONGEN = "https://dl.fbaipublicfiles.com/gan_zoo/DCGAN_fashionGen-1d67302.pth"
UPSTREAM = "facebookresearch/pytorch_GAN_zoo:b75dee40918caabb4fe7ec561522717bf096a8cb"  # its main, of 2020-05-14


class PretrainedDCGAN(nn.Module):
    """A DCGAN from facebookresearch/pytorch_GAN_zoo, with the calls it has there.

    As upstream, batch norm uses the statistics of the batch at hand: an image depends on the others of its batch. What
    upstream's branch ``main`` does is done here. Its branch ``hub`` has a bug: after loading it replaces `avgG` by a
    copy of `netG`, so that ``test(noise, getAvG=True)`` shows the images of `netG` there.

    Shapes: ``(N, latent_dim)`` or ``(N, latent_dim, 1, 1)`` -> ``(N, out_channels, size, size)``, *latent_dim* being
    the values of noise and those of the labels.

    Attributes:
        netG: The generator.
        avgG: The generator with the running mean of the weights in training; without gradients.
        which: The one behind `forward`, `sample` and `test`: "netG" or "avgG".
        noise_dim: Values of noise per image.
        loss: The name of the loss it was trained with: images are in [-1, 1] for "DCGAN" and "MSE", else unbounded.
        attributes: The labels an image is conditioned on, in order: each one's name and values.

    >>> from torchbasics.models import DCGAN
    >>> net, average = (DCGAN(latent_dim=8, width=4, depth=1).generator for _ in range(2))
    >>> model = PretrainedDCGAN(net, average, noise_dim=8, loss="DCGAN", attributes={})
    >>> noise, labels = model.buildNoiseData(5)
    >>> model.test(noise, getAvG=True).shape
    torch.Size([5, 1, 16, 16])
    """

    def __init__(
        self,
        netG: Generator,
        avgG: Generator,
        *,
        which: Literal["netG", "avgG"] = "netG",
        noise_dim: int,
        loss: str,
        attributes: Mapping[str, list[Any]],
    ) -> None:
        super().__init__()
        self.netG: Generator = netG
        self.avgG: Generator = avgG.requires_grad_(False)
        self.which = which
        self.noise_dim = noise_dim
        self.loss = loss
        self.attributes: dict[str, list[Any]] = dict(attributes)

    if TYPE_CHECKING:

        def __call__(self, noise: Tensor) -> Tensor: ...

    def forward(self, noise: Tensor) -> Tensor:
        """Return the images of *noise*, as `buildNoiseData` gives it."""
        return self._run(self.netG if self.which == "netG" else self.avgG, noise)

    def buildNoiseData(self, n: int, inputLabels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:  # noqa: N802  # upstream's name
        """Draw noise and labels for *n* images: ``(n, latent_dim)``, and ``(n, attributes)`` or None without labels.

        As upstream, noise comes from torch's global generator on the CPU, labels from numpy's.

        Args:
            n: How many.
            inputLabels: The labels to take, int64 ``(n, attributes)``: the places of the values; None draws them.

        Raises:
            ValueError: *inputLabels* have another shape or dtype, or there is no such value.
        """
        device = self.netG.formatLayer.weight.device
        noise = torch.randn(_checks.positive_int("n", n), self.noise_dim)
        if inputLabels is None:
            if not self.attributes:
                return noise.to(device), None
            labels = self._drawn(n, {}, None)
            targets = labels.float()
        else:
            labels = self._checked(n, inputLabels)
            targets = inputLabels
        return torch.cat([noise, self._one_hot(labels)], 1).to(device), targets.to(device)

    def buildNoiseDataWithConstraints(self, n: int, labels: Mapping[str, Any]) -> Tensor:  # noqa: N802  # upstream's name
        """Draw noise for *n* images that have *labels*; those not named are drawn: ``(n, latent_dim, 1, 1)``.

        As upstream, it is on the CPU, noise comes from torch's global generator, labels from numpy's.

        Args:
            n: How many.
            labels: A value for each name, as in `attributes`; "Men" stands for "b'Men'" too.

        Raises:
            ValueError: there is no such name or value; the nearest is named.
        """
        one_hot = self._one_hot(self._drawn(_checks.positive_int("n", n), labels, None))
        return torch.cat([torch.randn(n, self.noise_dim, 1, 1), one_hot[..., None, None]], 1)

    @torch.no_grad()
    def test(self, noise: Tensor, getAvG: bool = False, toCPU: bool = True) -> Tensor:
        """Return the images of *noise*, without gradients.

        Args:
            noise: What `buildNoiseData` gave first, or `buildNoiseDataWithConstraints`.
            getAvG: Use `avgG`, whatever `which` says.
            toCPU: Bring the images to the CPU.
        """
        noise = noise.to(self.netG.formatLayer.weight.device)
        images = self._run(self.avgG, noise) if getAvG else self(noise)
        return images.cpu() if toCPU else images

    def sample(
        self, n: int, *, generator: torch.Generator | None = None, labels: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Draw noise for *n* images, and return the images, on the CPU.

        Args:
            n: How many.
            generator: Draws the noise and the labels, on its own device; None is torch's global one for noise and
                numpy's for labels, as in `buildNoiseData`.
            labels: A value for some or all names in `attributes`; the others are drawn.

        Raises:
            TypeError: *generator* is something else.
            ValueError: there is no such name or value; the nearest is named.
        """
        check_generator(generator)
        device = "cpu" if generator is None else generator.device
        shape = (_checks.positive_int("n", n), self.noise_dim)
        noise = torch.randn(shape, generator=generator, device=device).cpu()
        return self.test(torch.cat([noise, self._one_hot(self._drawn(n, labels or {}, generator))], 1))

    def _drawn(self, n: int, labels: Mapping[str, Any], generator: torch.Generator | None) -> Tensor:
        """Return the place of each image's value of each attribute: ``(n, attributes)``; given ones are not drawn."""
        if labels and not self.attributes:
            raise ValueError(f"this DCGAN knows no labels, got {dict(labels)!r}; leave them out")
        given = {_checks.choice("label", name, self.attributes): self._place(name, labels[name]) for name in labels}
        columns = []
        for name, values in self.attributes.items():
            if name in given:
                column = torch.full((n,), given[name])
            elif generator is not None:
                column = torch.randint(len(values), (n,), generator=generator, device=generator.device).cpu()
            else:
                column = torch.as_tensor(np.random.randint(0, len(values), n))  # noqa: NPY002  # upstream's generator
            columns.append(column)
        return torch.stack(columns, 1) if columns else torch.empty(n, 0, dtype=torch.int64)

    def _place(self, name: str, value: Any) -> int:
        values = self.attributes[name]
        if value in values:
            return values.index(value)
        plain = [re.sub(r"^b'(.*)'$", r"\1", str(v)) for v in values]  # upstream keeps bytes as their repr
        return plain.index(_checks.choice(f"value of {name!r}", value, plain))

    def _checked(self, n: int, labels: Tensor) -> Tensor:
        sizes = torch.tensor([len(values) for values in self.attributes.values()], dtype=torch.int64)
        if labels.shape != (n, len(sizes)) or labels.is_floating_point() or not len(sizes):
            shown = f"{tuple(labels.shape)} of {labels.dtype}"
            raise ValueError(f"inputLabels have shape {shown}, needed are integers ({n}, {len(sizes)})")
        labels = labels.cpu().long()
        if (labels < 0).any() or (labels >= sizes).any():
            raise ValueError(f"inputLabels are beyond the values, of which there are {sizes.tolist()}")
        return labels

    def _one_hot(self, labels: Tensor) -> Tensor:
        """``(n, attributes)`` -> ``(n, values of all attributes)``."""
        sizes = [len(values) for values in self.attributes.values()]
        parts = [nn.functional.one_hot(labels[:, i], size).float() for i, size in enumerate(sizes)]
        return torch.cat(parts, 1) if parts else torch.empty(len(labels), 0)

    def _run(self, net: Generator, noise: Tensor) -> Tensor:
        check_tensor(noise, net.formatLayer.weight, name="noise")
        if noise.ndim not in (2, 4) or noise.shape[1:].numel() != net.latent_dim or noise.shape[1] != net.latent_dim:
            raise wrong_shape(noise, f"DCGAN(latent_dim={net.latent_dim})", f"(N, {net.latent_dim})", name="noise")
        images = net.main(net.formatLayer(noise.reshape(len(noise), -1, 1, 1)))
        return images if _checkpoint.LINEAR[self.loss] else torch.tanh(images)


@overload
def load_dcgan(
    weights: str | os.PathLike[str] = ...,
    *,
    which: Literal["netG", "avgG"] = ...,
    device: torch.device | str = ...,
    source: Literal["native"] = ...,
    progress: bool = ...,
) -> PretrainedDCGAN: ...
@overload
def load_dcgan(*, device: torch.device | str = ..., source: Literal["upstream"]) -> Any: ...
def load_dcgan(
    weights: str | os.PathLike[str] = "fashiongen",
    *,
    which: Literal["netG", "avgG"] = "netG",
    device: torch.device | str = "auto",
    source: Literal["native", "upstream"] = "native",
    progress: bool = True,
) -> Any:
    """Load a DCGAN of facebookresearch/pytorch_GAN_zoo; no code of that project is run.

    Args:
        weights: "fashiongen", the published one, downloaded once to ``torch.hub.get_dir()``; or the path of a
            checkpoint, upstream's own or one of `save_dcgan`.
        which: The network behind ``forward``, ``sample`` and ``test``; ``test(getAvG=True)`` is always "avgG".
        device: Where it goes: "cpu", "cuda", ...; "auto" = a GPU if there is one. It stands for upstream's ``useGPU``.
        source: "native"; or "upstream" for what torch.hub itself makes of it: the project's own object, by its own
            code and its own unpickling, which can run anything; isolated as in `torchbasics.hub.load`.
        progress: Whether a download shows how far it is, on stderr.

    Raises:
        FileNotFoundError: there is no such file, or the download failed.
        CheckpointError: the file is no such checkpoint, is damaged, asks to run code, or changed since its first use.

    Warns:
        UserWarning: at first use of the published file, its SHA-256 does not begin as its name says.

    References:
        Radford, Metz, Chintala, Unsupervised Representation Learning with DCGANs, 2016, arXiv:1511.06434.

    >>> model = load_dcgan()  # doctest: +SKIP
    >>> model.sample(16, labels={"input_gender": "Men"}).shape  # doctest: +SKIP
    torch.Size([16, 3, 64, 64])
    """
    _checks.choice("network", which, ("netG", "avgG"))
    target = _env.device(device)
    if _checks.choice("source", source, ("native", "upstream")) == "upstream":
        if weights != "fashiongen" or which != "netG":
            raise ValueError("source='upstream' has neither weights nor which; its test(noise, getAvG=True) is avgG")
        use_gpu = target.type == "cuda"
        return _repository.load(UPSTREAM, "DCGAN", pretrained=True, useGPU=use_gpu, trust_repo=True)
    made = _read(weights, progress)
    settings = {"noise_dim": made.noise_dim, "loss": made.loss, "attributes": made.attributes}
    return PretrainedDCGAN(made.network, made.average, which=which, **settings).to(target)  # type: ignore[arg-type]


def save_dcgan(model: PretrainedDCGAN, path: str | os.PathLike[str]) -> None:
    """Write *model* to *path* as safetensors, so that `load_dcgan` needs no pickle from then on.

    It comes back in the precision that it has. What ``torch.compile`` and ``DataParallel`` put around it is left out.

    Raises:
        ValueError: *path* does not end in ".safetensors", or `load_dcgan` would refuse the model: it has values that
            are not finite, or other layers.
        FileNotFoundError: the folder is not there.

    >>> from tempfile import TemporaryDirectory
    >>> from torchbasics.models import DCGAN
    >>> net, average = (DCGAN(latent_dim=8, width=4, depth=1).generator for _ in range(2))
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "gan.safetensors")
    ...     save_dcgan(PretrainedDCGAN(net, average, noise_dim=8, loss="DCGAN", attributes={}), path)
    ...     load_dcgan(path).sample(2).shape
    torch.Size([2, 1, 16, 16])
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    bare: Any = unwrapped(model)
    _checkpoint.write(Path(path), plain_state(bare), bare.noise_dim, bare.loss, bare.attributes)


def _read(weights: str | os.PathLike[str], progress: bool) -> _checkpoint.Checkpoint:
    if weights == "fashiongen":
        return _download.cached(FASHIONGEN, _checkpoint.from_pickle, progress=progress)
    path = Path(weights)
    if not path.exists():
        raise FileNotFoundError(f"no file {str(path)!r}; give the path of a GAN-zoo checkpoint, or 'fashiongen'")
    if path.suffix == ".safetensors":
        return _checkpoint.from_safetensors(path)
    return _checkpoint.from_pickle(str(path), _pickles.read_content(path, _download.LIMIT))
