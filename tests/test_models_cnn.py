"""CNNModel: the tutorial's network by default, and other sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchbasics.models import CNNModel


class Tutorial(nn.Module):
    """The tutorial's network, written out: ReLU before the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5, padding=2)
        self.fc1 = nn.Linear(980, 50)
        self.fc2 = nn.Linear(50, 10)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        y: Tensor = self.fc2(torch.relu(self.fc1(torch.flatten(x, 1))))
        return y


def made(cls: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return cls()


def test_default_is_the_tutorials_network() -> None:
    """The same keys in the same order, the same shapes, and with the same seed the same weights: 54,840 of them."""
    ours, theirs = made(CNNModel).state_dict(), made(Tutorial).state_dict()

    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert sum(p.numel() for p in ours.values()) == 54_840


INPUTS = {
    "noise": lambda: torch.randn(8, 1, 28, 28),
    "ties": lambda: torch.randn(8, 1, 28, 28).round(),  # equal values in a window: the first wins
    "constant": lambda: torch.ones(8, 1, 28, 28),
    "black": lambda: torch.zeros(8, 1, 28, 28),
    "nan": lambda: torch.randn(8, 1, 28, 28).index_put_([torch.tensor([0, 3])], torch.tensor(torch.nan)),
    "infinite": lambda: torch.full((8, 1, 28, 28), torch.inf),
}


@pytest.mark.parametrize("bias", [None, 0.0, -100.0], ids=["as made", "zero bias", "all windows negative"])
@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_pooling_first_gives_the_tutorials_bits(inputs: Any, bias: float | None) -> None:
    """Outputs and all gradients are torch.equal to the tutorial's, also with ties, NaN and nothing positive."""
    ours, theirs = made(CNNModel), made(Tutorial)
    grads = []
    images = inputs()
    outputs = []
    for model in (ours, theirs):
        if bias is not None:
            nn.init.constant_(model.conv1.bias, bias)  # type: ignore[arg-type, union-attr]
        x = images.clone().requires_grad_()
        outputs.append(model(x))
        torch.autograd.backward(outputs[-1].square().sum())
        grads.append([x.grad, *(p.grad for p in model.parameters())])

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())

    assert same(*outputs)
    assert all(same(a, b) for a, b in zip(*grads, strict=True))


def test_pooling_order_test_can_fail() -> None:
    """Positive control: with average pooling the order does change the bits."""
    x = torch.randn(1, 1, 4, 4)

    assert not torch.equal(torch.relu(nn.functional.avg_pool2d(x, 2)), nn.functional.avg_pool2d(torch.relu(x), 2))


@pytest.mark.parametrize(
    ("options", "shape", "features"),
    [
        ({"image_size": 32, "in_channels": 3}, (3, 32, 32), 20 * 8 * 8),
        ({"image_size": (28, 20)}, (1, 28, 20), 20 * 7 * 5),
        ({"image_size": [31, 17]}, (1, 31, 17), 20 * 7 * 4),
        ({"image_size": 4}, (1, 4, 4), 20),
        ({"channels": (6,)}, (1, 28, 28), 6 * 14 * 14),
        ({"channels": [4, 8, 16]}, (1, 28, 28), 16 * 3 * 3),
        ({"kernel_size": 1}, (1, 28, 28), 980),
        ({"kernel_size": 7, "hidden": 9, "num_classes": 3, "dropout": 0.5}, (1, 28, 28), 980),
        ({"batch_norm": True}, (1, 28, 28), 980),
    ],
    ids=str,
)
def test_sizes_fit_together(options: dict[str, Any], shape: tuple[int, ...], features: int) -> None:
    """Convolutions keep the size, each pooling halves it rounding down."""
    model = CNNModel(**options)

    assert model.fc1.in_features == features
    assert model(torch.zeros(2, *shape)).shape == (2, model.num_classes)
    assert {name: getattr(model, name) for name in options} == options


def test_batch_norm_stands_between_convolution_and_relu() -> None:
    """Keys bn1, bn2 appear, and the numbers are those of the layers written out."""
    model: Any = CNNModel(channels=(3, 4), batch_norm=True)
    inputs = torch.randn(6, 1, 28, 28)
    bn1, bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(4)
    x = torch.relu(bn1(model.conv1(inputs)))
    x = torch.relu(bn2(model.conv2(nn.functional.max_pool2d(x, 2))))
    x = torch.relu(model.fc1(nn.functional.max_pool2d(x, 2).flatten(1)))

    assert torch.equal(model(inputs), model.fc2(x))
    assert [name for name, _ in model.named_children()] == ["conv1", "bn1", "conv2", "bn2", "fc1", "fc2"]


def test_dropout_acts_on_the_hidden_layer_in_training_only() -> None:
    """Training draws; eval does not."""
    model = CNNModel(dropout=0.5)
    inputs = torch.randn(2, 1, 28, 28)

    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, r"^in_channels must be at least 1, got 0$"),
        ({"num_classes": "10"}, TypeError, r"^num_classes must be an integer, got '10'$"),
        ({"image_size": 3}, ValueError, r"^image_size must be at least 4, as every block halves it, got 3$"),
        ({"image_size": (28, 2)}, ValueError, r"^image_size must be at least 4, .* got \(28, 2\)$"),
        ({"image_size": (1, 28, 28)}, ValueError, r"^image_size must be a side or \(H, W\), got \(1, 28, 28\)$"),
        ({"image_size": (28, 0)}, ValueError, r"^image_size\[1\] must be at least 1, got 0$"),
        ({"image_size": 28.0}, TypeError, r"^image_size must be an integer, got 28\.0$"),
        ({"channels": ()}, TypeError, r"^channels must be a tuple of one width a block, such as \(10, 20\), got \(\)$"),
        ({"channels": 10}, TypeError, r"^channels must be a tuple of one width a block, such as \(10, 20\), got 10$"),
        ({"channels": (10, 0)}, ValueError, r"^channels\[1\] must be at least 1, got 0$"),
        ({"hidden": 0}, ValueError, r"^hidden must be at least 1, got 0$"),
        ({"kernel_size": 4}, ValueError, r"^kernel_size must be odd, so that convolutions keep .*, got 4$"),
        ({"kernel_size": 0}, ValueError, r"^kernel_size must be at least 1, got 0$"),
        ({"batch_norm": None}, TypeError, r"^batch_norm must be True or False, got None$"),
        ({"dropout": -0.1}, ValueError, r"^dropout must be in \[0, 1\), got -0\.1$"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each argument is checked at construction."""
    with pytest.raises(error, match=message):
        CNNModel(**arguments)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (2, 784), (2, 3, 28, 28), (2, 1, 28, 27), (2, 1, 32, 32)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """The message has both shapes."""
    message = r"^inputs have shape \(.*\), but CNNModel\(in_channels=1, image_size=28\) needs \(N, 1, 28, 28\)$"
    with pytest.raises(ValueError, match=message):
        CNNModel()(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_gradients_the_bits_are_the_same(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Pooling goes another way there; with ties, infinities, and sides that are odd."""
    torch.manual_seed(0)
    model = CNNModel(image_size=(29, 31), channels=(3, 5)).to(dtype).to(memory_format=layout)
    images = torch.rand(4, 1, 29, 31).mul(3).round().to(dtype).contiguous(memory_format=layout)
    images[0, 0, 3, 4] = torch.inf
    with torch.no_grad():
        quick = model(images)
    assert torch.equal(quick.nan_to_num(), model(images).detach().nan_to_num())
    assert torch.equal(quick.isnan(), model(images).isnan())
