"""What layers inside a model give."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics._model import unwrapped
from torchbasics.models._layers import find_layer

if TYPE_CHECKING:
    from collections.abc import Iterator

_stance = threading.RLock()  # it is the whole process's: two threads at once would put back each other's


class Features(nn.Module):
    """A model that returns what layers inside another return; made by `torchbasics.models.features`.

    Attributes:
        model: The other model, which is used as it is, and shared.
        layers: The names of the layers.
    """

    def __init__(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        super().__init__()
        self.model: nn.Module = unwrapped(model)
        self.layers: tuple[str, ...] = layers
        self.training: bool = model.training

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Run the model on *inputs*, and return what the layer returned; of several layers, a dict by their names.

        Raises:
            ValueError: the model has not called a layer, or more than once.
        """
        run = self._run
        if "torch._dynamo" in sys.modules:  # loading it takes a second, and without it nothing is compiled
            run = torch.compiler.disable(run)  # type: ignore[no-untyped-call]  # torch has no types for it
        return run(*inputs, **keywords)

    def extra_repr(self) -> str:
        """Show the names in ``repr``."""
        return ", ".join(map(repr, self.layers))

    def _run(self, *inputs: Any, **keywords: Any) -> Any:
        seen: dict[nn.Module, list[Any]] = {find_layer(self.model, name): [] for name in self.layers}

        thread = threading.get_ident()

        def keep(layer: nn.Module, _inputs: Any, output: Any) -> None:
            if threading.get_ident() == thread:  # another may be running the model as well
                seen[layer].append(_copied(output))

        handles = [layer.register_forward_hook(keep) for layer in seen]
        compiled = "torch._dynamo" in sys.modules
        try:
            # Code that was compiled before does not see the hooks.
            with _eager() if compiled else nullcontext():
                self.model(*inputs, **keywords)
        finally:
            for handle in handles:
                handle.remove()
        outputs = {name: self._one(name, seen[find_layer(self.model, name)]) for name in self.layers}
        return outputs if len(self.layers) > 1 else outputs[self.layers[0]]

    def _one(self, name: str, outputs: list[Any]) -> Any:
        if len(outputs) == 1:
            return outputs[0]
        kind = type(self.model).__name__
        if not outputs:
            raise ValueError(f"{kind} has not called its layer {name!r}; name the layer around it, or one beside it")
        raise ValueError(f"{kind} has called its layer {name!r} {len(outputs)} times; name a layer that is called once")


def features(model: nn.Module, *layers: str) -> Features:
    """Return a model that gives what *layers* inside *model* give, for the same inputs.

    It shares the parameters of *model*, and changes nothing of it: the outputs are copies, with their gradients, and
    nothing is left in it, whatever happens on the way. With `torchbasics.training.predict` it turns a data set into
    features; in an ``nn.Sequential`` it is what a new head stands on.

    Args:
        model: Any module.
        layers: Names as in ``model.named_modules()``. One: what that layer returns, a tensor or, of a recurrent one, a
            tuple. Several: a dict of it by name.

    Raises:
        ValueError: *model* has no layer of that name, or none is given.

    >>> import torch
    >>> from torchbasics.models import CNNModel
    >>> images = torch.zeros(5, 1, 28, 28)
    >>> features(CNNModel(), "fc1")(images).shape
    torch.Size([5, 50])
    >>> {name: tuple(output.shape) for name, output in features(CNNModel(), "conv2", "fc1")(images).items()}
    {'conv2': (5, 20, 14, 14), 'fc1': (5, 50)}
    """
    if not layers:
        raise ValueError(f"features needs the name of a layer of {type(unwrapped(model)).__name__}")
    for name in layers:
        find_layer(unwrapped(model), name)
    return Features(model, layers)


@contextmanager
def _eager() -> Iterator[None]:
    """Run what was compiled as it was written."""
    with _stance, torch.compiler.set_stance("force_eager"):
        yield


def _copied(value: Any) -> Any:
    """Return *value* with copies of its tensors: what follows in the model may change them in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_copied, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(_copied, value))
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return value
