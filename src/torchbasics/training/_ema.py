"""The average of a model's weights over the updates of a run."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchbasics._model import COMPILED, plain_state
from torchbasics._parts import own
from torchbasics.training._callbacks import Callback, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import nn


class Average(Callback):
    """Keeps the exponential moving average of parameters and floating buffers, which validation measures.

    After update *n* the average is ``d * average + (1 - d) * weights`` with ``d = min(decay, (1 + n) / (10 + n))``,
    so that the first weights do not count for long. The model ends with the average, unless the run failed.

    References:
        Polyak, Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
        The rising decay is that of ``tf.train.ExponentialMovingAverage(num_updates=...)``.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights: dict[str, Tensor] = {}

    def on_start(self, state: State) -> None:
        """Start from the model's weights, or go on from the average that was loaded."""
        model = state.model
        names = [n for n, _ in model.named_parameters()] + [
            n for n, b in model.named_buffers() if b.is_floating_point()
        ]
        self.places = {name.replace(COMPILED, ""): _place(model, name) for name in names}
        now = dict(zip(self.places, self._current(), strict=True))
        saved = self.weights or now
        self.weights = {name: saved[name].to(tensor, copy=True) for name, tensor in now.items()}
        state.result = self.result
        self.state = state

    def on_step(self, state: State) -> None:
        """Take in the weights after an update."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(map(own, self.weights.values())), list(map(own, self._current())), 1 - decay)

    @contextmanager
    def validating(self, state: State) -> Iterator[None]:
        """Put the average into the model meanwhile."""
        now = [tensor.clone() for tensor in self._current()]
        self._set(self.weights.values())
        try:
            yield
        finally:
            self._set(now)

    def on_end(self, state: State) -> None:
        """Leave the average in the model."""
        if not state.failed:
            self._set(self.weights.values())

    def result(self) -> dict[str, Any]:
        """Return the model's state with the average in it."""
        with self.validating(self.state):
            return copy.deepcopy(plain_state(self.state.model, whole=False))

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and how many updates are in it."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` returned."""
        self.updates, self.weights = state["updates"], dict(state["weights"])

    def _current(self) -> list[Tensor]:
        return [
            holder[key].detach() for holder, key in self.places.values()
        ]  # a forward pass may put in another buffer

    def _set(self, weights: Iterable[Tensor]) -> None:
        for tensor, value in zip(self._current(), weights, strict=True):
            own(tensor).copy_(own(value))


def _place(model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Return the dict that holds a parameter or a buffer, and its key there."""
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    return (module._parameters if key in module._parameters else module._buffers), key
