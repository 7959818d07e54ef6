"""`hub.load_dcgan`: the GAN zoo's checkpoints give the bits they gave there, and nothing of theirs is run."""

from __future__ import annotations

import hashlib
import pickle
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.helpers import equal
from torchbasics import hub, io

if TYPE_CHECKING:
    from collections.abc import Callable

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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "DCGAN.pth"


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize("loss", ["DCGAN", "MSE", "WGANGP", "Logistic"])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
def test_the_two_calls_of_the_tutorial_give_the_bits_of_upstream(
    path: Path, legacy: bool, loss: str, labels: bool
) -> None:
    """Noise, labels and images, from the same seeds, are torch.equal; so is the average network."""
    zoo = Zoo(path, labels=labels, loss=loss)
    model = hub.load_dcgan(zoo.write(legacy=legacy))
    drawn = []
    builds: list[Callable[[], Any]] = [lambda: noise_of_the_zoo(5, labels), lambda: model.buildNoiseData(5)]
    for build in builds:
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        drawn.append(build())
    (noise, targets), (own, own_targets) = drawn
    assert torch.equal(own, noise)
    assert own_targets is targets is None or torch.equal(own_targets, targets)

    for n in (5, 1):
        assert torch.equal(model.test(own[:n]), zoo.net(noise[:n]).detach())
        assert torch.equal(model.test(own[:n], getAvG=True), zoo.average(noise[:n]).detach())
    assert torch.equal(model.test(own[..., None, None], toCPU=False), zoo.net(noise).detach())
    assert not torch.equal(model.test(own), model.test(own, getAvG=True))


def test_running_statistics_would_give_other_images(path: Path) -> None:
    """Positive control: the reference in eval mode is not what upstream shows."""
    zoo = Zoo(path)
    model = hub.load_dcgan(zoo.write())
    noise, _ = model.buildNoiseData(4)

    assert not torch.equal(model.test(noise), zoo.net.eval()(noise).detach())


def test_neither_modes_nor_calls_change_what_it_gives(path: Path) -> None:
    """No statistics are kept: the same noise gives the same images, in train and in eval mode."""
    model = hub.load_dcgan(Zoo(path).write())
    noise, _ = model.buildNoiseData(4)
    first = model.train().test(noise)

    assert torch.equal(model.eval().test(noise), first)
    assert torch.equal(model.test(noise), first)
    assert not first.requires_grad
    assert model(noise).requires_grad
    assert not any("running" in name for name in model.state_dict())


def test_which_names_the_network_of_forward_sample_and_test(path: Path) -> None:
    """getAvG=True is always the average."""
    zoo = Zoo(path)
    net, average = (hub.load_dcgan(zoo.write(), which=which) for which in ("netG", "avgG"))
    noise, _ = net.buildNoiseData(4)

    assert torch.equal(average.test(noise), net.test(noise, getAvG=True))
    assert torch.equal(average(noise), average.test(noise, getAvG=True))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert average.sample(6).shape == (6, CHANNELS, 32, 32)


def test_labels_can_be_given(path: Path) -> None:
    """They come back as they were, and stand as one-hot vectors behind the noise, in the checkpoint's order."""
    model = hub.load_dcgan(Zoo(path).write())
    labels = torch.tensor([[1, 2], [0, 0]])

    noise, targets = model.buildNoiseData(2, labels)

    assert targets is not None
    assert torch.equal(targets, labels)
    assert noise[:, NOISE:].tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert list(model.attributes) == ["gender", "pose"]


def test_a_checkpoint_without_average_or_with_a_dict_is_read_as_upstream_does(path: Path) -> None:
    """The average is then the network itself."""
    model = hub.load_dcgan(Zoo(path).write(as_dict=True, without="avgG"))

    assert equal(model.netG, model.avgG)
    assert not any(p.requires_grad for p in model.avgG.parameters())


def test_the_device_is_chosen(path: Path) -> None:
    """It stands for upstream's useGPU."""
    model = hub.load_dcgan(Zoo(path).write(), device="cpu")

    assert model.test(model.buildNoiseData(2)[0], toCPU=False).device.type == "cpu"


