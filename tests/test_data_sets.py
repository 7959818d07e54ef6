"""The named data sets: found in any layout, checked by digest, downloaded, and the part inside the package."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import runpy
import shutil
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchbasics import data
from torchbasics.data import _idx, _sets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
needs_official_files = pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")


def idx(*shape: int) -> bytes:
    """Write an IDX file of ascending bytes."""
    count = int(torch.Size(shape).numel())
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(i % 10 for i in range(count))


CONTENTS = dict(zip(FILES, (idx(20, 4, 4), idx(20), idx(10, 4, 4), idx(10)), strict=True))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take four small files for the official ones, of both sets."""
    digests = tuple(hashlib.md5(content).hexdigest() for content in CONTENTS.values())
    for name in ("_FASHION_MNIST", "_MNIST"):
        monkeypatch.setattr(_sets, name, dataclasses.replace(getattr(_sets, name), digests=digests))
    monkeypatch.delenv("TORCHBASICS_DATA", raising=False)


def write(folder: Path, *, packed: bool = False, leave_out: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        if name != leave_out:
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


# -- where the files are looked for


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("load", "below"),
    [
        (data.fashion_mnist, "."),
        (data.fashion_mnist, "FashionMNIST/raw"),
        (data.fashion_mnist, "fashion-mnist"),
        (data.mnist, "."),
        (data.mnist, "MNIST/raw"),
    ],
)
def test_files_are_found_in_every_layout(
    load: Callable[..., tuple[data.Images, data.Images]], below: str, packed: bool, tmp_path: Path
) -> None:
    """Plain or packed, in torchvision's folder, Debian's or a flat one."""
    write(tmp_path / below, packed=packed)
    train, test = load(tmp_path, download=False)
    assert train.images.shape == (20, 1, 4, 4)
    assert test.targets.tolist() == list(range(10))
    assert (train.name, test.name) == (f"{load.__name__} train", f"{load.__name__} test")


@pytest.mark.usefixtures("tiny")
def test_the_environment_names_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TORCHBASICS_DATA is used where no root is given."""
    monkeypatch.setenv("TORCHBASICS_DATA", str(write(tmp_path)))
    assert len(data.fashion_mnist(download=False)[0]) == 20


@pytest.mark.usefixtures("tiny")
def test_without_a_root_the_users_cache_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither root nor TORCHBASICS_DATA it is ~/.cache/torchbasics; an empty variable counts as none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCHBASICS_DATA", "")
    write(tmp_path / ".cache/torchbasics/MNIST/raw")
    assert len(data.mnist(download=False)[0]) == 20


@pytest.mark.parametrize(
    ("load", "classes"),
    [
        (
            data.fashion_mnist,
            "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot",
        ),
        (data.mnist, "0 1 2 3 4 5 6 7 8 9"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_classes_have_their_names(
    load: Callable[..., tuple[data.Images, data.Images]], classes: str, tmp_path: Path
) -> None:
    """Label i means the i-th name of the data set's own list."""
    train, test = load(write(tmp_path), download=False)
    assert train.classes == test.classes == tuple(name.replace("_", " ") for name in classes.split())


# -- what is wrong with them


@pytest.mark.usefixtures("tiny")
def test_a_folder_without_the_files_is_named_with_what_is_missing(tmp_path: Path) -> None:
    """The folder, the missing files, the places looked in and the way out."""
    write(tmp_path, leave_out="t10k-labels-idx1-ubyte")
    message = (
        r"' lacks files of Fashion-MNIST, plain or .gz: t10k-labels-idx1-ubyte \(looked in 'FashionMNIST/raw', "
        r"'fashion-mnist', '.' there\); name the folder that has them \(root=, --root\), or let download=True"
    )
    with pytest.raises(FileNotFoundError, match=message) as caught:
        data.fashion_mnist(tmp_path, download=False)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.usefixtures("tiny")
