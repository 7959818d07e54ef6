"""What torch puts around a model for several processes: DistributedDataParallel, or FSDP2's shards."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchbasics import _checks, _parts, _world
from torchbasics._model import plain_state
from torchbasics._zoo import class_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torchbasics._recipe import Recipe
    from torchbasics._world import World
    from torchbasics.data._batches import Batches
    from torchbasics.training._step import Step

Strategy = Literal["ddp", "fsdp"]
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp")


def check_strategy(strategy: str | None) -> None:
    """Raise unless *strategy* is one of `STRATEGIES`, or None."""
    if strategy is not None:
        _checks.choice("strategy", strategy, STRATEGIES)


def spread_over(world: World, strategy: str | None, step: Step, batches: Batches) -> None:
    """Let a bound *step* train its model together with the other processes, from the weights of the first.

    Raises:
        ValueError: the processes have been started with different recipes, models or data.
    """
    if world.size == 1:
        return
    model = step.model
    place = next(model.parameters()).device
    check_devices(world.exchange(_where(place) if _world.nccl() else None))
    state = plain_state(model, whole=False)
    world.agree(
        "runs",
        {
            "torch": str(torch.__version__),
            **step.recipe.as_dict(),
            "strategy": strategy,
            "the model": class_of(model).__name__,
            "the model's device": place.type,
            **{f"the model's {name}": f"{tuple(value.shape)} of {value.dtype}" for name, value in state.items()},
            "the trained part": [name for name, p in model.named_parameters() if p.requires_grad],
            "the data's length": [batches.samples, batches.steps()],
            "the data": None if batches.shared else batches.digest(),
        },
    )
    if strategy is not None:  # else what differs may be meant to
        parameters = [] if _parts.is_sharded(model) else list(model.parameters())
        world.spread([*parameters, *model.buffers()])
    step.world = world
    if strategy == "fsdp" and not _parts.is_sharded(model):
        _check_shardable(model, step.recipe)
        shard(model, called=step.calls_model)
    step.sharded = _parts.is_sharded(model)
    if step.sharded and step.recipe.precision == "float16":
        raise ValueError("a model in parts (FSDP) does not go with precision='float16'; use 'bfloat16'")
    # What is sharded, or wrapped by the user, takes the mean by itself.
    step.averaged = strategy is None or step.sharded


def check_devices(places: Sequence[tuple[str, str, str] | None]) -> None:
    """See that each process has a GPU of its own, as NCCL needs it.

    Args:
        places: Of each process the host, the GPU's number of manufacture, and a name for people; None = no GPU.

    Raises:
        ValueError: two have the same.
    """
    seen: dict[tuple[str, str], int] = {}
    for rank, place in enumerate(places):
        if place is None:
            continue
        other = seen.setdefault(place[:2], rank)
        if other != rank:
            raise ValueError(
                f"the model is on {place[2]} of host {place[0]!r} in process {other} and in process {rank}, and each "
                "needs a GPU of its own; give fit device='auto', or move the model to "
                "f'cuda:{os.environ[\"LOCAL_RANK\"]}' before"
            )


def _where(place: torch.device) -> tuple[str, str, str] | None:
    if place.type != "cuda":
        return None
    about: Any = torch.cuda.get_device_properties(place)  # pragma: no cover  # CUDA
    return socket.gethostname(), str(about.uuid), str(place)  # pragma: no cover  # CUDA


def wrapped(model: nn.Module) -> nn.Module:
    """Return *model* in a wrapper that takes the mean of the gradients of all processes while they are computed."""
    if isinstance(model, DistributedDataParallel):
        return model
    place = next(model.parameters()).device
    devices = [place.index] if place.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def shard(model: nn.Module, *, called: bool) -> None:
    """Cut the parameters of *model* in place, so that each process keeps a part: torch's FSDP2.

    Each part of the model that has parts of its own, such as a block of a network, is gathered for itself when it is
    used; all else, when the model is.

    Args:
        model: Any module.
        called: Whether it is called itself; of one whose parts alone are, such as a GAN, there is nothing to gather.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # torch cuts no others
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for unit in list(_units(model)):
        fully_shard(unit, mesh=mesh)
    if called or not all(map(_parts.is_part, model.parameters())):
        fully_shard(model, mesh=mesh)


def _check_shardable(model: nn.Module, recipe: Recipe) -> None:
    """Raise unless torch can cut this model, on this device, for this recipe."""
    if next(model.parameters()).device.type == "cpu" and not hasattr(torch.cpu.Stream(), "record_event"):
        raise RuntimeError(
            f"strategy='fsdp' on the CPU needs torch 2.7 or newer, and this is {torch.__version__}; use strategy='ddp'"
        )
    if isinstance(recipe.optimizer, Optimizer):
        raise ValueError(
            "strategy='fsdp' cuts the parameters, and the optimizer instance holds the whole ones; give its name or "
            "a factory, such as optimizer=torch.optim.SGD"
        )


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that have parts of their own, and parameters that are nobody else's."""
    holders: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), set()).add(id(module))
    for unit in _blocks(model):
        inside = set(map(id, unit.modules()))
        if all(holders[id(parameter)] <= inside for parameter in unit.parameters()):
            yield unit


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        parts = list(child.children())
        listed = isinstance(child, (nn.ModuleList, nn.ModuleDict))  # which are never called
        if listed or (isinstance(child, nn.Sequential) and any(True for part in parts for _ in part.children())):
            yield from _blocks(child)
        elif parts and any(True for _ in child.parameters()):
            yield child