def test_the_published_weights_are_downloaded_once_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the hub's cache, by the digest in the file's name; a damaged file there is refused."""
    made = Zoo(tmp_path / "made.pth").write()
    digest = hashlib.sha256(made.read_bytes()).hexdigest()[:7]
    calls = []

    def download(url: str, target: str, hash_prefix: str) -> None:
        calls.append((url, hash_prefix))
        Path(target).write_bytes(made.read_bytes())

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(hub, "FASHIONGEN", f"https://example.org/DCGAN-{digest}.pth")

    once, again = hub.load_dcgan(), hub.load_dcgan("fashiongen")

    assert calls == [(f"https://example.org/DCGAN-{digest}.pth", digest)]
    assert equal(once, again)
    (tmp_path / f"hub/checkpoints/DCGAN-{digest}.pth").write_bytes(b"else")
    with pytest.raises(
        io.CheckpointError, match=r"is damaged: its SHA-256 begins with .*; delete it and load again"
    ) as e:
        hub.load_dcgan()
    assert e.value.reason == "damaged"


class Runs:
    """Runs code when unpickled."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


REFUSED: dict[str, tuple[Any, str, str]] = {
    "code": (lambda p: Zoo(p).write(tmp=Runs()), "unsafe", r"asks to run \S*print, which no GAN-zoo checkpoint does"),
    "plain state": (lambda p: write(p, nn.Linear(2, 2).state_dict()), "unsupported", r"has \['bias', 'weight'\], not 'config' and 'netG'"),
    "a tensor": (lambda p: write(p, torch.zeros(2)), "unsupported", "it has Tensor, not 'config'"),
    "text": (lambda p: p.write_text("hello") and p, "not-a-checkpoint", "is nothing that torch can read"),
    "nothing": (lambda p: p.write_text("") or p, "truncated", "is nothing that torch can read"),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps(3)) and p, "not-a-checkpoint", "is nothing that torch can read"),
    "a folder": (lambda p: p.mkdir() or p, "not-a-checkpoint", "is no regular file"),
    "loss": (lambda p: Zoo(p, loss="Hinge").write(), "unsupported", "lossCriterion='Hinge'; needed: a number, one of"),
    "noise": (lambda p: Zoo(p, noiseVectorDim="7").write(), "unsupported", "noiseVectorDim='7'"),
    "noise length": (lambda p: Zoo(p, noiseVectorDim=9).write(), "mismatch", "a generator of 12 inputs, but its configuration tells of 14"),
    "attributes": (lambda p: Zoo(p, attribKeysOrder={"a": 3}).write(), "unsupported", "has attribKeysOrder={'a': 3}"),
    "order": (lambda p: Zoo(p, attribKeysOrder={"a": {"order": 4, "values": []}}).write(), "unsupported", r"numbers its attributes \[4\], not from 0"),
    "other network": (lambda p: Zoo(p).write(netG=nn.Linear(2, 2).state_dict()), "unsupported", "holds no generator of the GAN zoo's DCGAN"),
    "network of nothing": (lambda p: Zoo(p).write(netG=3), "unsupported", "holds no generator"),
    "a number": (lambda p: Zoo(p).write(netG={"formatLayer.weight": 3}), "unsafe", "holds 'formatLayer.weight', which is no plain dense tensor"),
    "a bomb": (lambda p: Zoo(p).write(netG={"formatLayer.weight": torch.zeros(1).expand(9, 9, 9, 9)}), "unsafe", "no plain dense tensor"),
    "missing key": (lambda p: Zoo(p).write(avgG={k: v for k, v in Zoo(p).net.state_dict().items() if "Norm1" not in k}), "mismatch", "does not fit Generator: missing 'main.batchNorm1.weight'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_checkpoint_is_refused(case: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason; nothing in it was run."""
    make, reason, message = REFUSED[case]

    with pytest.raises(io.CheckpointError, match=message) as e:
        hub.load_dcgan(make(path))

    assert e.value.reason == reason
    assert capsys.readouterr().out == ""


def test_mistakes_in_the_call_are_told(path: Path) -> None:
    """A path that is not there, and a network that is none."""
    with pytest.raises(
        FileNotFoundError, match=r"no file '.*DCGAN.pth'; give the path of a GAN-zoo checkpoint, or 'fashi"
    ):
        hub.load_dcgan(path)
    with pytest.raises(ValueError, match="unknown network 'avg'"):
        hub.load_dcgan(path, which="avg")  # type: ignore[arg-type]
    model = hub.load_dcgan(Zoo(path).write())
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        model.buildNoiseData(0)
    with pytest.raises(ValueError, match=r"noise has shape \(2, 3\), but DCGAN\(latent_dim=12\) needs \(N, 12\)"):
        model.test(torch.zeros(2, 3))