def test_a_missing_torchvision_says_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a download needs torchvision."""
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r"torchvision is not installed; pip install 'torchbasics\[vision\]'"):
        data.fashion_mnist(tmp_path)


@pytest.mark.usefixtures("tiny")
def test_download_must_be_a_flag(tmp_path: Path) -> None:
    """download="no" is an error even where nothing is to be downloaded."""
    with pytest.raises(TypeError, match="download must be True or False, got 'no'"):
        data.mnist(write(tmp_path), download="no")  # type: ignore[arg-type]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_an_altered_file_is_refused_with_both_digests(tmp_path: Path, packed: bool) -> None:
    """One changed pixel is found, in a plain file and in one that was packed again."""
    write(tmp_path)
    name = FILES[2]
    altered = bytearray(CONTENTS[name])
    altered[100] ^= 1
    (tmp_path / name).unlink()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(altered) if packed else altered)
    got, expected = (hashlib.md5(content).hexdigest() for content in (altered, CONTENTS[name]))
    message = (
        f"is not the file of MNIST: the MD5 of its content is '{got}', expected '{expected}'; replace it by a fresh"
    )
    with pytest.raises(ValueError, match=message) as caught:
        data.mnist(tmp_path, download=False)
    assert str(path) in str(caught.value)


def test_the_wrong_data_set_is_refused(tmp_path: Path) -> None:
    """Other files under the official names are not taken for the official ones."""
    with pytest.raises(ValueError, match="is not the file of Fashion-MNIST"):
        data.fashion_mnist(write(tmp_path), download=False)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_gz_is_refused(tmp_path: Path, share: float) -> None:
    """Cut anywhere, the file is named as damaged, with the reason and the way out."""
    write(tmp_path, packed=True)
    path = tmp_path / f"{FILES[0]}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    reason = "is damaged .compressed file ended.*; replace it by a fresh copy" if share else "is not an IDX file"
    with pytest.raises(ValueError, match=reason):
        data.mnist(tmp_path, download=False)


@pytest.mark.parametrize("at", [0, 5, 14, -8])
def test_a_damaged_gz_is_refused(tmp_path: Path, at: int) -> None:
    """A changed byte in the header, the data or the checksum is found; where packing forgives it, the content is whole."""
    packed = bytearray(gzip.compress(CONTENTS[FILES[0]], mtime=0))
    packed[at] ^= 0xFF
    path = tmp_path / "images.gz"
    path.write_bytes(packed)
    if at == 5:  # the time of packing: not part of the content
        assert _idx.read_bytes(path) == CONTENTS[FILES[0]]
        return
    with pytest.raises(ValueError, match=r"images.gz' is damaged \(.+\); replace it by a fresh copy"):
        _idx.read_bytes(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "'x' is not an IDX file: it begins with b''; expected two zero bytes"),
        (b"<html>", "'x' is not an IDX file: it begins with b'<htm'"),
        (b"\0\0\x08\0", "'x' is not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "'x' holds IDX type 0x0d; only unsigned bytes, 0x08, are read"),
        (b"\0\0\x08\x03\0\0\0\x01", "'x' is truncated: its header needs 16 bytes, it has 8"),
        (b"\0\0\x08\x01\0\0\0\0", r"'x' is empty: its shape is \(0,\)"),
        (b"\0\0\x08\x01\0\0\0\x03ab", r"'x' has 10 bytes, but its shape \(3,\) needs 11"),
        (b"\0\0\x08\x01\0\0\0\x01ab", r"'x' has 10 bytes, but its shape \(1,\) needs 9"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"'x' has 16 bytes, but its shape \(4294967295, "),
    ],
    ids=["empty-file", "html", "no-dimensions", "float", "header", "no-values", "short", "long", "huge"],
)
def test_what_is_not_exactly_idx_is_refused(content: bytes, message: str) -> None:
    """Each deviation from the format is named."""
    with pytest.raises(ValueError, match=message):
        _idx.parse(bytearray(content), Path("x"))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_idx_of_any_shape_is_read(shape: list[int]) -> None:
    """Shape and values come back, for any number of dimensions."""
    tensor = _idx.parse(bytearray(idx(*shape)), Path("x"))
    assert tensor.shape == tuple(shape)
    assert tensor.flatten().tolist() == [i % 10 for i in range(tensor.numel())]


@given(st.binary(max_size=40))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    """Any bytes are read as IDX or refused with a ValueError."""
    try:
        _idx.parse(bytearray(content), Path("x"))
    except ValueError as e:
        assert str(e).startswith("'x' ")  # noqa: PT017  # either outcome is right


# -- the download


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Serve a folder on this machine: the folder, and its address."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def mirrored(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make torchvision download the small files from this machine; the folder that is served."""
    folder, address = server
    torchvision = pytest.importorskip("torchvision")
    write(folder, packed=True)
    resources = [(f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()) for name in FILES]
    for source in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(source, "mirrors", [address])
        monkeypatch.setattr(source, "resources", resources)
    return folder


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("load", [data.fashion_mnist, data.mnist])
def test_missing_files_are_downloaded_once(
    load: Callable[..., tuple[data.Images, data.Images]], mirrored: Path, tmp_path: Path
) -> None:
    """What the folder lacks is fetched into it; the second time it is there."""
    train, _ = load(tmp_path / "root")
    assert len(train) == 20
    shutil.rmtree(mirrored)
    again, _ = load(tmp_path / "root", download=False)
    assert torch.equal(again.images, train.images)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("failure", ["urlopen error", "corrupted"])
