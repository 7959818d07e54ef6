"""Image files as data: one picture, or a folder of them for each class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from torchbasics import _checks
from torchbasics.data._images import Images

if TYPE_CHECKING:
    import os

    from PIL import Image
    from torch import Tensor

GIVE_SIZE = "give size=(H, W)"  # the way out of an error; the command line has another word for it


def images(
    folder: str | os.PathLike[str], *, size: tuple[int, int] | None = None, channels: Literal[1, 3] = 3
) -> Images:
    """Return the labelled images in *folder*: a folder for each class, named after it, with PNG and JPEG files inside.

    Classes and files come in the order of their names. Hidden files, and files beside the class folders, are left out.

    Args:
        folder: Its subfolders are the classes.
        size: (height, width) to scale every image to; None = all must have one size.
        channels: 3 = colour, 1 = grey.

    Raises:
        FileNotFoundError: *folder* is none, or has no class folders.
        ValueError: a class folder is empty, a file is not an image, or sizes differ; the message names it.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         Path(folder, name).mkdir()
    ...         Image.new("RGB", (40, 30)).save(Path(folder, name, "1.png"))
    ...     images(folder, size=(32, 32)).images.shape
    torch.Size([2, 3, 32, 32])
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{str(root)!r} is not a folder; expected one that holds a folder for each class")
    classes = [path for path in _visible(root) if path.is_dir()]
    if not classes:
        raise FileNotFoundError(f"{str(root)!r} holds no folders; expected one for each class, with images inside")
    tensors: list[Tensor] = []
    targets: list[int] = []
    for label, path in enumerate(classes):
        files = _visible(path)
        if not files:
            raise ValueError(f"the class folder {str(path)!r} is empty; put images there, or remove it")
        for file in files:
            tensors.append(read_image(file, size=size, channels=channels))
            targets.append(label)
            if tensors[-1].shape != tensors[0].shape:
                this, first = ("x".join(map(str, t.shape[1:])) for t in (tensors[-1], tensors[0]))
                raise ValueError(f"{str(file)!r} has {this} pixels, but those before it {first}; {GIVE_SIZE}")
    return Images(torch.stack(tensors), targets, [path.name for path in classes], name=root.name)


def read_image(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    channels: Literal[1, 3] = 3,
    invert: bool = False,
) -> Tensor:
    """Return the PNG or JPEG file *path* as a uint8 tensor (C, H, W).

    A photograph is turned upright as its EXIF tag says; what is transparent becomes white.

    Args:
        path: The file.
        size: (height, width) to scale it to, whatever its aspect ratio was; None = as it is.
        channels: 3 = colour, 1 = grey.
        invert: Whether to swap dark and bright, e.g. for a dark drawing on white paper.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image that can be read, or it has more than 8 bits a channel.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("L", (40, 30), "white").save(Path(folder, "page.png"))
    ...     read_image(Path(folder, "page.png"), channels=1, invert=True).max()
    tensor(0, dtype=torch.uint8)
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if channels not in {1, 3}:
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is not a file; expected a PNG or JPEG image")
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            image = ImageOps.exif_transpose(opened)
    except Exception as e:  # a decoder raises many kinds on damaged files
        reason = _reason(e) if path.stat().st_size else "it is empty"
        raise ValueError(f"{str(path)!r} cannot be read as a PNG or JPEG image ({reason})") from e
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{str(path)!r} has more than 8 bits a channel (mode {image.mode!r}); save it with 8")
    image = _opaque(image).convert("L" if channels == 1 else "RGB")
    if size is not None:
        height, width = _check_size(size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels).permute(2, 0, 1)
    return (255 - pixels if _checks.flag("invert", invert) else pixels).contiguous()  # (C, H, W)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    return (
        "its content is of another kind"
        if isinstance(error, UnidentifiedImageError)
        else str(error).lower().rstrip(".")
    )


def _opaque(image: Image.Image) -> Image.Image:
    from PIL import Image

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _check_size(size: object) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"size must be (height, width), got {size!r}")
    return _checks.positive_int("size[0]", size[0]), _checks.positive_int("size[1]", size[1])
