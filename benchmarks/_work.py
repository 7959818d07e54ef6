"""The work that all contestants do: models, tensors, order, and the loops one would write."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._measure import Settings, same
from torchbasics import data, training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REAL = "Fashion-MNIST"
CLOSE = 1e-4  # of final losses: the same sums in another order of additions


@dataclass(frozen=True)
class Work:
    """One epoch of stochastic gradient descent in a given order, from given weights."""

    make: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    batch_size: int = 100
    lr: float = 0.01

    def model(self) -> nn.Module:
        """Return the model at its start."""
        torch.manual_seed(0)
        return self.make()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(model.parameters(), lr=self.lr)

    def order(self) -> Tensor:
        """Return the order of the samples."""
        return data.order(len(self.inputs), 0, 0)

    def loader(self) -> DataLoader[Any]:
        """Return torch's DataLoader over the tensors, in that order."""
        dataset = TensorDataset(self.inputs, self.targets)
        return DataLoader(dataset, batch_size=self.batch_size, sampler=self.order().tolist())

    def steps(self) -> int:
        """Return the updates of an epoch."""
        return -(-len(self.inputs) // self.batch_size)

    @torch.no_grad()
    def loss(self, model: Callable[[Tensor], Tensor]) -> float:
        """Return the loss of some samples."""
        return functional.cross_entropy(model(self.inputs[:1000]), self.targets[:1000]).item()

    def check(self, tolerance: float = CLOSE) -> Callable[[str, Any], None]:
        """Return a function that sees whether a model ended where the bare loop ends."""
        model = self.model()
        train(model, self.optimizer(model), self.gathered())
        expected = self.loss(model)

        def check(name: str, trained: Any) -> None:
            if trained is not None:
                same(name, self.loss(trained), expected, tolerance)

        return check

    def gathered(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield batches as one would write it for tensors."""
        for index in torch.split(self.order(), self.batch_size):
            yield self.inputs[index], self.targets[index]

    def fit(self, **options: Any) -> Callable[[], Callable[[], nn.Module]]:
        """Return the contestant `torchbasics.training.fit`."""
        options = {"epochs": 1, "batch_size": self.batch_size, "optimizer": "sgd", "lr": self.lr, **options}

        def prepare() -> Callable[[], nn.Module]:
            model = self.model()

            def run() -> nn.Module:
                training.fit(model, self.inputs, self.targets, progress=False, **options)
                return model

            return run

        return prepare

    def loop(self, batches: Callable[[], Iterable[Any]]) -> Callable[[], Callable[[], nn.Module]]:
        """Return the contestant that is a loop over *batches*."""

        def prepare() -> Callable[[], nn.Module]:
            model = self.model()
            optimizer = self.optimizer(model)
            return lambda: train(model, optimizer, batches())

        return prepare


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]) -> nn.Module:
    """Train as the tutorial does."""
    criterion = nn.CrossEntropyLoss()
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
    return model


def mlp() -> nn.Module:
    """Return the network of the step measurements."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


class TutorialCNN(nn.Module):
    """The tutorial's network, in the tutorial's words."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), padding_mode="zeros")
        self.pool = nn.MaxPool2d(kernel_size=(2, 2), stride=(2, 2))
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(10, 20, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), padding_mode="zeros")
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(20 * 7 * 7, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        x = self.pool(self.relu(self.conv1(inputs)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.fc1(self.flatten(x)))
        return self.fc2(x)  # type: ignore[no-any-return]  # a tensor


@cache
def images(train: int, test: int) -> tuple[data.Images, data.Images, str]:
    """Return that many images of Fashion-MNIST, or of noise where it is not on this machine; and which it is."""
    try:
        first, second = data.fashion_mnist(download=False)
        what = REAL
    except FileNotFoundError:
        generator = torch.Generator().manual_seed(0)
        parts = []
        for n in (train, test):
            pixels = torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
            parts.append(data.Images(pixels, torch.randint(10, (n,), generator=generator)))
        first, second = parts
        what = "noise in the shape of Fashion-MNIST"
    return first[:train], second[:test], what


def image_work(make: Callable[[], nn.Module], settings: Settings, n: int = 60_000, **options: Any) -> Work:
    """Return the work of a classifier of *n* images, as float tensors."""
    train, _, _ = images(*settings.images())
    return Work(make, train.inputs[:n], train.targets[:n], **options)


@cache
def tutorial_set(train: bool, n: int, m: int) -> Any:
    """Return the images as the tutorial reads them: torchvision's dataset with ToTensor.

    Raises:
        ImportError: there is no torchvision.
    """
    import torchvision

    parts = images(n, m)[:2]
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "FashionMNIST", "raw")
        raw.mkdir(parents=True)
        for prefix, part in zip(("train", "t10k"), parts, strict=True):
            shape = (len(part), *part.images.shape[2:])
            _write_idx(raw / f"{prefix}-images-idx3-ubyte", shape, part.images)
            _write_idx(raw / f"{prefix}-labels-idx1-ubyte", shape[:1], part.targets.to(torch.uint8))
        transform = torchvision.transforms.Compose([torchvision.transforms.ToTensor()])
        return torchvision.datasets.FashionMNIST(root, train=train, transform=transform)


def tutorial_loader(settings: Settings, *, train: bool, seed: int = 0) -> DataLoader[Any]:
    """Return the tutorial's loader; the order is `torchbasics.data.order`'s instead of a random one."""
    dataset = tutorial_set(train, *settings.images())
    return DataLoader(dataset, batch_size=100, sampler=data.order(len(dataset), seed, 0).tolist())


def _write_idx(path: Path, shape: tuple[int, ...], values: Tensor) -> None:
    head = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    path.write_bytes(head + values.contiguous().numpy().tobytes())
