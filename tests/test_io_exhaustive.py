"""Every way in which a saved file can be damaged: all tried, all refused."""

from __future__ import annotations

import itertools
import json
import random
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_io_refusals import seal_bytes, unsealed_bytes
from torchbasics import _safetensors, io, models

if TYPE_CHECKING:
    from collections.abc import Iterable


class Reader:
    """Tries files on `load`, `load_state` and `inspect`, and counts."""

    def __init__(self, path: Path) -> None:
        self.path, self.tried, self.accepted = path, 0, 0
        self.content = b""
        self.target = models.MLP(1, (), 2)
        self.before = [p.detach().clone() for p in self.target.parameters()]

    def refuses(self, contents: Iterable[bytes]) -> bool:
        """Tell whether every one of *contents* is refused by all three, and nothing has changed."""
        for content in contents:
            self.path.write_bytes(content)
            self.tried += 1
            self.accepted += self._accepts()
        unchanged = all(torch.equal(p, q) for p, q in zip(self.target.parameters(), self.before, strict=True))
        return unchanged and self.accepted == 0

    def _accepts(self) -> bool:
        accepted = False
        for load in (io.load, lambda path: io.load_state(self.target, path)):
            try:
                load(self.path)
            except io.CheckpointError:
                continue
            accepted = True
        try:
            return accepted or io.inspect(self.path)["intact"] is not False
        except io.CheckpointError:
            return accepted


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Return a reader with a small saved model at its path, two of whose tensors have one shape."""
    torch.manual_seed(1)
    reader = Reader(tmp_path / "m.safetensors")
    io.save(models.MLP(1, (), 2, bias=True), reader.path)
    return reader


def flipped(content: bytes, bits: Iterable[int]) -> Iterable[bytes]:
    for bit in bits:
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        yield bytes(altered)


@pytest.mark.slow
def test_every_flipped_bit_and_every_length_is_refused(reader: Reader) -> None:
    """All single bits, all truncations, and bytes at the end, by all three readers."""
    content = reader.path.read_bytes()
    assert reader.refuses(flipped(content, range(8 * len(content))))
    print(f"\n{reader.tried} single bits flipped, each refused by load and load_state, and seen by inspect")
    cut = reader.tried
    assert reader.refuses(content[:length] for length in range(len(content)))
    assert reader.refuses(content + bytes([byte]) * n for byte in range(256) for n in (1, 7, 8))
    print(f"{reader.tried - cut} truncations and appended bytes")


def test_some_flipped_bits_and_lengths_are_refused(reader: Reader) -> None:
    """A sample of the above, for every run; and each pair of swapped tensors, names and files."""
    content = reader.path.read_bytes()
    assert reader.refuses(flipped(content, range(0, 8 * len(content), 37)))
    assert reader.refuses(content[:length] for length in range(0, len(content), 29))


def test_spliced_tensors_are_refused(tmp_path: Path) -> None:
    """Bytes swapped between tensors, names swapped, one file's header with another's data; unswapped they load."""
    reader = Reader(tmp_path / "m.safetensors")
    source, other = models.MLP(2, (2, 2), 2), models.MLP(2, (2, 2), 2)
    reader.target = source
    reader.before = [p.detach().clone() for p in source.parameters()]
    io.save(other, reader.path)
    theirs = reader.path.read_bytes()
    io.save(source, reader.path)
    content = reader.path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:start]), content[start:]
    names = [name for name in header if name != "__metadata__"]
    spliced = [content[:start] + theirs[start:], theirs[:start] + data]
    for a, b in itertools.combinations(names, 2):
        if header[a]["shape"] != header[b]["shape"]:
            continue
        renamed = {**header, a: header[b], b: header[a]}
        spliced.append(unsealed_bytes(renamed, data))
        (a0, a1), (b0, b1) = sorted([header[a]["data_offsets"], header[b]["data_offsets"]])
        spliced.append(content[:start] + data[:a0] + data[b0:b1] + data[a1:b0] + data[a0:a1] + data[b1:])
    assert reader.refuses(spliced)
    print(f"\n{reader.tried} splices refused")
    assert not reader.refuses([content])  # positive control: it is the splicing that is refused


def test_without_the_digest_a_splice_is_accepted(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: nothing but the digest finds a flipped bit in the data."""
    content = reader.path.read_bytes()
    last = flipped(content, [8 * len(content) - 8])
    monkeypatch.setattr(_safetensors.File, "_holds", lambda self, leaves: len(list(leaves)) >= 0)
    assert not reader.refuses(last)


