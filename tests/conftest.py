"""What all tests share."""

from __future__ import annotations

import signal

import pytest
import torch

# A background job of a shell ignores Ctrl-C, and its children do too: the tests, and what they start, hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, alone or after others."""
    torch.manual_seed(0)
