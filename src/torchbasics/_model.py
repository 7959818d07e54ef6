"""The base of the library's own models, and what all parts do to anyone's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from torchbasics import _zoo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMPILED = "_orig_mod."  # what torch.compile puts before the names of a module's parameters


class Model(nn.Module):
    """A module that knows its registered name and the arguments it was made from.

    Subclasses store every constructor argument unchanged under its own name; *config* and saving follow from that.
    """

    default_step: ClassVar[str] = "supervised"
    """How `torchbasics.training.fit` trains it when no *step* is given."""

    default_memory_format: ClassVar[str] = "contiguous"
    """What ``memory_format="auto"`` means for it."""

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


class Buffers:
    """The buffers of a model as they were when last kept, to be put back.

    Only those that changed in between are copied: by torch's own count of changes, and always the statistics of
    normalisation layers, whose kernels do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        self.holders = [(m._buffers, not isinstance(m, _NormBase)) for m in model.modules()]
        self.kept: list[dict[str, tuple[Tensor, int, Tensor] | None]] = [{} for _ in self.holders]

    def keep(self) -> None:
        """Remember the buffers as they are now."""
        targets, sources = [], []
        for (holder, counts), kept in zip(self.holders, self.kept, strict=True):
            if not holder and not kept:
                continue
            for name in kept.keys() - holder.keys():
                del kept[name]
            for name, buffer in holder.items():
                old = kept.get(name)
                if buffer is None:
                    kept[name] = None
                elif old is None or old[0] is not buffer or old[2].shape != buffer.shape:
                    kept[name] = buffer, buffer._version, buffer.detach().clone()
                elif not counts or old[1] != buffer._version:
                    kept[name] = buffer, buffer._version, old[2]
                    targets.append(old[2])
                    sources.append(buffer.detach())
        if targets:
            torch._foreach_copy_(targets, sources)

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was kept: the same tensors with the same values, and no others."""
        for (holder, counts), kept in zip(self.holders, self.kept, strict=True):
            for name in holder.keys() - kept.keys():
                del holder[name]
            for name, old in kept.items():
                if old is None:
                    holder[name] = None
                    continue
                buffer, version, copy = old
                if not counts or version != buffer._version:
                    buffer.resize_(copy.shape).copy_(copy) if buffer.shape != copy.shape else buffer.copy_(copy)
                    kept[name] = buffer, buffer._version, copy
                holder[name] = buffer


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put all buffers of *model* back to what they were, whatever the block did."""
    buffers = Buffers(model)
    buffers.keep()
    try:
        yield
    finally:
        buffers.restore()


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
    return name.replace(COMPILED, "")  # a part that was compiled by itself
