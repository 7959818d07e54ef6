"""The data sets that have a name: Fashion-MNIST, whole or in miniature, and MNIST."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchbasics import _checks
from torchbasics.data import _idx
from torchbasics.data._images import Images

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CACHE = "~/.cache/torchbasics"


@dataclass(frozen=True)
class _Set:
    """A data set of four IDX files: its names, and the MD5 of each file's content, unpacked, in the order of _FILES.

    It is the content that is compared, so that a file may be plain, or packed by anyone: the digests that the authors
    publish are those of the packed files, whose headers differ from Debian's.
    """

    name: str
    title: str
    torchvision: str  # its class there, and the name of its folder
    classes: tuple[str, ...]
    digests: tuple[str, str, str, str]

    @property
    def folders(self) -> tuple[str, str, str]:
        """Where the files may lie below the root: torchvision's place, Debian's, and the root itself."""
        return f"{self.torchvision}/raw", self.name.replace("_", "-"), "."


_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_FASHION_MNIST = _Set(
    "fashion_mnist",
    "Fashion-MNIST",
    "FashionMNIST",
    _FASHION_CLASSES,
    (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
)
_MNIST = _Set(
    "mnist",
    "MNIST",
    "MNIST",
    tuple("0123456789"),
    (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)
_MINI = _Set(
    "fashion_mnist_mini",
    "Fashion-MNIST mini",
    "",
    _FASHION_CLASSES,
    (
        "5ea348305eca07bfe76ed7f42143dabf",
        "a1647a8931db75920068476cfb1909a4",
        "c5442ce2f064c32bf3ec2983a505322f",
        "a00963b89d54a5ab6dc42b2b2c57c0e7",
    ),
)


def fashion_mnist(root: str | os.PathLike[str] | None = None, *, download: bool = True) -> tuple[Images, Images]:
    """Return Fashion-MNIST, (train, test): 60,000 and 10,000 images of clothes, 1x28x28, in 10 classes.

    The official files, plain or ``.gz``, are looked for below *root* where torchvision puts them
    (``root/FashionMNIST/raw``), in ``root/fashion-mnist`` and in *root* itself, such as
    ``/usr/share/datasets/fashion-mnist``, the folder that Debian's package dataset-fashion-mnist installs.
    Each is checked against its digest.

    Args:
        root: The folder; None = the environment variable ``TORCHBASICS_DATA``, else ``~/.cache/torchbasics``.
        download: Whether torchvision (the extra ``vision``) may download what is not there.

    Raises:
        FileNotFoundError: the files are not there, and may or can not be downloaded.
        ImportError: a download is needed, and torchvision is not installed.
        ValueError: a file is damaged, or not the official one.

    References: Han Xiao, Kashif Rasul, Roland Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", 2017, arXiv:1708.07747.

    >>> fashion_mnist("/usr/share/datasets")  # doctest: +SKIP
    (Images(60000 x 1x28x28, 10 classes, 'fashion_mnist train'), Images(10000 x 1x28x28, 10 classes, ...))
    """
    return _official(_FASHION_MNIST, root, download)


def mnist(root: str | os.PathLike[str] | None = None, *, download: bool = True) -> tuple[Images, Images]:
    """Return MNIST, (train, test): 60,000 and 10,000 handwritten digits, 1x28x28.

    Arguments, places and errors are those of `fashion_mnist`, with ``root/MNIST/raw`` and ``root/mnist``.

    References: Yann LeCun, Leon Bottou, Yoshua Bengio, Patrick Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE, 1998.

    >>> train, test = mnist("data")  # doctest: +SKIP
    >>> test  # doctest: +SKIP
    Images(10000 x 1x28x28, 10 classes, 'mnist test')
    """
    return _official(_MNIST, root, download)


def fashion_mnist_mini() -> tuple[Images, Images]:
    """Return a part of Fashion-MNIST that lies inside this package, (train, test): 5,000 and 1,000 images.

    They are the first 500 (train) and 100 (test) of each of the 10 classes, in the order of the official files. The
    images are copyright 2017 Zalando SE, under the MIT licence beside them (``torchbasics/data/mini/LICENSE``).

    References: Han Xiao, Kashif Rasul, Roland Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", 2017, arXiv:1708.07747.

    >>> train, test = fashion_mnist_mini()
    >>> test
    Images(1000 x 1x28x28, 10 classes, 'fashion_mnist_mini test')
    >>> test.targets.bincount().tolist()
    [100, 100, 100, 100, 100, 100, 100, 100, 100, 100]
    """
    folder = Path(__file__).with_name("mini")
    return _read(_MINI, [folder / f"{file}.gz" for file in _FILES])


def _official(source: _Set, root: str | os.PathLike[str] | None, download: bool) -> tuple[Images, Images]:
    _checks.flag("download", download)
    if root is None:
        root = os.environ.get("TORCHBASICS_DATA") or _CACHE
    folder = Path(root).expanduser()
    paths, missing = _find(source, folder)
    if missing and download:
        _download(source, folder, missing)
        paths, missing = _find(source, folder)
    if missing:
        raise FileNotFoundError(
            f"{_lacks(source, folder, missing)}; name the folder that has them (root=, --root), or let download=True"
        )
    return _read(source, paths)


def _find(source: _Set, root: Path) -> tuple[list[Path], list[str]]:
    """Return the paths of the files, and the names of those missing, for the folder that lacks the fewest."""
    found = []
    for folder in source.folders:
        pairs = [(root / folder / file, root / folder / f"{file}.gz") for file in _FILES]
        paths = [next((path for path in pair if path.is_file()), None) for pair in pairs]
        missing = [file for file, path in zip(_FILES, paths, strict=True) if path is None]
        found.append(([path for path in paths if path], missing))
    return min(found, key=lambda f: len(f[1]))


def _lacks(source: _Set, root: Path, missing: Sequence[str]) -> str:
    places = ", ".join(map(repr, source.folders))
    return f"{str(root)!r} lacks files of {source.title}, plain or .gz: {', '.join(missing)} (looked in {places} there)"


def _download(source: _Set, root: Path, missing: Sequence[str]) -> None:
    datasets = _checks.require("torchvision.datasets", "vision")
    raw = root / source.folders[0]
    made = [folder for folder in (raw, *raw.parents) if not folder.exists()]  # by torchvision, before it downloads
    try:
        getattr(datasets, source.torchvision)(root, download=True)
    except (RuntimeError, OSError) as e:  # torchvision's: a wrong digest or no mirror left; the system's: no network
        reason = " ".join(str(e).split())
        raise FileNotFoundError(
            f"{_lacks(source, root, missing)}, and torchvision could not download them ({reason}); "
            "name the folder that has them (root=, --root)"
        ) from e
    finally:
        with contextlib.suppress(OSError):  # a folder with something in it stays
            for folder in made:
                folder.rmdir()


def _read(source: _Set, paths: Sequence[Path]) -> tuple[Images, Images]:
    parts = []
    for path, digest in zip(paths, source.digests, strict=True):
        content = _idx.read_bytes(path)
        parts.append(_idx.parse(content, path))
        got = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if got != digest:
            raise ValueError(
                f"{str(path)!r} is not the file of {source.title}: the MD5 of its content is {got!r}, "
                f"expected {digest!r}; replace it by a fresh copy"
            )
    return (
        Images(parts[0], parts[1], source.classes, name=f"{source.name} train"),
        Images(parts[2], parts[3], source.classes, name=f"{source.name} test"),
    )
