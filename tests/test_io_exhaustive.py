"""Every way in which a saved file can be damaged: all tried, all refused."""

from __future__ import annotations

import itertools
import json
import random
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_io_refusals import seal_bytes, unsealed_bytes
from torchbasics import _safetensors, _zoo, io, models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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
ARGUMENTS = st.one_of(
    JSON,
    st.sampled_from([5, 10**9, 2**62, -1, 10**400, "relu", "lstm", "orthogonal", "x" * 10**5, [10**9], [1] * 3000]),
)
CONFIGS = st.dictionaries(st.sampled_from(["in_features", "hidden", "out_features", "bias", "init", "x"]), ARGUMENTS)
PARAMETERS = {name: _zoo.parameters(_zoo.entry(name).cls) for name in models.list_models()}
MODELS = st.sampled_from(models.list_models()).flatmap(
    lambda name: st.tuples(st.just(name), st.dictionaries(st.sampled_from(PARAMETERS[name]), ARGUMENTS, max_size=3))
)
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
    """Let all three read *content*: an error that is no CheckpointError fails the test; so does much time or memory."""
    reader.path.write_bytes(content)
    longest, most, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    tracemalloc.start()
    try:
        for read in (io.load, io.inspect, lambda path: io.load_state(models.MLP(1, (), 2), path)):
            try:
                read(reader.path)
            except io.CheckpointError as e:
                longest = max(longest, len(str(e)))
        assert longest < 10_000
        assert tracemalloc.get_traced_memory()[1] < 20e6
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 100_000  # kilobytes
        assert time.process_time() - before < 5  # seconds, where 0.1 is normal
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
@given(MODELS)
def test_any_config_of_any_model_is_made_or_refused(reader: Reader, described: tuple[str, dict[str, Any]]) -> None:
    """Each model of the zoo, with up to three wrong, giant or odd arguments."""
    if not reader.content:
        reader.content = reader.path.read_bytes()
    name, change = described
    config = json.dumps({**_zoo.entry(name).defaults, **change})
    fields: list[Any] = [("field", ("model", name)), ("field", ("config", config))]
    tries(reader, altered(reader.content, fields, seal=True))


def pairs(count: int, stop: int) -> bytes:
    slots = {f"w{i}": {"dtype": "U8", "shape": [stop], "data_offsets": [0, stop]} for i in range(count)}
    return json.dumps(slots, separators=(",", ":")).encode()


ENORMOUS = {
    "overlapping": lambda: pairs(150_000, 1),
    "names": lambda: pairs(150_000, 0),
    "lists": lambda: b'{"a":[' + b"[]," * 3_000_000 + b"1]}",
    "dicts": lambda: b'{"a":[' + b"{}," * 3_000_000 + b"1]}",
    "digits": lambda: b'{"a":[' + b"9" * 4_000 + b',"' + b"9" * 9_000_000 + b'"]}',
    "shape": lambda: b'{"a":{"dtype":"U8","shape":[' + b"1," * 4_000_000 + b'1],"data_offsets":[0,1]}}',
    "long": lambda: b'{"' + b"a" * 9_900_000 + b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "same": lambda: b'{"__metadata__":{' + b'"a":"",' * 1_000_000 + b'"a":""}}',
}


@pytest.mark.slow
@pytest.mark.parametrize("make", ENORMOUS.values(), ids=ENORMOUS)
def test_the_largest_headers_take_bounded_time_and_memory(make: Callable[[], bytes], tmp_path: Path) -> None:
    """Ten megabytes of whatever: seconds, and less than a gigabyte, in a process that does nothing else."""
    header = make()
    assert 4_000 < len(header) <= _safetensors.HEADER_LIMIT
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "m.safetensors")], capture_output=True, text=True, check=True
    )
    seconds, kilobytes = map(float, run.stdout.split())
    assert seconds < 150  # of the processor: five is normal, 15 where coverage looks on
    assert 1_000 < kilobytes < 1_000_000


# getrusage's peak would not do: a process inherits it from the one that started it.
CHILD = """
import re, sys, time
from pathlib import Path
from torch import nn
from torchbasics import io

def memory(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

io.load_state  # all is imported
before, start = memory("VmRSS"), time.process_time()
for read in (io.load, io.inspect, lambda path: io.load_state(nn.Linear(1, 1), path)):
    try:
        read(sys.argv[1])
    except io.CheckpointError as e:
        assert len(str(e)) < 5000
    else:
        raise SystemExit("accepted")
print(time.process_time() - start, memory("VmHWM") - before)
"""


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
