"""What all tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
IN_PROCESSES = {  # number: cases of tests/worlds.py that so many processes do, all in one launch
    2: ("evaluate", "fit", "unweighted", "single", "resume", "data"),
    3: ("evaluate", "fit", "data"),
    5: ("evaluate",),
}

# The same examples in every run, however slow the machine; nothing is written where other processes of the tests read.
settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# A background job of a shell ignores Ctrl-C, and its children do too: the tests, and what they start, hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Let so many processes, started by torchrun, do their cases; return the folder with what they wrote."""
    from tests import worlds

    @cache
    def launch(size: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(f"worlds{size}")
        assert worlds.begun(folder / "work" / "one")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
        command += ["-m", "tests.worlds", str(folder), *IN_PROCESSES[size]]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        try:
            run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
        except subprocess.TimeoutExpired as e:
            return folder, f"{size} processes hang: {(e.stderr or b'').decode(errors='replace')[-9000:]}"
        return folder, run.stderr[-9000:] if run.returncode else ""

    def done(size: int) -> Path:
        folder, wrong = launch(size)
        assert not wrong, wrong
        return folder

    return done


@pytest.fixture(scope="session")
def results(launched: Callable[[int], Path]) -> Callable[[str, int], list[dict[str, Any]]]:
    """Return what each of so many processes found in a case."""

    @cache
    def read(case: str, size: int) -> list[dict[str, Any]]:
        made = [torch.load(launched(size) / f"{case}-{rank}.pt", weights_only=True) for rank in range(size)]
        failed = [text for text in made if isinstance(text, str)]
        assert not failed, failed[0]
        return made

    return read