def test_a_failed_download_says_why_and_what_else(
    failure: str, mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder, the files, the download's own error and the way out, in one line."""
    torchvision = pytest.importorskip("torchvision")
    (mirrored / f"{FILES[0]}.gz").write_bytes(gzip.compress(b"something else"))
    message = (
        "root' lacks files of MNIST, plain or .gz: train-images-idx3-ubyte, .*, and torchvision could not download "
        rf"them \(.*{failure}.*\); name the folder that has them"
    )
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        if failure == "urlopen error":
            monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{deaf.getsockname()[1]}/"])
        with pytest.raises(FileNotFoundError, match=message) as caught:
            data.mnist(tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "root").exists() == (failure == "corrupted")  # what was downloaded stays, empty folders do not


@pytest.mark.usefixtures("tiny")
def test_a_failed_download_leaves_the_users_own_folder(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was there before stays, as empty as it was."""
    torchvision = pytest.importorskip("torchvision")
    (tmp_path / "root").mkdir()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:1/"])
    with pytest.raises(FileNotFoundError, match="torchvision could not download them"):
        data.mnist(tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


# -- the official files


def published(path: Path, time: int) -> bytes:
    """Return Debian's .gz file with the name and the time of packing in its header, as its authors packed it."""
    packed = path.read_bytes()
    name = path.name.removesuffix(".gz").encode() + b"\0"
    return packed[:3] + b"\x08" + struct.pack("<I", time) + packed[8:10] + name + packed[10:]


@needs_official_files
def test_official_files_have_the_published_digests(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed as published, the content that is checked here has the MD5s that torchvision checks: it downloads them."""
    folder, address = server
    torchvision = pytest.importorskip("torchvision")
    for name in FILES:
        time = 1504176606 if name.startswith("train") else 1504176627  # 31 August 2017
        (folder / f"{name}.gz").write_bytes(published(DEBIAN / f"{name}.gz", time))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [address])
    train, test = data.fashion_mnist(tmp_path / "root")
    assert (len(train), len(test)) == (60_000, 10_000)
    expected = torchvision.datasets.FashionMNIST(tmp_path / "root")
    assert torch.equal(train.images.squeeze(1), expected.data)
    assert torch.equal(train.targets, expected.targets)
    assert train.classes == tuple(expected.classes)


@needs_official_files
def test_the_script_makes_the_images_in_the_package(tmp_path: Path) -> None:
    """From the official files it writes what the package holds, with no name and no time in it."""
    script = Path(__file__).parents[1] / "scripts" / "make_mini.py"
    runpy.run_path(str(script))["main"]([str(DEBIAN), "--out", str(tmp_path)])
    for name in FILES:
        made, packaged = (folder / f"{name}.gz" for folder in (tmp_path, Path(_sets.__file__).with_name("mini")))
        assert made.read_bytes()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
        # Another zlib may pack otherwise, so that it is the content that is compared.
        assert gzip.decompress(made.read_bytes()) == gzip.decompress(packaged.read_bytes())


@needs_official_files
def test_the_mini_set_is_the_first_of_each_class_in_order() -> None:
    """Going through the official files, the first 500 and 100 of each class are the mini set, one after the other."""
    for whole, mini, count in zip(data.fashion_mnist(DEBIAN), data.fashion_mnist_mini(), (500, 100), strict=True):
        taken = [0] * 10
        chosen = []
        for i, label in enumerate(whole.targets.tolist()):
            if taken[label] < count:
                taken[label] += 1
                chosen.append(i)
        assert torch.equal(whole.images[chosen], mini.images)
        assert torch.equal(whole.targets[chosen], mini.targets)
        assert whole.classes == mini.classes


# -- the part inside the package


def test_the_mini_set_is_balanced_and_small() -> None:
    """5,000 and 1,000 images, 500 and 100 of each class, in at most 3 MB, with their licence."""
    train, test = data.fashion_mnist_mini()
    assert repr(train) == "Images(5000 x 1x28x28, 10 classes, 'fashion_mnist_mini train')"
    assert train.targets.bincount().tolist() == [500] * 10
    assert test.targets.bincount().tolist() == [100] * 10
    folder = Path(_sets.__file__).with_name("mini")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000_000
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert "Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence
