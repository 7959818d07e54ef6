"""What the live page is served with: made whole, or not at all."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import module_at

ROOT = Path(__file__).parents[1]


@pytest.fixture
def make_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script, writing to an empty folder; no program is found by its name."""
    module = module_at("scripts/make_live.py")
    monkeypatch.setattr(module, "OUT", tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    return module


def test_without_npm_nothing_is_made(make_live: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A build without npm goes on, and says what the page will show."""
    assert make_live.main() == 0
    assert "the live page will show its pictures" in capsys.readouterr().out
    assert not make_live.OUT.exists()


def test_another_file_than_the_pinned_one_is_refused(make_live: Any, tmp_path: Path) -> None:
    """What npm brings is compared with the SHA-256 in the script."""
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        for name in make_live.RUNTIME:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"other"))
    npm = tmp_path / "npm"
    name = f"onnxruntime-web-{make_live.VERSION}.tgz"
    npm.write_text(f"#!{sys.executable}\nimport shutil\nshutil.copy({str(tmp_path / 'package.tgz')!r}, {name!r})\n")
    npm.chmod(0o755)

    with pytest.raises(
        ValueError, match=r"ort.wasm.bundle.min.mjs of onnxruntime-web \S+ is not the file with SHA-256"
    ):
        make_live.runtime()