# Parts of headers: right, nearly right, and wrong.
NUMBERS: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 9), st.sampled_from([2**31, 2**48, 2**63, 2**64, True, 1.0, None, "1", []])
)
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from([*_safetensors.DTYPES, *_safetensors.OTHER_DTYPES, "F99", 3, None]),
            "shape": st.lists(NUMBERS, max_size=4),
            "data_offsets": st.lists(NUMBERS, max_size=3),
        }
    ),
    st.none(),
    st.integers(),
    st.lists(st.integers(), max_size=2),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.one_of(JSON, st.sampled_from([10**9, 2**62, -1, 10**400, "relu", [10**9], [1] * 3000]))
CONFIGS = st.dictionaries(st.sampled_from(["in_features", "hidden", "out_features", "bias", "init", "x"]), ARGUMENTS)
FIELDS = st.one_of(
    st.tuples(st.just("config"), CONFIGS.map(json.dumps)),
    st.tuples(st.sampled_from(["config", "history", "metadata"]), JSON.map(json.dumps)),
    st.tuples(st.sampled_from(_safetensors.FIELDS), st.text(max_size=20)),
    st.tuples(st.just("model"), st.sampled_from([*models.list_models(), "", "nothing"])),
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("entry"), st.tuples(st.sampled_from(["net.0.weight", "net.0.bias", "new"]), ENTRIES)),
        st.tuples(st.just("name"), st.tuples(st.sampled_from(["net.0.weight", "net.0.bias"]), st.text(max_size=6))),
        st.tuples(st.just("field"), FIELDS),
    ),
    min_size=1,
    max_size=3,
)
SETTINGS = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def altered(content: bytes, changes: list[Any], seal: bool) -> bytes:
    """Return the file with the changes made to its header; sealed, its digest holds where that can be."""
    start = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:start]), content[start:]
    for kind, (name, value) in changes:
        if kind == "entry":
            header[name] = value
        elif kind == "name" and name in header:
            header[value] = header.pop(name)
        elif kind == "field":
            header["__metadata__"][f"torchbasics.{name}"] = value
    try:
        return seal_bytes(header, data) if seal else unsealed_bytes(header, data)
    except (TypeError, ValueError, AttributeError, KeyError):
        return unsealed_bytes(header, data)


def tries(reader: Reader, content: bytes) -> None:
    """Let all three read *content*: an error that is no CheckpointError fails the test; so does much memory."""
    reader.path.write_bytes(content)
    longest = 0
    tracemalloc.start()
    try:
        for read in (io.load, io.inspect, lambda path: io.load_state(models.MLP(1, (), 2), path)):
            try:
                read(reader.path)
            except io.CheckpointError as e:
                longest = max(longest, len(str(e)))
        assert longest < 10_000
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@SETTINGS
@given(changes=CHANGES, seal=st.booleans())
def test_any_header_is_read_or_refused(reader: Reader, changes: list[Any], seal: bool) -> None:
    """Headers of right and wrong parts, with digests that hold: a model, or a CheckpointError, and nothing else."""
    if not reader.content:
        reader.content = reader.path.read_bytes()
    tries(reader, altered(reader.content, changes, seal))


@SETTINGS
@given(st.binary(max_size=300), st.integers(0, 120))
def test_any_bytes_are_read_or_refused(reader: Reader, raw: bytes, length: int) -> None:
    """Raw bytes, with and without a length that fits, are refused with a CheckpointError."""
    tries(reader, raw)
    tries(reader, length.to_bytes(8, "little") + b"{" + raw)


@pytest.mark.slow
def test_thousands_of_mutations_are_read_or_refused(reader: Reader) -> None:
    """Bytes of a right file set, inserted, deleted and doubled at random."""
    content, generator, executions = reader.path.read_bytes(), random.Random(0), 2000
    for _ in range(executions):
        made = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(made))
            piece = bytes(generator.randrange(256) for _ in range(generator.randint(0, 3)))
            made[at : at + generator.randint(0, 3)] = generator.choice([piece, made[at : at + 9], b'"', b"{", b"9" * 9])
        tries(reader, bytes(made))
    print(f"\n{executions} mutated files, no other error than CheckpointError")
