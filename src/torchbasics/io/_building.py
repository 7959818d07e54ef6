"""Making the model that a file describes: within bounds, and without a trace in the process."""

from __future__ import annotations

import contextlib
import math
import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torchbasics.io._fit import Kind

SPARE_PARTS, SPARE_VALUES = 1000, 2**20  # what any model may have beyond what its file tells
FILLS = {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}
DRAWS = {Tensor.uniform_, Tensor.normal_}  # within other fills, which may draw again until the values please them


class TooLargeError(Exception):
    """The model has far more parts or values than the file has tensors for."""


@contextlib.contextmanager
def bounded(wanted: Mapping[str, Kind], *, fill: bool) -> Iterator[None]:
    """Let a block make a model of about the size of *wanted*; with *fill*, put back all random generators afterwards.

    What is counted is what the block's modules register, before a parameter is filled; so a few bytes of
    configuration cannot take the memory of a machine.

    Args:
        wanted: Dtypes and shapes of the file's tensors.
        fill: Whether parameters get their random numbers. Only a constructor that is known to do nothing else with
            them can do without: another might take an inverse. Without, nothing is drawn, and the generators, which
            are for all threads, are not touched.

    Raises:
        TooLargeError: the block makes a much larger one.
    """
    parts = SPARE_PARTS + 50 * len(wanted)
    values = SPARE_VALUES + 2 * sum(math.prod(shape) for _, shape in wanted.values())
    thread, made = threading.get_ident(), [0, 0]

    def count(_module: nn.Module, name: str, part: object) -> None:
        if threading.get_ident() != thread:  # the hooks are for all threads
            return
        made[0] += 1
        made[1] += part.numel() if isinstance(part, nn.Parameter) and not torch.nn.parameter.is_lazy(part) else 0
        if made[0] > parts or made[1] > values:
            what = f"{parts} layers and tensors" if made[0] > parts else f"{values} values"
            raise TooLargeError(f"of more than {what}, but has only {len(wanted)} tensors for it")

    with contextlib.ExitStack() as stack:
        stack.enter_context(random_kept() if fill else _Unfilled())
        for register in (
            hooks.register_module_module_registration_hook,
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
        ):
            stack.callback(register(count).remove)
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves tensors without their random numbers, which take longer than the reading that replaces them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        if func in FILLS:
            return tensor
        if func in DRAWS:
            return args[0].zero_()
        if func is torch.linalg.qr and tensor is not None:  # of orthogonal_: minutes for a large layer
            return tensor, tensor[: tensor.shape[1]]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def random_kept() -> Iterator[None]:
    """Put back the random generators after a block."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global one
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
