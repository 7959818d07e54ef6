"""data.Images: stored as bytes, used as floats, sliced, checked."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from torchbasics import data

if TYPE_CHECKING:
    from collections.abc import Callable


def make(n: int = 6, channels: int = 1) -> data.Images:
    pixels = torch.arange(n * channels * 4 * 5).remainder(256).to(torch.uint8).view(n, channels, 4, 5)
    return data.Images(pixels, torch.arange(n) % 3, ("a", "b", "c"), name="made")


@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_are_the_bits_of_torchvisions_to_tensor(channels: int) -> None:
    """Every one of the 256 values becomes the float that torchvision's ToTensor makes of it."""
    transforms = pytest.importorskip("torchvision.transforms")
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, channels, 16, 16)
    expected = transforms.ToTensor()(image[0].permute(1, 2, 0).numpy())
    ds = data.Images(image, [0])
    assert torch.equal(ds.inputs[0], expected)
    assert torch.equal(ds[0][0], expected)
    assert torch.equal(ds.batch(torch.tensor([0]))[0][0], expected)
    assert not torch.equal(image[0] * (1 / 255), expected)  # another way of scaling has other bits: the check can fail


def test_a_batch_is_the_samples_in_the_order_asked_for() -> None:
    """batch(index) is inputs[index], targets[index], float32 and int64."""
    ds = make()
    index = torch.tensor([4, 0, 4])
    inputs, targets = ds.batch(index)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert torch.equal(inputs, ds.inputs[index])
    assert torch.equal(targets, ds.targets[index])


def test_using_images_leaves_the_stored_bytes_alone() -> None:
    """Converting writes into no stored value."""
    ds = make()
    before = ds.images.clone()
    assert ds.inputs.max() <= 1
    ds.batch(torch.arange(6))
    ds[0]
    assert torch.equal(ds.images, before)


@pytest.mark.parametrize("index", [2, -4, np.int64(2), torch.tensor(2)], ids=["int", "negative", "numpy", "tensor"])
def test_an_integer_gives_one_sample(index: Any) -> None:
    """A sample is a float image (C, H, W) and a Python integer."""
    image, target = make()[index]
    assert image.shape == (1, 4, 5)
    assert torch.equal(image, make().inputs[2])
    assert target == 2
    assert type(target) is int


@pytest.mark.parametrize(
    ("index", "positions"),
    [
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(None, None, -1), [5, 4, 3, 2, 1, 0]),
        ([5, 0, -1], [5, 0, 5]),
        ([True, False, False, False, False, True], [0, 5]),
        (torch.tensor([3, 3]), [3, 3]),
        (torch.tensor([3, 1], dtype=torch.uint8), [3, 1]),
        (np.array([2, 1]), [2, 1]),
        (torch.arange(6) > 3, [4, 5]),
    ],
    ids=["slice", "step", "reverse", "list", "list-mask", "tensor", "uint8-is-no-mask", "array", "mask"],
)
def test_many_indices_give_images(index: Any, positions: list[int]) -> None:
    """A slice, list, tensor, array or mask selects samples and keeps classes and name."""
    ds = make()
    part = ds[index]
    assert torch.equal(part.images, ds.images[positions])
    assert torch.equal(part.targets, ds.targets[positions])
    assert (part.classes, part.name) == (ds.classes, ds.name)


@pytest.mark.parametrize(
    "index",
    [slice(3, 3), slice(10, 20), slice(2, 4, -1), [], np.array([], dtype=np.int64), torch.zeros(6) > 0],
    ids=["slice", "beyond", "reverse", "list", "array", "mask"],
)
def test_selecting_nothing_gives_no_images(index: Any) -> None:
    """As with a list, a slice of nothing is empty: it has a length, a repr and tensors, and a loop over it ends."""
    none = make()[index]
    inputs, targets = none.batch(torch.arange(0))
    assert len(none) == 0
    assert repr(none) == "Images(0 x 1x4x5, 3 classes, 'made')"
    assert list(none) == []
    assert none.inputs.shape == inputs.shape == (0, 1, 4, 5)
    assert (targets.shape, targets.dtype) == ((0,), torch.int64)
    assert len(none[:]) == len(pickle.loads(pickle.dumps(none))) == len(list(DataLoader(none))) == 0


def test_no_images_can_be_made_of_nothing() -> None:
    """An empty list of labels goes with an empty tensor of images."""
    assert len(data.Images(PIXELS[:0], [])) == 0


