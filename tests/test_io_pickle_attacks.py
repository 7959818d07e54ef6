"""Files of ``torch.save`` that somebody made to do harm, and damaged ones: refused in time, in memory, and in words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from tests import pickles as p
from torchbasics import _pickles, hub, io
from torchbasics.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = Path(__file__).parent / "fixtures" / "torch16"
FOUR = bytes(range(16))  # the storage of four float32
HUGE = 10**12


class Labelled(torch.Tensor):
    """A subclass."""


def _saved(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def _zip(body: bytes, *storages: bytes) -> Callable[[Path], object]:
    return lambda path: p.write_zip(path, body, {str(i): content for i, content in enumerate(storages)})


def _legacy(body: bytes, *storages: bytes) -> Callable[[Path], object]:
    return lambda path: p.write_legacy(path, body, {str(i): content for i, content in enumerate(storages)})


def _members(*members: tuple[str, bytes]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(name, content)

    return write


def _changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """A sound file whose bytes are changed."""

    def write(path: Path) -> None:
        p.write_zip(path, p.dictionary(a=p.tensor(4, (4,), (1,))), {"0": FOUR})
        path.write_bytes(change(path.read_bytes()))

    return write


def _deflated(path: Path) -> None:
    body = p.dictionary(a=p.tensor(25_000_000, (25_000_000,), (1,)))
    p.write_zip(path, body, {"0": bytes(100_000_000)}, compression=zipfile.ZIP_DEFLATED)


def _shared_members(path: Path) -> None:
    """Two entries of the table of contents for one and the same part of the file (Fifield, 2019)."""
    body = p.dictionary(a=p.tensor(4, (4,), (1,)), b=p.tensor(4, (4,), (1,), stored=p.storage(4, "1")))
    p.write_zip(path, body, {"0": FOUR, "1": FOUR})
    content = path.read_bytes()
    entries = [found.start() for found in re.finditer(b"PK\\x01\\x02", content)]
    first, second = entries[1], entries[2]
    path.write_bytes(content[: second + 42] + content[first + 42 : first + 46] + content[second + 46 :])


def _quantized() -> object:
    return {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}


def _attributed() -> object:
    tensor = torch.ones(2)
    tensor.note = "text"  # type: ignore[attr-defined]
    return {"a": tensor}


VECTOR = p.tensor(4, (4,), (1,))
WIDE = p.tensor(1024, (1024,), (1,))
DEEP = p.web(60)  # 2**60 when walked
WEB = p.web(24)  # in words, 80 MB
COLLIDING = [i * (2**61 - 1) for i in range(1, 60_000)]  # whose hashes are all 0
ITEMS = [b"M" + i.to_bytes(2, "little") + b"N" for i in range(8000)]  # a number and None
ORDERED = b"ccollections\nOrderedDict\n"
# Pickles of 100 kB whose objects take some megabytes, or would.
FULL = {
    "dicts": b"}" * 100_000,
    "lists": b"]" * 100_000,
    "marks": b"(" * 100_000,
    "tuples": b"N" + b"\x85" * 100_000,
    "ordered": ORDERED + b"q\x000" + b"h\x00)R" * 25_000,
    "filled dicts": b"".join(b"}K%cK\x01s" % (i % 250) for i in range(17_000)),
    "memo": b"N" + b"".join(b"r" + i.to_bytes(4, "little") for i in range(20_000)),
    "memoized": b"\x8c\x01a" + b"\x94" * 100_000,
    "names": b"".join(f"c{i:x}\n{i:x}\n".encode() for i in range(10_000)),
    "texts": b"".join(p.text(f"{i:x}") for i in range(10_000)),
    "floats": b"G12345678" * 11_000,
    "copied lists": b"](]("
    + b"\x86".join(ITEMS)
    + b"\x86eq\x00"
    + ORDERED
    + b"q\x01"
    + b"h\x01h\x00\x85R" * 9000
    + b"e",
    "copied dicts": b"](}("
    + b"".join(ITEMS)
    + b"uq\x00"
    + p.name("collections.Counter")
    + b"q\x01"
    + b"h\x01h\x00\x85R" * 9000
    + b"e",
    "copied sizes": b"](("
    + b"K\x01" * 30_000
    + b"tq\x00"
    + p.name("torch.Size")
    + b"q\x01"
    + b"h\x01h\x00\x85R" * 9000
    + b"e",
    "storages": b"](" + p.storage(4)[:-1] + b"q\x01Q" + b"h\x01Q" * 33_000 + b"e",
    "long shapes": b"]("
    + p.name("torch._utils._rebuild_tensor_v2")
    + b"q\x00("
    + p.storage(4)
    + b"K\x00("
    + b"K\x01" * 30_000
    + b"tq\x01h\x01\x89"
    + p.call("collections.OrderedDict")
    + b"tq\x02"
    + b"h\x00h\x02R" * 9000
    + b"e",
}

ATTACKS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # Code
    "system": (_zip(p.call("posix.system", p.text("true"))), "unsafe", "asks to run posix.system, which"),
    "system, legacy": (_legacy(p.call("os.system", p.text("true"))), "unsafe", "asks to run os.system, which"),
    "raw pickle": (lambda path: path.write_bytes(b"cos\nsystem\n(S'true'\ntR."), "unsafe", "asks to run os.system"),
    "stack global": (
        lambda path: path.write_bytes(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04true\x85R."),
        "unsafe",
        "asks to run os.system",
    ),
    "behind other opcodes": (_zip(b"\x95\0\0\0\0\0\0\0\0" + p.name("os.system")), "unsafe", "asks to run os.system"),
    "model and system": (
        _zip(b"(" + b"".join(map(p.text, ("_parameters", "_buffers", "_modules"))) + p.name("os.system") + b"t"),
        "unsafe",
        "asks to run os.system",
    ),
    "control characters": (_zip(b"cos\x1b[2J\nsystem\n"), "unsafe", r"asks to run os\\x1b\[2J.system"),
    "object": (_zip(p.name("collections.OrderedDict") + b")\x81"), "unsafe", "makes an object of"),
    "uninitialised": (_zip(p.name("torch.device") + b")\x81"), "unsafe", "makes an object of 'torch.device'"),
    # Memory and time
    "deflate bomb": (_deflated, "unsafe", "holds the compressed part '.*'; torch.save compresses nothing"),
    "shared members": (_shared_members, "damaged", "is damaged: its zip archive cannot be read"),
    "stride 0": (_zip(p.dictionary(a=p.tensor(4, (HUGE,), (0,))), FOUR), "unsafe", "'a', .* elements share places"),
    "bytearray": (_zip(p.call("builtins.bytearray", p.number(2**26))), "unsafe", "asks to run builtins.bytearray"),
    "made storage": (_zip(p.call("torch.FloatStorage", p.number(10**9))), "unsafe", "asks to run torch.FloatStorage"),
    "untyped storage": (
        _zip(p.call("torch.storage.UntypedStorage", p.number(10**9))), "unsafe", "asks to run .*UntypedStorage"
    ),
    "made tensor": (_zip(p.call("torch.Tensor", p.number(10**9))), "unsafe", "asks to run torch.Tensor"),
    "meta": (_saved({"a": torch.ones(10**9, device="meta")}), "unsafe", "'a', .* but without values"),
    "object of a web": (_zip(WEB + b")\x81"), "unsafe", "makes an object of tuple, which"),
    "web as protocol": (
        lambda path: path.write_bytes(p.MAGIC + p.stream(WEB) + p.stream(b"}")), "unsupported", "format tuple of dict; 1001"
    ),
    "web as system": (
        lambda path: path.write_bytes(p.MAGIC + p.stream(b"M\xe9\x03") + p.stream(WEB)), "unsupported", "1001 of tuple; 1001"
    ),
    "name as protocol": (
        lambda path: path.write_bytes(p.MAGIC + p.stream(b"c\x1b[2J\n" + b"a" * 10**6 + b"\n")), "unsafe", r"run \\x1b\[2J"
    ),
    "colliding keys": (
        _zip(b"}(" + b"".join(p.number(key) + b"N" for key in COLLIDING) + b"u"), "damaged", "it has the key 2305843009213693951"
    ),
    "large keys": (
        _zip(b"}(" + b"".join(p.number(i << 20) + b"N" for i in range(2000)) + b"u"), "damaged", "it has the key 1048576000"
    ),
    "large memo": (_zip(b"Nr\0\0\0\1"), "damaged", "it does not number its objects in order"),
    "key to hash": (_zip(b"}" + DEEP + b"K\x01s"), "damaged", "it sets an item of dict by tuple"),
    "many names": (
        _zip(p.dictionary(**{str(i): WIDE + b"q\x00" if not i else b"h\x00" for i in range(999)}), bytes(4096)),
        "unsafe",
        "has far more values under its names than in the file",
    ),
    "legacy, huge storage": (
        _legacy(p.dictionary(a=p.tensor(HUGE, (HUGE,), (1,), legacy=True)), FOUR), "truncated", "storage 0 ends .* after"
    ),
    **{f"full of {name}": (_zip(body), "", "") for name, body in FULL.items()},
    **{f"full of {name}, legacy": (_legacy(body), "", "") for name, body in FULL.items()},
    # Tensors that are not plain and dense
    "overlapping": (_zip(p.dictionary(a=p.tensor(4, (3, 2), (1, 1))), FOUR), "unsafe", "'a', .* share places"),
    "beyond": (_zip(p.dictionary(a=p.tensor(4, (5,), (1,))), FOUR), "unsafe", "'a', .* reaches beyond its storage"),
    "offset": (_zip(p.dictionary(a=p.tensor(4, (4,), (1,), 1)), FOUR), "unsafe", "'a', .* beyond its storage"),
    "negative": (_zip(p.dictionary(a=p.tensor(4, (-4,), (1,))), FOUR), "unsafe", "'a', .* impossible shape"),
    "dimensions": (_zip(p.dictionary(a=p.tensor(4, (1,) * 65, (1,) * 65)), FOUR), "unsafe", "impossible shape"),
    "many and none": (_zip(p.dictionary(a=p.tensor(4, (2**62, 0), (1, 1))), FOUR), "unsafe", "impossible shape"),
    "sparse": (_saved({"a": torch.ones(2, 2).to_sparse()}), "unsafe", "'a', .* but sparse"),
    "quantized": (lambda path: torch.save(_quantized(), path), "unsafe", "values of torch.QInt8Storage"),
    "attributes": (_saved(_attributed()), "unsafe", "'a', .* a subclass or with attributes"),
    "subclass": (_saved({"a": torch.ones(2).as_subclass(Labelled)}), "unsafe", "asks to run .*Labelled"),
    "nested": (_saved({"net": {"a": torch.ones(1).expand(9)}}), "unsafe", "holds 'a', which is no plain dense tensor"),
    # Storages
    "short storage": (_zip(p.dictionary(a=VECTOR), FOUR[:8]), "damaged", "storages are not those of its tensors"),
    "long storage": (_zip(p.dictionary(a=VECTOR), FOUR * 2), "damaged", "storages are not those of its tensors"),
    "no storage": (_zip(p.dictionary(a=VECTOR)), "damaged", "storages are not those of its tensors"),
    "hidden storage": (_zip(p.dictionary(a=VECTOR), FOUR, b"hidden"), "damaged", "storages are not those"),
    "two ways": (
        _zip(p.dictionary(a=VECTOR, b=p.tensor(8, (8,), (1,))), FOUR), "damaged", "storage '0' is told in two ways"
    ),
    "legacy, count": (
        lambda path: p.write_legacy(path, p.dictionary(a=p.tensor(4, (4,), (1,), legacy=True)), {"0": FOUR}, 8),
        "damaged",
        "the storage 0 has not the 4 elements of its tensors",
    ),
    # Objects that are not what they seem
    "items": (_zip(p.call("collections.OrderedDict") + p.dictionary(items=b"K\x05") + b"b"), "unsafe", "sets attributes"),
    "set in a list": (_zip(b"]K\x01K\x01s"), "damaged", "it sets an item of list"),
    "append to a dict": (_zip(b"}K\x01a"), "damaged", "it appends to dict"),
    "values": (_zip(p.dictionary(a=b"K\x05")), "unsupported", "holds no state_dict: 'a' is int"),
    "itself": (_zip(b"]q\x00h\x00a"), "unsupported", "holds list, not a state_dict"),
    "hooks": (
        _zip(p.dictionary(a=p.tensor(4, (4,), (1,), hooks=p.call("collections.OrderedDict") + b"K\x01K\x01s")), FOUR),
        "unsafe",
        "holds a tensor with hooks",
    ),
    # Archives
    "trailing": (_changed(lambda content: content + b"x"), "damaged", "does not end with the file"),
    "leading": (_changed(lambda content: b"PK\3\4" + content), "damaged", "cannot be read"),
    "between": (_changed(lambda content: content.replace(b"PK\1\2", b"junkPK\1\2", 1)), "damaged", "cannot be read"),
    "value flipped": (
        _changed(lambda content: content.replace(FOUR, FOUR[::-1])), "damaged", "the CRC of its part 'data/0'"
    ),
    "folder": (
        _changed(lambda content: re.sub(b"(?s)(PK\x01\x02.{34}).", rb"\1" + b"\x10", content)), "damaged", "as a folder"
    ),
    "comment": (_changed(lambda content: content[:-2] + b"\1\0x"), "damaged|truncated", "is "),
    "empty archive": (_members(), "not-a-checkpoint", "is no state_dict"),
    "no pickle": (_members(("a/version", b"3")), "not-a-checkpoint", "a zip archive without data.pkl"),
    "other archive": (_members(("a.txt", b"text")), "unsupported", "it holds the part 'a.txt'"),
    "up": (_members(("../data.pkl", b"}."), ("a/data.pkl", b"}.")), "unsupported", "it holds the part 'a/data.pkl'"),
    "absolute": (_members(("/etc/data.pkl", b"}.")), "unsupported", "it holds the part 'etc/data.pkl'"),
    "other case": (_members(("a/data.pkl", b"}."), ("a/DATA.PKL", b"}.")), "unsupported", "the part 'DATA.PKL'"),
    "long name": (_members(("a/" + "b" * 60_000, b"")), "unsupported", "it holds the part 'bbb"),
    "torchscript": (_members(("a/code/m.py", b""), ("a/data.pkl", b"}.")), "unsupported", "a TorchScript program"),
    "after the pickle": (_members(("a/data.pkl", b"\x80\x02}.}.")), "damaged", "something follows its pickle"),
    "legacy, trailing": (
        lambda path: path.write_bytes((OLD / "legacy/parameter.pkl").read_bytes() + b"x"), "damaged", "1 bytes follow"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of torch, about what it writes here
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(name: str, tmp_path: Path) -> None:
    """In time, with reason and words; inspect and the command refuse it too, or say that it would be."""
    write, reason, message = ATTACKS[name]
    path = tmp_path / "m.pt"
    write(path)
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    begin = time.process_time()
    with pytest.raises(io.CheckpointError, match=message) as caught:
        io.load_state(model, path)
    assert re.fullmatch(reason or ".+", caught.value.reason)
    assert torch.equal(model.weight, before)
    if caught.value.reason == "unsafe" and "far more" not in str(caught.value):
        assert io.inspect(path)["refused"] == str(caught.value)
        assert main(["inspect", str(path)]) == 2
    assert time.process_time() - begin < 15  # seconds, of one for the worst of them where coverage looks on
    assert len(str(caught.value)) < 1000 + len(str(path))


def test_torch_alone_would_take_some_of_them(tmp_path: Path) -> None:
    """Positive control: the guard of torch.load lets these pass, so it is the look before it that refuses them."""
    taken = ["stride 0", "bytearray", "items", "trailing", "attributes", "hidden storage", "values"]
    for name in taken:
        ATTACKS[name][0](tmp_path / "m.pt")
        torch.load(tmp_path / "m.pt", weights_only=True)


def test_a_sound_file_made_by_hand_is_read(tmp_path: Path) -> None:
    """Positive control of the attacks: without the harm in them, such files load."""
    p.write_zip(tmp_path / "m.pt", p.dictionary(a=VECTOR), {"0": FOUR})
    p.write_legacy(tmp_path / "old.pt", p.dictionary(a=p.tensor(4, (4,), (1,), legacy=True)), {"0": FOUR})
    for path in tmp_path.iterdir():
        assert _pickles.read_object(path)["a"].numpy().tobytes() == FOUR


def test_old_ways_of_telling_are_read(tmp_path: Path) -> None:
    """Tensors that were on a GPU come to the CPU; Python 2 told an OrderedDict as a list of pairs, and text as bytes."""
    gpu = VECTOR.replace(p.text("cpu"), p.text("cuda:0"))
    pairs = p.call("collections.OrderedDict", b"](](U\x01a" + gpu + b"ee")
    path = p.write_zip(tmp_path / "m.pt", pairs, {"0": FOUR})
    found = _pickles.read_object(path)
    assert list(found) == ["a"]
    assert found["a"].device.type == "cpu"
    assert found["a"].numpy().tobytes() == FOUR


MEASURE = """
import re, sys
from pathlib import Path
from torchbasics import _pickles, io
from torchbasics.cli import main
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
def look(path):
    try:
        _pickles.read_object(path)
    except io.CheckpointError:
        pass
