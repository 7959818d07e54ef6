"""Files of ``torch.save`` that were cut or altered by accident: refused, or of the same values; none crashes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import pickles as p
from torchbasics import _pickles, io

OLD = Path(__file__).parent / "fixtures" / "torch16"
FOUR = bytes(range(16))  # the storage of four float32


def outcome(path: Path, content: bytes, expected: dict[str, Any]) -> str:
    """What becomes of a damaged file: any other exception than CheckpointError goes through."""
    path.write_bytes(content)
    try:
        found = _pickles.read_object(path)
    except io.CheckpointError:
        return "refused"
    same = isinstance(found, dict) and found.keys() == expected.keys()
    same = same and all(torch.equal(found[name], expected[name]) for name in found)
    return "same" if same else "other"


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_every_truncation_and_every_appended_byte_is_refused(form: str, tmp_path: Path) -> None:
    """At every length of the file that torch 1.6 wrote; nothing else than CheckpointError is raised."""
    content = (OLD / form / "parameter.pkl").read_bytes()
    assert outcome(tmp_path / "m.pt", content, torch.load(OLD / form / "parameter.pkl")) == "same"
    for length in range(len(content)):
        assert outcome(tmp_path / "m.pt", content[:length], {}) == "refused", length
    for i in range(256):
        assert outcome(tmp_path / "m.pt", content + bytes([i]), {}) == "refused"


def flips(path: Path, source: Path, step: int) -> dict[str, int]:
    content, expected = source.read_bytes(), torch.load(source)
    counts = {"refused": 0, "same": 0, "other": 0}
    for bit in range(0, 8 * len(content), step):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        counts[outcome(path, bytes(changed), expected)] += 1
    return counts


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_no_flipped_bit_in_a_zip_gives_other_values(step: int, tmp_path: Path) -> None:
    """Every bit of a file of torch 1.6: refused, or of no effect (times, paddings); never other values."""
    counts = flips(tmp_path / "m.pt", OLD / "zip/parameter.pkl", step)
    print("zip", counts)
    assert counts["other"] == 0
    assert counts["refused"] > counts["same"]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_no_flipped_bit_in_the_legacy_format_crashes(step: int, tmp_path: Path) -> None:
    """That format has no checksum: a flipped bit in a value or a name passes, as SECURITY.md says; none crashes."""
    counts = flips(tmp_path / "m.pt", OLD / "legacy/parameter.pkl", step)
    print("legacy", counts)
    assert counts["refused"] > 0
    assert counts["other"] > 0


@pytest.mark.parametrize("tries", [pytest.param(10_000, marks=pytest.mark.slow), 600])
def test_a_changed_pickle_with_a_sound_crc_is_refused_or_read_as_torch_does(tries: int, tmp_path: Path) -> None:
    """Random changes of the pickle itself: one kind of error, or what torch reads is what was looked at."""
    items = p.dictionary(a=p.tensor(4, (2, 2), (2, 1)), b=p.tensor(4, (1,), (1,), 3))[1:]
    body = p.call("collections.OrderedDict") + items + p.dictionary(_metadata=b"}") + b"b"
    generator = random.Random(0)
    counts = dict.fromkeys(("refused", "read"), 0)
    path = tmp_path / "m.pt"
    for _ in range(tries):
        changed = bytearray(body)
        for _ in range(generator.choice((1, 1, 1, 1, 2, 4))):
            where = generator.randrange(len(changed))
            kind = generator.choice((0, 0, 0, 1, 2))
            if kind == 0:
                changed[where] = generator.randrange(256)
            elif kind == 1:
                del changed[where : where + generator.choice((1, 1, 2, 8))]
            else:
                changed[where:where] = changed[generator.randrange(len(changed)) :][: generator.randrange(12)]
        p.write_zip(path, bytes(changed), {"0": FOUR})
        try:
            io.inspect(path)
            io.load_state(nn.Linear(1, 1), path)
        except io.CheckpointError as e:
            counts["read" if e.reason == "mismatch" else "refused"] += 1
    print(counts)
    assert sum(counts.values()) == tries
    assert counts["read"] > 0
