"""What torch puts around a model for several processes: DistributedDataParallel, or FSDP2's shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchbasics import _checks
from torchbasics._model import plain_state

if TYPE_CHECKING:
    from torchbasics._world import World
    from torchbasics.data._batches import Batches
    from torchbasics.training._step import Step

Strategy = Literal["ddp", "fsdp"]
STRATEGIES = ("ddp", "fsdp")


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
    state = plain_state(model)
    world.agree(
        "runs",
        {
            "torch": str(torch.__version__),
            **step.recipe.as_dict(),
            "strategy": strategy,
            "the model": type(model).__name__,
            **{f"the model's {name}": f"{tuple(value.shape)} of {value.dtype}" for name, value in state.items()},
            "the trained part": [name for name, p in model.named_parameters() if p.requires_grad],
            "the data's length": [batches.samples, batches.steps()],
            "the data": None if getattr(batches, "shared", False) else batches.digest(),
        },
    )
    if not is_sharded(model):
        world.spread([*model.parameters(), *model.buffers()])
    step.world = world
    if strategy == "fsdp":
        shard(model)
    # What is sharded, or wrapped by the user, takes the mean by itself.
    step.averaged = strategy is None or is_sharded(model)


def wrapped(model: nn.Module) -> nn.Module:
    """Return *model* in a wrapper that takes the mean of the gradients of all processes while they are computed."""
    if isinstance(model, DistributedDataParallel):
        return model
    on_cuda = next(model.parameters()).is_cuda
    devices = [torch.cuda.current_device()] if on_cuda else None
    return DistributedDataParallel(model, device_ids=devices)


def shard(model: nn.Module) -> None:
    """Cut the parameters of *model* in place, so that each process keeps a part: torch's FSDP2.

    Each child that has children of its own, or parameters, is gathered for itself when it is used.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if is_sharded(model):
        return
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether the processes keep a part of the parameters each."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
