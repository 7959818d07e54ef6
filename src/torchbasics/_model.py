"""The base of the library's own models, and what all parts do to anyone's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from torchbasics import _zoo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


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


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put each submodule back into the mode it was in, training or evaluation, whatever the block did."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside what ``torch.compile`` and the parallel wrappers put around it."""
    parallel = nn.DataParallel, nn.parallel.DistributedDataParallel
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, parallel) else model._orig_mod  # type: ignore[assignment]  # a module
    return model


def plain_state(model: nn.Module) -> dict[str, Any]:
    """Return the state by the names it has without any wrapper."""
    return {_plain_name(name): value for name, value in unwrapped(model).state_dict().items()}


def load_plain_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Set what `plain_state` returned, whatever is wrapped now."""
    bare = unwrapped(model)
    names = {_plain_name(name): name for name in bare.state_dict()}
    bare.load_state_dict({names.get(name, name): value for name, value in state.items()})


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "")  # a part that was compiled by itself
