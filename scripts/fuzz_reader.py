"""Fuzz all that reads files, guided by coverage: any bytes are read or refused, and no refusal leaves a trace.

To run it (Linux or macOS, Python 3.11 to 3.13)::

    pip install atheris .
    python scripts/fuzz_reader.py safetensors -max_total_time=600
    python scripts/fuzz_reader.py pickle -max_total_time=600

The first argument says what the bytes are a file of; the others are libFuzzer's. What ends a run: an exception other
than CheckpointError, more than five seconds or 3 GB for one input, a message longer than 20 kB, a refused file that
changed the model, a random generator that moved. libFuzzer then writes the input to a file; give that file's path as
the last argument to try it again.

The first byte of an input says how the rest becomes a file. Of safetensors every second one is sealed: its lengths and
its digest are made to hold, so that what comes after the digest is reached. Of pickles some are put into an archive
whose checksums hold, or behind the marks of the format before torch 1.6. Fuzzing starts from files that the library
and torch write, and from attacks that once worked.
"""

from __future__ import annotations

import contextlib
import io as byte_io
import json
import pickle
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atheris
import torch
from torch import nn

with atheris.instrument_imports(include=["torchbasics"]):
    from torchbasics import _safetensors, io, models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIMITS = ("-max_len=4096", "-timeout=5", "-rss_limit_mb=3000")
LONGEST = 20_000  # characters of a message
REPORT_EVERY = 5000  # inputs
# How every file of torch before 1.6 begins: a number, the protocol's version, what machine it is of.
OLD_MARKS = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
WORDS = {
    "safetensors": (
        *(f"torchbasics.{field}" for field in _safetensors.FIELDS), "__metadata__", "dtype", "shape", "data_offsets",
        *_safetensors.DTYPES, *_safetensors.OTHER_DTYPES, "net.0.weight", "net.0.bias", *models.list_models(),
        "in_features", "hidden", "depth", "model", "state", "epochs", "1000000000", "null", "NaN", "1e999",
    ),
    "pickle": (
        "ctorch._utils\n_rebuild_tensor_v2\n", "ctorch._utils\n_rebuild_parameter\n", "ctorch\nFloatStorage\n",
        "ccollections\nOrderedDict\n", "ctorch\nSize\n", "ctorch\ndevice\n", "cposix\nsystem\n", "storage", "cpu",
        "}q\0(", "u.", "R.", "Q", "\x85R", "K\1", "\x8a\1", "q\1h\1\x86", "X\1\0\0\0a", ")\x81", "b.",
    ),
}  # fmt: skip


