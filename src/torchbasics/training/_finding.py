"""What `check` says: a name to test for, and a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is probably wrong.

    Attributes:
        name: A short stable name, such as "softmax-before-cross-entropy".
        message: What was seen, what it means, and the way out.

    >>> print(Finding("inputs-constant", "all inputs are equal"))
    inputs-constant: all inputs are equal
    """

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"
