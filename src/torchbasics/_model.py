"""The base of the library's own models, and what all parts do to anyone's."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchbasics import _checks, _parts, _zoo

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


class Kept(NamedTuple):
    """A buffer, and what it was."""

    buffer: Tensor
    copy: Tensor  # the buffer itself where it cannot be written to, or has no values yet
    version: int | None  # torch's count of its changes, None = copied whatever it says

    def differs(self) -> bool:
        """Whether the two may have different values."""
        return self.copy is not self.buffer and (self.version is None or self.version != self.buffer._version)

    def now(self) -> Kept:
        """Return that they have the same."""
        return self if self.version is None else self._replace(version=self.buffer._version)


class Buffers:
    """The buffers of a model as they were when last kept, to be put back.

    Args:
        model: The model.
        limit: Larger buffers are copied only when torch's count says that they have changed. Native kernels, such as
            batch norm's, and writes through ``.data`` do not count.
    """

    def __init__(self, model: nn.Module, limit: float = 2**18) -> None:
        self.modules = list(model.modules())
        self.limit = limit
        self.kept: list[dict[str, Kept | None]] = [{} for _ in self.modules]
        self.unsaved: list[set[str]] = [set() for _ in self.modules]

    def keep(self) -> None:
        """Remember the buffers as they are now."""
        targets, sources = [], []
        for i, (module, kept) in enumerate(zip(self.modules, self.kept, strict=True)):
            holder = module._buffers
            if not holder and not kept:
                continue
            self.unsaved[i] = set(module._non_persistent_buffers_set)
            for name in kept.keys() - holder.keys():
                del kept[name]
            for name, buffer in holder.items():
                old = kept.get(name)
                if buffer is None:
                    kept[name] = None
                elif old is None or old.buffer is not buffer or old.copy is buffer or old.copy.shape != buffer.shape:
                    kept[name] = self._first(buffer)
                elif old.differs():
                    kept[name] = old.now()
                    targets.append(old.copy)
                    sources.append(buffer.detach())
        if targets:
            torch._foreach_copy_(targets, sources)

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was kept: the same tensors with the same values, and no others."""
        for module, kept, unsaved in zip(self.modules, self.kept, self.unsaved, strict=True):
            holder = module._buffers
            for name in holder.keys() - kept.keys():
                del holder[name]
            for name, old in kept.items():
                holder[name] = None if old is None else old.buffer
                if old is not None and old.differs():
                    if old.buffer.shape != old.copy.shape:
                        old.buffer.resize_(old.copy.shape)
                    old.buffer.copy_(old.copy)
                    kept[name] = old.now()
            if holder:
                module._non_persistent_buffers_set = set(unsaved)

    def _first(self, buffer: Tensor) -> Kept:
        # Repeated values, as of ``expand``, and tensors of inference mode can be written to by nobody; a lazy module's
        # have no values yet.
        fixed = is_lazy(buffer) or (buffer.is_inference() and not torch.is_inference_mode_enabled())
        if fixed or (buffer.layout is torch.strided and torch._debug_has_internal_overlap(buffer) == 1):
            return Kept(buffer, buffer, None)
        version = None if buffer.numel() <= self.limit else buffer._version
        return Kept(buffer, buffer.detach().clone(), version)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put all buffers of *model* back to what they were, whatever the block did."""
    buffers = Buffers(model, math.inf)
    buffers.keep()
    try:
        yield
    finally:
        buffers.restore()


def check_module(model: object) -> None:
    """Refuse what is no module.

    Raises:
        TypeError: it is something else, such as the name of a model, or a class.
    """
    if not isinstance(model, nn.Module):
        way_out = "models.get_model(name) makes one"
        if model is not None and not isinstance(model, (str, type)):
            way_out += ", and it comes first"
        raise TypeError(f"model must be a torch.nn.Module, got {_checks.told(model)}; {way_out}")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside what ``torch.compile`` and the parallel wrappers put around it.

    Raises:
        TypeError: *model* is no module.
    """
    check_module(model)
    parallel = nn.DataParallel, nn.parallel.DistributedDataParallel
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, parallel) else model._orig_mod  # type: ignore[assignment]  # a module
    return model


def versions_of(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what torch keeps beside a state_dict, the version of each module's code; None where there is nothing."""
    return getattr(state, "_metadata", None)


def versioned(state: Mapping[str, Any], versions: Mapping[str, Any] | None) -> OrderedDict[str, Any]:
    """Return *state* with *versions*; without any, a module takes it for one of old code, and converts it."""
    made = OrderedDict(state)
    if versions is not None:
        made._metadata = versions  # type: ignore[attr-defined]  # where torch puts it
    return made


def plain_state(model: nn.Module, *, whole: bool = True) -> OrderedDict[str, Any]:
    """Return the state, and the versions in it, by the names without any wrapper.

    Args:
        model: Any module; where each process has a part of it, all have to call this.
        whole: Whether what is in parts is gathered.
    """
    state = unwrapped(model).state_dict()
    versions = versions_of(state)
    if versions is not None:
        versions = {_plain_part(name): value for name, value in versions.items()}
    made = {_plain_name(name): _parts.whole(value) if whole else value for name, value in state.items()}
    return versioned(made, versions)


def load_plain_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Set what `plain_state` returned, whatever is wrapped or in parts now; without versions, it is of today's code."""
    bare = unwrapped(model)
    now, then = bare.state_dict(), versions_of(state)
    versions = versions_of(now)
    if versions is not None and then is not None:
        versions = {name: then.get(_plain_part(name), value) for name, value in versions.items()}
    names = {_plain_name(name): name for name in now}
    named = {names.get(name, name): value for name, value in state.items()}
    bare.load_state_dict(versioned(_parts.cut_state(named, now), versions))


def unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that ``state_dict()`` leaves out, ``persistent=False``, by their plain names."""
    bare = unwrapped(model)
    saved = bare.state_dict(keep_vars=True).keys()
    return {_plain_name(name): buffer for name, buffer in bare.named_buffers() if name not in saved}


@torch.no_grad()
def load_unsaved_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Set what `unsaved_buffers` returned; others stay as they are."""
    for name, buffer in unsaved_buffers(model).items():
        if name in buffers and buffer.shape == buffers[name].shape:
            buffer.copy_(buffers[name])


def _plain_name(name: str) -> str:
    return name.replace(COMPILED, "")  # a part that was compiled by itself


def _plain_part(name: str) -> str:
    return f"{name}.".replace(COMPILED, "")[:-1]