load = look if sys.argv[1] == "look" else __import__("torch").load
look(sys.argv[2]); load(sys.argv[2]); before = peak()
for path in sys.argv[3:]:
    load(path)
    print(path.rpartition("/")[2], peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no such measure")
def test_a_bomb_takes_a_few_megabytes_at_most(tmp_path: Path) -> None:
    """Peak memory of a process grows by at most 16 MB over all bombs; torch alone takes 100 MB for one of them."""
    sound = p.write_zip(tmp_path / "sound", p.dictionary(a=VECTOR), {"0": FOUR})
    bombs = [
        "deflate bomb", "stride 0", "bytearray", "made storage", "made tensor", "untyped storage", "key to hash",
        "object of a web", "web as protocol", "web as system",
        "legacy, huge storage", *(f"full of {name}" for name in FULL), "full of ordered, legacy",
        "full of copied lists, legacy",
    ]  # fmt: skip
    for name in bombs:
        ATTACKS[name][0](tmp_path / name)
        assert (tmp_path / name).stat().st_size < 140_000

    def run(how: str, *names: str) -> list[int]:
        command = [sys.executable, "-c", MEASURE, how, str(sound), *(str(tmp_path / name) for name in names)]
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
        return [int(line.split()[-1]) for line in out.splitlines()]

    grown = run("look", *bombs)
    print(dict(zip(bombs, grown, strict=True)))  # MB, each the highest so far
    assert len(grown) == len(bombs)
    assert grown[-1] <= 16
    assert run("load", "deflate bomb")[-1] > 90


def test_a_storage_told_again_and_again_is_counted(tmp_path: Path) -> None:
    """Three bytes each, and a hundred in memory: 30 MB would take more than a gigabyte."""
    path = p.write_zip(tmp_path / "m.pt", FULL["storages"], {"0": FOUR})
    with pytest.raises(io.CheckpointError, match="would take far more memory than the file has bytes") as caught:
        io.load_state(nn.Linear(1, 1), path)
    assert caught.value.reason == "too-large"


SPARSE = pytest.mark.skipif(sys.platform != "linux", reason="a file of so many bytes takes as many")


def sparse(path: Path, begin: bytes, size: int) -> Path:
    """A file of zeros that takes no place on the disk."""
    path.write_bytes(begin)
    os.truncate(path, size)
    return path


@SPARSE
@pytest.mark.parametrize("begin", [b"", b"PK\3\4", p.MAGIC], ids=["zeros", "zip", "legacy"])
def test_a_huge_file_is_refused_before_it_is_read(
    begin: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terabyte takes no memory, wherever it is given."""
    path = sparse(tmp_path / "big.pth", begin, 2**40)
    calls: list[Callable[[], object]] = [
        lambda: io.load_state(nn.Linear(1, 1), path), lambda: io.inspect(path), lambda: hub.load_dcgan(path)
    ]  # fmt: skip
    tracemalloc.start()
    for call in calls:
        with pytest.raises(io.CheckpointError, match=r"has 1,099,511,627,776 bytes; at most [\d,]+ are read") as caught:
            call()
        assert caught.value.reason == "too-large"
    assert main(["convert", str(path), str(tmp_path / "o.safetensors")]) == 2
    assert "at most 68,719,476,736 are read here" in capsys.readouterr().err
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@SPARSE
def test_a_file_may_be_some_times_as_large_as_the_model(tmp_path: Path) -> None:
    """A file with storages that no model of that size has is not read by load_state; a larger model could want it."""
    path = sparse(tmp_path / "m.pt", b"PK\3\4", 2**28)
    with pytest.raises(io.CheckpointError, match="has 268,435,456 bytes; at most 134,217,856 are read here"):
        io.load_state(nn.Linear(1, 1), path)
    with pytest.raises(io.CheckpointError, match="is truncated"):
        io.load_state(nn.Linear(2000, 2000), path)


@SPARSE
def test_of_a_file_that_torch_did_not_write_the_beginning_is_read(tmp_path: Path) -> None:
    """It says what the file is not; the rest of these 8 GB would not say more."""
    path = sparse(tmp_path / "m.pt", b"", 2**33)
    tracemalloc.start()
    with pytest.raises(io.CheckpointError, match=r"torch\.save did not write it") as caught:
        io.inspect(path)
    assert caught.value.reason == "not-a-checkpoint"
    assert 32_000_000 < tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


LITTLE = """
import resource, sys
from torchbasics import io
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
try:
    io.inspect(sys.argv[1])
except io.CheckpointError as e:
    print(e.reason, str(e).partition(" has ")[2])
"""


@SPARSE
def test_a_file_larger_than_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file that is refused, not as an error of the program; so is one that takes more while it is looked at."""
    command = [sys.executable, "-c", LITTLE, str(sparse(tmp_path / "m.pt", b"PK\3\4", 2**34))]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    assert out == "too-large 17,179,869,184 bytes; there is no memory for them\n"
    p.write_zip(tmp_path / "m.pt", p.dictionary(a=VECTOR), {"0": FOUR})
    monkeypatch.setattr("torchbasics._pickles._scan.read_zip", lambda content: bytes(2**62))
    with pytest.raises(io.CheckpointError, match="takes more memory than there is"):
        io.load_state(nn.Linear(1, 1), tmp_path / "m.pt")
