"""Image files: one picture, and a folder of them for each class."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchbasics import data

if TYPE_CHECKING:
    from pathlib import Path


def save(
    path: Path, size: tuple[int, int] = (4, 3), color: Any = (200, 100, 50), mode: str = "RGB", **how: Any
) -> Path:
    """Write a picture of one colour; *size* is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **how)
    return path


def pixel(image: torch.Tensor) -> list[int]:
    return [int(value) for value in image[:, 0, 0]]


# -- one picture


def test_values_are_those_in_the_file(tmp_path: Path) -> None:
    """A PNG comes back value by value, (C, H, W)."""
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = data.read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(values).permute(2, 0, 1))


def test_jpeg_is_read(tmp_path: Path) -> None:
    """JPEG keeps colours nearly."""
    image = data.read_image(str(save(tmp_path / "a.jpg", quality=95)))
    assert image.shape == (3, 3, 4)
    assert pixel(image) == pytest.approx([200, 100, 50], abs=3)  # what JPEG's quantisation loses


@pytest.mark.parametrize(
    ("mode", "color", "channels", "expected"),
    [
        ("RGB", (200, 100, 50), 3, [200, 100, 50]),
        ("RGB", (200, 100, 50), 1, [124]),  # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
        ("L", 77, 3, [77, 77, 77]),
        ("L", 77, 1, [77]),
        ("1", 1, 1, [255]),
        ("P", 0, 3, [0, 0, 0]),
        ("RGBA", (200, 100, 50, 255), 3, [200, 100, 50]),
        ("RGBA", (0, 0, 0, 0), 3, [255, 255, 255]),
        ("LA", (0, 0), 1, [255]),
    ],
)
def test_every_mode_becomes_grey_or_colour(
    mode: str, color: Any, channels: Any, expected: list[int], tmp_path: Path
) -> None:
    """Grey, colour, palette and bitmap images become what is asked for; what is transparent is white."""
    image = data.read_image(save(tmp_path / "a.png", mode=mode, color=color), channels=channels)
    assert image.shape == (channels, 3, 4)
    assert pixel(image) == expected


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    """A palette image says by its header which entry is transparent."""
    image = data.read_image(save(tmp_path / "a.png", mode="P", color=0, transparency=0))
    assert pixel(image) == [255, 255, 255]


def test_size_is_height_and_width(tmp_path: Path) -> None:
    """Any picture is scaled to the size asked for."""
    assert data.read_image(save(tmp_path / "a.png", (40, 30)), size=(6, 8)).shape == (3, 6, 8)


def test_invert_swaps_dark_and_bright(tmp_path: Path) -> None:
    """Each value v becomes 255 - v."""
    path = save(tmp_path / "a.png")
    assert torch.equal(data.read_image(path, invert=True), 255 - data.read_image(path))


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    """The EXIF tag that a camera held on its side writes is obeyed."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    assert data.read_image(save(tmp_path / "a.jpg", (4, 3), exif=exif)).shape == (3, 4, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channels": 2}, ValueError, r"channels must be 1 \(grey\) or 3 \(colour\), got 2"),
        ({"size": 28}, TypeError, r"size must be \(height, width\), got 28"),
        ({"size": (28, 0)}, ValueError, r"size\[1\] must be at least 1, got 0"),
        ({"invert": 1}, TypeError, "invert must be True or False, got 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    """An option out of range is refused with its value."""
    with pytest.raises(error, match=message):
        data.read_image(save(tmp_path / "a.png"), **options)


@pytest.mark.parametrize("name", ["none.png", "."])
def test_no_file_is_named(name: str, tmp_path: Path) -> None:
    """A path that leads nowhere, or to a folder."""
    with pytest.raises(FileNotFoundError, match="is not a file; expected a PNG or JPEG image"):
        data.read_image(tmp_path / name)


def test_a_text_file_is_no_image(tmp_path: Path) -> None:
    """The ending does not make an image."""
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(
        ValueError, match=r"a.png' cannot be read as a PNG or JPEG image \(its content is of another kind"
    ):
        data.read_image(tmp_path / "a.png")


def test_an_empty_file_is_no_image(tmp_path: Path) -> None:
    """A copy that has stopped is often empty."""
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"a.png' cannot be read as a PNG or JPEG image \(it is empty\)"):
        data.read_image(tmp_path / "a.png")


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    """An image whose values do not fit into 8 bits is not cut down in silence."""
    Image.fromarray(np.full((3, 4), 40_000, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png' has more than 8 bits a channel \(mode 'I(;16)?'\); save it with 8"):
        data.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_damaged_picture_is_an_image_or_a_value_error(suffix: str, tmp_path: Path) -> None:
    """Whatever bytes are changed or cut off, no other error comes out of the decoder."""
    whole = save(tmp_path / f"a.{suffix}", (16, 16)).read_bytes()
    draw = random.Random(0)
    path = tmp_path / f"b.{suffix}"
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.3 else whole)
        for _ in range(draw.randrange(1, 4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            assert data.read_image(path, size=(4, 4)).shape == (3, 4, 4)
        except ValueError as e:
            assert str(path) in str(e)  # noqa: PT017  # either outcome is right
            refused += 1
    assert refused > 30


# -- a folder for each class


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Classes and files are sorted; hidden files and files beside the folders are left out."""
    save(tmp_path / "b" / "2.png", color=(2, 0, 0))
    save(tmp_path / "b" / "1.png", color=(1, 0, 0))
    save(tmp_path / "a" / "1.jpg", color=(0, 0, 0))
    (tmp_path / "a" / ".DS_Store").write_text("")
    (tmp_path / "README").write_text("")
    ds = data.images(tmp_path)
    assert ds.classes == ("a", "b")
    assert ds.targets.tolist() == [0, 1, 1]
    assert ds.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert repr(ds) == f"Images(3 x 3x3x4, 2 classes, {tmp_path.name!r})"


def test_size_and_channels_are_those_asked_for(tmp_path: Path) -> None:
    """Pictures of different sizes become one tensor with size=."""
    save(tmp_path / "a" / "1.png", (10, 20))
    save(tmp_path / "a" / "2.png", (30, 20))
    assert data.images(tmp_path, size=(8, 9), channels=1).images.shape == (2, 1, 8, 9)


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    """The first picture that differs is named, with both sizes and the way out."""
    save(tmp_path / "a" / "1.png", (10, 20))
    save(tmp_path / "b" / "2.png", (30, 20))
    with pytest.raises(ValueError, match=r"2.png' has 20x30 pixels, but those before it 20x10; give size=\(H, W\)"):
        data.images(tmp_path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    """A stray file in a class folder is an error, not a missing sample."""
    save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes.txt' cannot be read as a PNG or JPEG image"):
        data.images(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    """A class without images is an error."""
    save(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"the class folder '.*b' is empty; put images there, or remove it"):
        data.images(tmp_path)


def test_a_folder_without_classes_is_named(tmp_path: Path) -> None:
    """Images that lie in no class folder have no label."""
    save(tmp_path / "1.png")
    with pytest.raises(FileNotFoundError, match="holds no folders; expected one for each class, with images inside"):
        data.images(tmp_path)


def test_no_folder_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere."""
    with pytest.raises(
        FileNotFoundError, match="none' is not a folder; expected one that holds a folder for each class"
    ):
        data.images(tmp_path / "none")