def test_a_slice_shares_its_memory() -> None:
    """Slicing copies no image."""
    ds = make()
    assert ds[2:].images.data_ptr() == ds.images[2:].data_ptr()


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (6, IndexError, "index 6 is out of range for 6 images"),
        (-7, IndexError, "index -7 is out of range for 6 images"),
        ([0, 9], IndexError, "index 9 is out of range for 6 images"),
        ([True], IndexError, "a mask must be as long as the data, 6, got 1"),
        ("a", TypeError, "index must be an integer, a slice, or a list or tensor of integers, got 'a'"),
        ([0.5], TypeError, r"index must be an integer, a slice, or a list or tensor of integers, got \[0.5\]"),
        (torch.rand(2), TypeError, r"an index tensor must be integers or a mask, \(N,\), got torch.float32 \(2,\)"),
        (torch.ones(2, 2).long(), TypeError, r"must be integers or a mask, \(N,\), got torch.int64 \(2, 2\)"),
    ],
)
def test_a_bad_index_is_named(index: Any, error: type[Exception], message: str) -> None:
    """An index that selects nothing sensible says why."""
    with pytest.raises(error, match=message):
        make()[index]


def test_iterating_ends() -> None:
    """A for loop sees each sample once."""
    assert [target for _, target in make()] == [0, 1, 2, 0, 1, 2]  # type: ignore[attr-defined]  # by __getitem__


def test_a_data_loader_collates_it() -> None:
    """A DataLoader makes the batches that batch() makes."""
    ds = make()
    (inputs, targets), _ = DataLoader(ds, batch_size=4)
    assert torch.equal(inputs, ds.inputs[:4])
    assert torch.equal(targets, ds.targets[:4])


def test_arrays_and_lists_are_taken() -> None:
    """Arrays without a channel dimension, read-only or reversed ones too, and a list of labels."""
    array = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    array.flags.writeable = False
    ds = data.Images(array[::-1], [1, 0])
    assert ds.images.shape == (2, 1, 3, 3)
    assert ds.images[1, 0, 0].tolist() == [0, 1, 2]
    assert data.Images(array, np.array([1, 0], dtype=np.uint8)).targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("ds", "text"),
    [
        (make, "Images(6 x 1x4x5, 3 classes, 'made')"),
        (lambda: data.Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 9]), "Images(2 x 3x4x4)"),
    ],
    ids=["named", "bare"],
)
def test_repr_says_what_it_holds(ds: Callable[[], data.Images], text: str) -> None:
    """Number, shape, classes and name, as far as there are any."""
    assert repr(ds()) == text


def test_it_survives_pickling() -> None:
    """A data set can be sent to another process."""
    ds = make()
    copy = pickle.loads(pickle.dumps(ds))
    assert torch.equal(copy.images, ds.images)
    assert torch.equal(copy.targets, ds.targets)
    assert repr(copy) == repr(ds)


PIXELS = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "targets", "classes", "error", "message"),
    [
        (
            PIXELS.float(),
            [0, 1],
            (),
            TypeError,
            r"must be uint8 \(0 to 255\), got torch.float32; give others as a pair",
        ),
        (PIXELS[0, 0], [0, 1], (), ValueError, r"shape \(N, C, H, W\) or \(N, H, W\), got \(3, 3\)"),
        (PIXELS[..., :0], [0, 1], (), ValueError, r"images have no pixels: their shape is \(2, 1, 3, 0\)"),
        (PIXELS[:0], [0], (), ValueError, "got 0 images, but 1 targets; each image needs one"),
        ("abc", [0, 1], (), TypeError, "images must be a tensor or an array, got str"),
        (PIXELS, [0], (), ValueError, "got 2 images, but 1 targets; each image needs one"),
        (PIXELS, [0.5, 1.0], (), TypeError, "targets must be integer labels, got torch.float32"),
        (PIXELS, ["a", "b"], (), TypeError, "targets must be numbers: "),
        (PIXELS, np.array(["a", "b"]), (), TypeError, "targets must be numbers: "),
        (PIXELS, [[0], [1]], (), ValueError, r"targets must have shape \(N,\), got \(2, 1\)"),
        (PIXELS, [0, 2], ("a", "b"), ValueError, "hold the label 2; labels of this data are at least 0 and at most 1"),
        (PIXELS, [-1, 0], ("a", "b"), ValueError, "targets hold the label -1; labels of this data are at least 0"),
        (PIXELS, [-1, 0], (), ValueError, "targets hold the label -1; labels of this data are at least 0$"),
        (PIXELS, [0, 1], "ab", TypeError, "classes must be a sequence of names, got 'ab'"),
        (PIXELS, [0, 1], (0, 1), TypeError, r"classes must be a sequence of names, got \(0, 1\)"),
    ],
)
def test_bad_parts_are_named(images: Any, targets: Any, classes: Any, error: type[Exception], message: str) -> None:
    """What cannot be labelled images is refused with the reason."""
    with pytest.raises(error, match=message):
        data.Images(images, targets, classes)
