"""Checkpoints as the GAN zoo writes them, and its generator written anew, twice: as modules and as plain functions."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path

LABELS = {
    "pose": {"order": 1, "values": ["id_gridfs_1", "id_gridfs_2", "id_gridfs_3"]},
    "gender": {"order": 0, "values": ["b'Men'", "b'Women'"]},
}
NOISE, WIDTH, DEPTH, CHANNELS = 7, 4, 2, 3


class Reference(nn.Module):
    """The zoo's generator, written anew from its description; always in train mode, as there."""

    def __init__(self, latent: int, bounded: bool) -> None:
        super().__init__()
        self.bounded = bounded
        self.formatLayer = nn.ConvTranspose2d(latent, WIDTH * 4, 4, 1, 0, bias=False)
        self.main = nn.ModuleDict({"batchNorm0": nn.BatchNorm2d(WIDTH * 4)})
        for i, width in ((1, WIDTH * 4), (2, WIDTH * 2)):
            self.main[f"convTranspose{i}"] = nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False)
            self.main[f"batchNorm{i}"] = nn.BatchNorm2d(width // 2)
        self.main["outlayer"] = nn.ConvTranspose2d(WIDTH, CHANNELS, 4, 2, 1, bias=False)

    def forward(self, noise: Tensor) -> Tensor:
        x = functional.relu(self.main["batchNorm0"](self.formatLayer(noise.view(-1, noise.size(1), 1, 1))))
        for i in (1, 2):
            x = functional.relu(self.main[f"batchNorm{i}"](self.main[f"convTranspose{i}"](x)))
        x = self.main["outlayer"](x)
        return torch.tanh(x) if self.bounded else x


def images_of(state: dict[str, Tensor], noise: Tensor, bounded: bool) -> Tensor:
    """The zoo's generator as plain functions of its parameters; batch norm by the batch, as in train mode."""

    def norm(x: Tensor, i: int) -> Tensor:
        weight, bias = state[f"main.batchNorm{i}.weight"], state[f"main.batchNorm{i}.bias"]
        return functional.relu(functional.batch_norm(x, None, None, weight, bias, training=True))

    x = norm(functional.conv_transpose2d(noise[:, :, None, None], state["formatLayer.weight"]), 0)
    for i in range(1, DEPTH + 1):
        x = norm(functional.conv_transpose2d(x, state[f"main.convTranspose{i}.weight"], stride=2, padding=1), i)
    x = functional.conv_transpose2d(x, state["main.outlayer.weight"], stride=2, padding=1)
    return x.tanh() if bounded else x


def noise_of_the_zoo(n: int, labels: bool) -> tuple[Tensor, Tensor | None]:
    """The zoo's buildNoiseData, written anew."""
    noise = torch.randn(n, NOISE)
    if not labels:
        return noise, None
    parts, targets = [noise], []
    for classes in (2, 3):
        drawn = np.random.randint(0, classes, n)  # noqa: NPY002
        part = np.zeros((n, classes), dtype="float32")
        part[np.arange(n), drawn] = 1
        parts.append(torch.tensor(part))
        targets.append(torch.tensor(drawn).float().view(n, 1))
    return torch.cat(parts, 1), torch.cat(targets, 1)


class Zoo:
    """A checkpoint as the zoo writes it, and the two networks in it."""

    def __init__(self, path: Path, *, labels: bool = True, loss: str = "DCGAN", **changes: Any) -> None:
        torch.manual_seed(1)
        self.path = path
        latent = NOISE + (5 if labels else 0)
        self.net, self.average = (Reference(latent, loss in ("MSE", "DCGAN")).train() for _ in range(2))
        self.config = {
            "dimG": WIDTH, "dimD": WIDTH, "depth": DEPTH, "noiseVectorDim": NOISE, "dimOutput": CHANNELS,
            "latentVectorDim": latent, "lossCriterion": loss, "learningRate": 2e-4,
            "attribKeysOrder": LABELS if labels else None,
        }  # fmt: skip
        self.config |= changes

    def write(self, *, as_dict: bool = False, legacy: bool = True, without: str = "", **changes: Any) -> Path:
        """Pickle the configuration under upstream's name; the module is gone when the file is read."""
        there = {name: types.ModuleType(name) for name in ("models", "models.utils", "models.utils.config")}
        cls = type("BaseConfig", (), {"__module__": "models.utils.config"})
        there["models.utils.config"].BaseConfig = cls  # type: ignore[attr-defined]
        bag = cls()
        vars(bag).update(self.config)
        state = {"config": self.config if as_dict else bag, "netG": self.net.state_dict(), "netD": {}}
        state |= {"avgG": self.average.state_dict(), **changes}
        state.pop(without, None)
        sys.modules.update(there)
        try:
            torch.save(state, self.path, _use_new_zipfile_serialization=not legacy)
        finally:
            for name in there:
                del sys.modules[name]
        return self.path
