"""The folders of checkpoints: there whole or not at all, and never written over."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch

from torchbasics._files import CheckpointError
from torchbasics.training import _store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE = {"weights": torch.arange(300.0), "rows": [{"loss": 0.5}], "name": "run"}


def write(folder: Path, step: int = 12, state: Any = STATE) -> Path:
    path = _store.place(folder, step)
    _store.write(path, state, step)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """A folder with a state that plain torch reads safely, and a manifest with size and SHA-256; nothing else."""
    path = write(tmp_path / "new")

    assert path == tmp_path / "new" / "step-00000012"
    assert names(tmp_path / "new") == ["step-00000012"]
    assert names(path) == ["manifest.json", "state.pt"]
    read = _store.read(path)
    assert torch.equal(read["weights"], STATE["weights"])  # type: ignore[arg-type]  # a tensor
    assert read["rows"] == STATE["rows"]
    assert torch.load(path / "state.pt", weights_only=True)["name"] == "run"
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 12
    assert manifest["torch"] == str(torch.__version__)
    assert manifest["files"]["state.pt"]["size"] == (path / "state.pt").stat().st_size


def test_a_name_that_is_there_is_not_used_again(tmp_path: Path) -> None:
    """A second checkpoint at a step gets a number; the newest comes first."""
    for step in (9, 12, 12, 12, 100_000_000):
        write(tmp_path, step)

    assert [path.name for path in _store.checkpoints(tmp_path)] == [
        "step-100000000", "step-00000012.3", "step-00000012.2", "step-00000012", "step-00000009",
    ]  # fmt: skip


def test_other_things_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    """Only names of ours count; what a crash left is cleared, a user's files stay."""
    write(tmp_path)
    for name in ("step-1", "notes", ".0123456789abcdef0123456789abcdef.tmp", ".mine.tmp"):
        (tmp_path / name).mkdir()

    _store.clean(tmp_path)

    assert [path.name for path in _store.checkpoints(tmp_path)] == ["step-00000012"]
    assert names(tmp_path) == [".mine.tmp", "notes", "step-00000012", "step-1"]
    assert _store.checkpoints(tmp_path / "nowhere") == []


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state, the manifest and the folder are synced, then comes the rename, then the sync of the folder around."""
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def record_sync(descriptor: int) -> None:
        done.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}"[:16])  # noqa: PTH115, PTH119
        sync(descriptor)

    def record_rename(source: Any, target: Any) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", record_rename)

    write(tmp_path)

    assert done[:2] == ["fsync state.pt", "fsync manifest.j"]
    assert done[2].startswith("fsync .")
    assert done[3:] == ["rename", f"fsync {tmp_path.name}"[:16]]


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """With a digest that holds, so that what is wrong with it otherwise is seen."""
    (path / "manifest.json").write_text(json.dumps({**manifest, "digest": _store._digest(manifest)}))


def flip(path: Path, byte: int = 700) -> None:
    content = bytearray(path.read_bytes())
    content[byte % len(content)] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (
        lambda p: (p / "state.pt").write_bytes((p / "state.pt").read_bytes()[:-7]),
        "truncated", r"state.pt has \d+ bytes, and had \d+ when it was written",
    ),
    "zero tail": (
        lambda p: (p / "state.pt").write_bytes((p / "state.pt").read_bytes()[:-512] + bytes(512)),
        "damaged", "the SHA-256 of state.pt is not that of its manifest",
    ),
    "longer": (lambda p: (p / "state.pt").write_bytes((p / "state.pt").read_bytes() + b"x"), "damaged", r"state.pt has \d+ bytes"),
    "empty": (lambda p: (p / "state.pt").write_bytes(b""), "truncated", "state.pt has 0 bytes"),
    "flipped bit": (lambda p: flip(p / "state.pt"), "damaged", "the SHA-256 of state.pt"),
    "missing": (lambda p: (p / "state.pt").unlink(), "damaged", "state.pt is missing"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "damaged", "manifest.json cannot be read"),
    "empty manifest": (lambda p: (p / "manifest.json").write_bytes(b""), "damaged", "manifest.json is none"),
    "binary manifest": (lambda p: (p / "manifest.json").write_bytes(bytes(90)), "damaged", "manifest.json is none"),
    "deep manifest": (lambda p: (p / "manifest.json").write_text("[" * 10**5), "damaged", "manifest.json is none"),
    "list for manifest": (lambda p: (p / "manifest.json").write_text("[]"), "damaged", "manifest.json is none"),
    "manifest of nothing": (
        lambda p: write_manifest(p, {"format": 1, "files": {}}), "damaged", "it lists the files",
    ),
    "manifest of others": (
        lambda p: write_manifest(
            p, {"format": 1, "files": {name: {"size": 0, "sha256": ""} for name in ("../state.pt", "state.pt")}}
        ),
        "damaged", r"it lists the files '../state.pt', 'state.pt'",
    ),
    "other format": (
        lambda p: write_manifest(p, {"format": 99}),
        "format-version", "has format version 99, this torchbasics reads 1; go on with the torchbasics that wrote it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    """With the reason."""
    harm, reason, message = DAMAGE[damage]
    path = write(tmp_path)
    harm(path)

    with pytest.raises(CheckpointError, match=message) as caught:
        _store.read(path)

    assert caught.value.reason == reason
    assert "step-00000012" in str(caught.value)


def test_every_flipped_bit_of_the_state_is_found(tmp_path: Path) -> None:
    """At a hundred places."""
    path = write(tmp_path)
    file = path / "state.pt"
    size = file.stat().st_size
    for place in range(0, size, size // 100):
        flip(file, place)
        with pytest.raises(CheckpointError, match="SHA-256"):
            _store.read(path)
        flip(file, place)
    _store.read(path)


def test_every_flipped_bit_of_the_manifest_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """All of them; what changes nothing is the space between words."""
    path = write(tmp_path)
    file = path / "manifest.json"
    content, expected = file.read_bytes(), json.loads(file.read_bytes())
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with suppress(CheckpointError):
            _store.read(path)
            assert json.loads(bytes(changed)) == expected


def test_a_failure_that_is_none_of_the_file_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good checkpoint is not passed over because memory is short, nor for what this torch cannot read."""
    write(tmp_path, 4)
    newest = write(tmp_path, 8)

    def fail(error: Exception) -> Callable[..., Any]:
        def load(*args: object, **options: object) -> None:
            raise error

        return load

    monkeypatch.setattr(torch, "load", fail(MemoryError("not enough memory")))
    with pytest.raises(MemoryError, match="not enough memory"):
        _store.newest(tmp_path)
    monkeypatch.setattr(torch, "load", fail(RuntimeError("Unsupported global: GLOBAL new.Thing")))
    with pytest.raises(CheckpointError, match=r"cannot be read without running code: Unsupported global") as caught:
        _store.newest(tmp_path)
    assert caught.value.reason == "unsafe"
    assert newest.is_dir()


