"""GRU layers with a backward pass written out, for float32 on the CPU.

torch.gru records every operation of every step and derives them one by one. Here the factors of the backward pass are
made for all steps at once, a step of it is one product and a few operations, and each weight's gradient is one product:
0.56 to 0.9 of the time of a training step for batches of 1 to 100 and states of 6 to 256. Sums and vectors are cut
another way, so results differ from torch.gru's in their last bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from torchbasics.models._linear import dense, derivable_once, pays, usable, watched, way, weight_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence


def fits(inputs: Tensor, hx: Tensor, weights: Sequence[Sequence[Tensor]]) -> bool:
    """Whether *gru* may run on these, and is faster than torch.gru: always with gradients, else in large products."""
    if watched(inputs) or not inputs.numel() or not (torch.is_grad_enabled() or pays(hx[0], weights[0][1])):
        return False
    if not all(dense(bias, layer[0]) for layer in weights for bias in layer[2:]):
        return False
    return usable(inputs, hx, *(weight for layer in weights for weight in layer))


def gru(
    inputs: Tensor, hx: Tensor, weights: Sequence[Sequence[Tensor]], dropout: float, training: bool
) -> tuple[Tensor, Tensor]:
    """Return the outputs of the last layer and the last state of each, as torch.gru does with the steps first.

    Shapes: ``(T, N, I)``, ``(L, N, H)`` -> ``(T, N, H)``, ``(L, N, H)``.

    Args:
        inputs: What the first layer sees.
        hx: The state each layer starts from.
        weights: Of each layer those of the input and of the state, and both biases, or none.
        dropout: The share of values dropped between layers.
        training: Whether any are dropped.
    """
    states = []
    for i, layer in enumerate(weights):
        if i and dropout and training:
            inputs = F.dropout(inputs, dropout)
        arguments = (inputs, hx[i], *layer, *(() if len(layer) == 4 else (None, None)))
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
            inputs = cast("Tensor", _Layer.apply(*arguments))
        else:
            inputs = _steps(*arguments)[0]
        states.append(inputs[-1])
    return inputs, torch.stack(states)


def _steps(
    x: Tensor, h: Tensor, wi: Tensor, wh: Tensor, bi: Tensor | None, bh: Tensor | None, *, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the outputs, the gates r and z, and (to *keep*) what r is multiplied with and the gate n, of all steps."""
    size = wh.shape[1]
    gates = way(x, wi)(x, wi, bi)  # (T, N, 3H), the input's part; those of r and z become the gates
    outputs = gates.new_empty(*gates.shape[:2], size)
    kept = gates.new_empty(2, *outputs.shape) if keep else None
    times = way(h, wh)
    for t, gate in enumerate(gates):
        from_state = times(h, wh, bh)  # (N, 3H)
        rz, state_n = gate[:, : 2 * size], from_state[:, 2 * size :]
        rz.add_(from_state[:, : 2 * size]).sigmoid_()
        n = torch.add(gate[:, 2 * size :], state_n * rz[:, :size], out=None if kept is None else kept[1, t])
        n.tanh_()  # not within gates: torch shares it out among threads only if contiguous
        if kept is not None:
            kept[0, t] = state_n
        h = torch.sub(h, n, out=outputs[t]).mul_(rz[:, size:]).add_(n)  # (1 - z) * n + z * h
    return outputs, gates, kept


class _Layer(torch.autograd.Function):
    """One layer in one direction."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        outputs, gates, kept = _steps(*arguments, keep=True)
        before = torch.cat([arguments[1][None], outputs[:-1]])  # (T, N, H), the state each step began with
        ctx.save_for_backward(*arguments, gates, kept, before)  # a copy: outputs are the caller's, to change in place
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, gates, kept, before = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if not (derivable_once(grad) and usable(grad, *arguments)):
            return _by_torch(arguments, needed, grad)
        x, _, wi, wh, _, _ = arguments
        to_gates, to_n, to_h = _backward_steps(grad, gates, kept, before, wh, to_first=needed[1])
        of_wh = weight_gradient(to_gates, before) if needed[3] else None
        of_bh = to_gates.sum((0, 1)) if needed[5] else None
        to_gates[..., 2 * wh.shape[1] :] = to_n  # the input's part of n is not multiplied with r
        return (
            way(to_gates, wi.t())(to_gates, wi.t()) if needed[0] else None,
            to_h,
            weight_gradient(to_gates, x) if needed[2] else None,
            of_wh,
            to_gates.sum((0, 1)) if needed[4] else None,
            of_bh,
        )


def _backward_steps(
    grad: Tensor, gates: Tensor, kept: Tensor, before: Tensor, wh: Tensor, *, to_first: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of the state's part of the gates, of the input's part of n, and (if asked) of the state."""
    steps, batch, size = before.shape
    (r, z, _), (state_n, n) = gates.chunk(3, dim=-1), kept
    factors = torch.empty_like(gates)  # becomes the gradients, step by step
    f_r, f_z, f_n = factors.chunk(3, dim=-1)
    to_n = torch.addcmul(n.new_ones(()), n, n, value=-1).mul_(1 - z)  # through tanh
    torch.mul(to_n, r, out=f_n)
    torch.mul(f_n, 1 - r, out=f_r).mul_(state_n)
    torch.mul(before - n, z, out=f_z).mul_(1 - z)
    to_state, back = grad[-1], wh.t()
    times = way(factors[0], back)
    for t in range(steps - 1, -1, -1):
        factors[t].view(batch, 3, size).mul_(to_state[:, None])
        to_n[t].mul_(to_state)
        if t or to_first:
            to_state = times(factors[t], back).addcmul_(to_state, z[t])
            if t:
                to_state += grad[t - 1]
    return factors, to_n, to_state if to_first else None


def _by_torch(arguments: list[Any], needed: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients by torch.gru, which can be derived again."""
    with torch.enable_grad():
        # Aliases: a state may itself come from the inputs or weights, and that way is not ours to go.
        arguments = [None if t is None else t.view_as(t) for t in arguments]
        x, h, *weights = arguments
        weights = [w for w in weights if w is not None]
        outputs = torch.gru(x, h[None], weights, len(weights) == 4, 1, 0.0, False, False, False)[0]
    asked = [t for t, need in zip(arguments, needed, strict=True) if need]
    found = iter(torch.autograd.grad(outputs, asked, grad, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if need else None for need in needed)
