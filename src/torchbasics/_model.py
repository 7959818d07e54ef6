"""The base of the library's own models."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from torchbasics import _zoo


class Model(nn.Module):
    """A module that knows its registered name and the arguments it was made from.

    Subclasses store every constructor argument unchanged under its own name; *config* and saving follow from that.
    """

    default_step: ClassVar[str] = "supervised"
    """How `torchbasics.training.fit` trains it when no *step* is given."""

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments: ``type(model)(**model.config)`` makes the same model, newly initialised."""
        return _zoo.config_of(self)

    def extra_repr(self) -> str:
        """Show the arguments in ``repr(model)``, before the layers."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())
