"""SIGKILL and a full disk while a model is saved: the old file or the new one, whole, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from torchbasics import io, models

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and limits are POSIX")

# Saves two models in turns, for ever; dies at a named point of a named save.
CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from torchbasics import _files, io, models

path, point, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
made = [models.MLP(64, (256,), 64), models.MLP(64, (256,), 64)]
count = 0

def die(name):
    if name == point and count == at:
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, attribute, name):
    original = getattr(owner, attribute)
    def call(*args, **kwargs):
        die("before " + name)
        result = original(*args, **kwargs)
        die("after " + name)
        return result
    setattr(owner, attribute, call)

class Torn:
    def __init__(self, file):
        self.file, self.writes = file, 0
    def write(self, data):
        self.writes += 1
        if self.writes == 2 and point == "within write" and count == at:
            self.file.write(memoryview(data)[: len(data) // 2])
            self.file.flush()
            die("within write")
        return self.file.write(data)
    def seek(self, place):
        return self.file.seek(place)

import contextlib
from torchbasics import _safetensors
@contextlib.contextmanager
def torn(path):
    with _files.atomic_write(path) as file:
        yield Torn(file)

if "straight" in sys.argv:
    torn = lambda path: contextlib.nullcontext(Torn(open(path, "wb")))
_safetensors.atomic_write = torn
around(os, "fsync", "fsync")
around(Path, "replace", "replace")
print("ready", flush=True)
while True:
    count += 1
    io.save(made[count % 2], path)
"""
POINTS = ["within write", "before fsync", "after fsync", "before replace", "after replace"]


def command(path: Path, point: str, at: int, *more: str) -> list[str]:
    return [sys.executable, "-c", CHILD, str(path), point, str(at), *more]


def killed(path: Path, point: str, *more: str) -> bool:
    """Save until the third save comes to *point*; tell whether that was the end."""
    run = subprocess.run(command(path, point, 3, *more), stdout=subprocess.DEVNULL, timeout=600, check=False)
    return run.returncode == -signal.SIGKILL


def originals() -> list[models.MLP]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [models.MLP(64, (256,), 64), models.MLP(64, (256,), 64)]


def whole(path: Path) -> bool:
    """Tell whether the file loads, and holds one of the two models."""
    try:
        state = io.load(path).state_dict()
    except io.CheckpointError:
        return False
    return any(all(torch.equal(state[n], t) for n, t in m.state_dict().items()) for m in originals())


def test_a_kill_at_each_point_of_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    """Within writing, around fsync and around the replacement; what is left beside it is hidden, and harms no save."""
    path = tmp_path / "m.safetensors"
    for point in POINTS:
        assert killed(path, point)
        assert whole(path), point
    io.save(originals()[0], path)
    assert whole(path)
    print(f"\n{len(POINTS)} kills at named points, the file whole after each")


def test_without_the_temporary_file_a_kill_leaves_half(tmp_path: Path) -> None:
    """Positive control: written straight to its path, the file is damaged."""
    path = tmp_path / "m.safetensors"
    assert killed(path, "within write", "straight")
    assert not whole(path)


@pytest.mark.slow
def test_kills_at_random_times_leave_a_whole_file(tmp_path: Path) -> None:
    """Kills while one child after another saves without a pause."""
    path = tmp_path / "m.safetensors"
    io.save(originals()[0], path)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        with subprocess.Popen(command(path, "never", 0), stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.05 * float(torch.rand((), generator=generator)))
            child.kill()
        assert whole(path)
    print("\n20 kills at random times, the file whole after each")


def limited(path: Path, limit: int, save: str = "io.save(model, path)") -> subprocess.CompletedProcess[str]:
    """Save in a process that may write files of *limit* bytes only."""
    code = f"""
        import resource, signal, sys
        from torchbasics import io, models
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        model, path = models.MLP(64, (256,), 64), sys.argv[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            {save}
        except OSError as e:
            print(e.errno)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("limit", [0, 100_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(limit: int, tmp_path: Path) -> None:
    """Whatever of the new file fits, the old one is there, and the error is the system's."""
    path = tmp_path / "m.safetensors"
    io.save(originals()[0], path)
    before = path.read_bytes()
    assert int(limited(path, limit).stdout) in (errno.EFBIG, errno.ENOSPC)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_file_system_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync that finds no space is an error like the others: the old file stays."""
    path = tmp_path / "m.safetensors"
    io.save(originals()[0], path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        io.save(originals()[1], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