class Fuzzer:
    """Makes files of a *kind* from bytes in a *folder*, and has them read.

    Attributes:
        counts: How many inputs were tried, and how many calls of a reader refused them, loaded them, looked at them.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.model = models.MLP(1, (), 2)
        self.values = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.counts = dict.fromkeys(("tried", "refused", "loaded", "inspected"), 0)

    def run(self, options: Sequence[str]) -> None:
        """Let libFuzzer make inputs, with its *options*; this does not return."""
        corpus, words = self.folder / "corpus", self.folder / "words"
        corpus.mkdir()
        for i, content in enumerate(self.seeds()):
            for how in range(2 if self.kind == "safetensors" else 3):
                (corpus / f"{i}-{how}").write_bytes(bytes([how]) + content)
        escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode("latin-1")) for word in WORDS[self.kind])
        words.write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")
        atheris.Setup([sys.argv[0], str(corpus), f"-dict={words}", *LIMITS, *options], self.test)
        atheris.Fuzz()

    def test(self, data: bytes) -> None:
        """Have the readers read the file that *data* stands for.

        Raises:
            RuntimeError: something is not as promised; so is any exception that a reader lets through.
        """
        how, content = data[0] if data else 0, data[1:]
        if self.kind == "safetensors":
            path, content = self.folder / "f.safetensors", sealed(content) if how % 2 else content
        else:
            path, content = self.folder / "f.pt", (content, archived(content), OLD_MARKS + content)[how % 3]
        path.write_bytes(content)
        self.counts["tried"] += 1
        if self.counts["tried"] % REPORT_EVERY == 0:
            print(self.counts, file=sys.stderr, flush=True)  # libFuzzer ends without a chance to do it there
        random = torch.get_rng_state()
        self._read("inspected", lambda: io.inspect(path))
        self._read("loaded", lambda: io.load(path))
        if self._read("loaded", lambda: io.load_state(self.model, path)):
            self.model.load_state_dict(self.values)
        if not all(torch.equal(value, self.values[name]) for name, value in self.model.state_dict().items()):
            raise RuntimeError("a refused file changed the model")
        if not torch.equal(random, torch.get_rng_state()):
            raise RuntimeError("the random generator moved")

    def _read(self, outcome: str, call: Callable[[], object]) -> bool:
        """Tell whether the file was not refused, and count."""
        try:
            call()
        except io.CheckpointError as e:
            self.counts["refused"] += 1
            if len(str(e)) > LONGEST:
                raise RuntimeError(f"a message of {len(str(e))} characters") from e
            return False
        self.counts[outcome] += 1
        return True

    def seeds(self) -> list[bytes]:
        """Return contents of right files, and of attacks."""
        if self.kind == "safetensors":
            return list(map(self._saved, (self.model, models.MLP(1, (1,), 1), models.DCGAN(1, 1, 1, 0))))
        state = self.model.state_dict()
        parameters = {name: nn.Parameter(value) for name, value in state.items()}
        found = [shared_objects(), colliding_keys()]
        for content in (state, parameters, {"epoch": 1, "state_dict": state, "lr": [0.1]}):
            for is_archive in (True, False):
                out = byte_io.BytesIO()
                torch.save(content, out, _use_new_zipfile_serialization=is_archive)
                found.append(out.getvalue())
            with zipfile.ZipFile(byte_io.BytesIO(found[-2])) as archive:
                found.append(next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl")))
        return found

    def _saved(self, model: nn.Module) -> bytes:
        path = self.folder / "seed.safetensors"
        io.save(model, path, history=[{"loss": 1.0}], metadata={"a": [1, "b", None]})
        return path.read_bytes()


def shared_objects(depth: int = 40) -> bytes:
    """Return a pickle of pairs of the pair before: short, but endless for whoever writes it out."""
    pairs = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))
    return b"\x80\x02K\x01" + pairs + b")\x81."


def colliding_keys(count: int = 250) -> bytes:
    """Return a pickle of a dict whose keys all have the hash 0: its time is that of their number squared."""
    return pickle.dumps({i * (2**61 - 1): None for i in range(count)}, 2)


def archived(content: bytes) -> bytes:
    """Return an archive as torch writes it, with *content* as the pickle and two small storages."""
    out = byte_io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, part in (("data.pkl", content), ("data/0", bytes(8)), ("data/1", bytes(8)), ("version", b"3\n")):
            archive.writestr(f"archive/{name}", part)
    return out.getvalue()


def sealed(content: bytes) -> bytes:
    """Return *content* with lengths and a digest that hold, or unchanged where its header is too odd for that."""
    with contextlib.suppress(Exception):  # these are the fuzzer's bytes, and may be anything
        header, end = json.JSONDecoder().raw_decode(content[8:].decode("latin-1"))
        prefix = _safetensors.PREFIX
        fields = {key.removeprefix(prefix): value for key, value in header.pop("__metadata__").items()}
        slots = {name: _slot(entry) for name, entry in header.items()}
        order = sorted(slots.values(), key=lambda slot: (slot.start, slot.stop))
        size = min(max((slot.stop for slot in order), default=0), 4096)
        data = content[8 + end :].lstrip(b" ")[:size].ljust(size, b"\0")
        leaves = [_safetensors._sha256(memoryview(data)[s.start : s.stop]) for s in order if s.start < s.stop]
        blank = _safetensors._encode(slots, {**fields, "digest": "0" * 64})
        return _safetensors._encode(slots, {**fields, "digest": _safetensors._root(blank, leaves)}) + data
    return content


def _slot(entry: dict[str, Any]) -> _safetensors.Slot:
    return _safetensors.Slot(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])


def main() -> None:
    """Run libFuzzer on the kind of file that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in WORDS:
        raise SystemExit(f"give what to fuzz first: {' or '.join(WORDS)}")
    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        Fuzzer(sys.argv[1], Path(name)).run(sys.argv[2:])


if __name__ == "__main__":
    main()