def test_a_folder_is_held_by_one_run_of_this_process(tmp_path: Path) -> None:
    """A second is refused, and does not give away the lock of the first; what was made for nothing goes again."""
    folder = tmp_path / "a" / "b"
    with _store.locked(folder):
        for _ in range(2):
            with (
                pytest.raises(RuntimeError, match=r"another run is writing to .*b'; wait for its end"),
                _store.locked(folder),
            ):
                pass
        assert names(folder) == [".lock"]
    assert names(tmp_path) == []
    with _store.locked(folder):
        write(folder)
    assert names(folder) == ["step-00000012"]


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "other format"])
def test_the_newest_one_that_is_whole_wins(damage: str, tmp_path: Path) -> None:
    """Damaged ones are passed over by name; a folder without a whole one has none."""
    write(tmp_path, 4, {"name": "old"})
    path = write(tmp_path, 8)
    DAMAGE[damage][0](path)

    with pytest.warns(RuntimeWarning, match=r"step-00000008' is damaged.*; it is passed over"):
        found, damaged = _store.newest(tmp_path)

    assert found is not None
    assert found[1] == {"name": "old"}
    assert damaged == {path}
    assert _store.newest(tmp_path / "nowhere") == (None, set())


def test_one_of_another_format_is_not_passed_over(tmp_path: Path) -> None:
    """Another version wrote it, and can use it."""
    write(tmp_path, 4)
    DAMAGE["other format"][0](write(tmp_path, 8))

    with pytest.raises(CheckpointError, match="format version 99"):
        _store.newest(tmp_path)


def test_a_whole_file_with_another_thing_in_it_is_refused(tmp_path: Path) -> None:
    """A digest that holds is not enough."""
    path = write(tmp_path)
    torch.save([1], path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = {"state.pt": _store._write(path / "again", lambda file: torch.save([1], file))}
    (path / "again").replace(path / "state.pt")
    del manifest["digest"]
    write_manifest(path, manifest)

    with pytest.raises(CheckpointError, match=r"is no checkpoint: state\.pt holds list"):
        _store.read(path)


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    """Objects, and a disk that does not give back what it was given; nothing is left behind."""
    write(tmp_path)

    with pytest.raises(CheckpointError, match=r"cannot be read without running code: Unsupported .*Path"):
        write(tmp_path, state={"path": tmp_path})

    assert names(tmp_path) == ["step-00000012"]


def test_a_disk_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read back is compared before the checkpoint gets its name."""
    original = _store._write

    def lie(path: Path, fill: Any) -> dict[str, Any]:
        made = original(path, fill)
        if path.name == "state.pt":
            flip(path)
        return made

    monkeypatch.setattr(_store, "_write", lie)

    with pytest.raises(CheckpointError, match="SHA-256"):
        write(tmp_path)

    assert names(tmp_path) == []


def test_old_ones_are_deleted(tmp_path: Path) -> None:
    """The newest stay, those to spare, and no damaged one counts as one of them."""
    paths = [write(tmp_path, step) for step in range(6)]

    damaged = {paths[5]}

    _store.prune(tmp_path, 2, {paths[1], paths[5]}, damaged)

    assert names(tmp_path) == ["step-00000001", "step-00000003", "step-00000004"]
    assert damaged == set()
