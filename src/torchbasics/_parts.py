"""Tensors of which each process has a part, torch's DTensor: the part, the whole, and back again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_part(value: Any) -> bool:
    """Whether *value* is a tensor of which this process has a part."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether the processes keep a part of the parameters each."""
    return any(map(is_part, model.parameters()))


def own(tensor: Tensor) -> Tensor:
    """Return this process's part, in the same memory; of an ordinary tensor, all of it."""
    made: Tensor = tensor.detach().to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]  # DTensor
    return made


def whole(tensor: Any) -> Any:
    """Return all of a tensor; all processes that have a part have to call it."""
    return tensor.detach().full_tensor() if is_part(tensor) else tensor


def cut(value: Any, like: Any) -> Any:
    """Return *value*, whole in process 0, in parts as those of *like*; all processes have to call it."""
    if not isinstance(value, Tensor) or is_part(value) or not is_part(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.detach().to(like.device), like.device_mesh, like.placements)


def cut_state(state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Return *state* with each tensor in parts as that of the same name in *like*."""
    return {name: cut(value, like.get(name)) for name, value in state.items()}


def reshard(model: nn.Module) -> None:
    """Leave each process its parts alone; after a forward pass without a backward one FSDP2 keeps the whole."""
    for module in model.modules():
        bases = type(module).__bases__
        if bases[0].__name__ == "FSDPModule" and bases[0].__module__.startswith("torch."):
            module.reshard()  # type: ignore[operator]  # of FSDPModule
