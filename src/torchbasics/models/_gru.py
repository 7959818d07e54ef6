"""GRU layers written out, for float32 on processors where oneDNN multiplies faster than torch's own choice.

torch.gru records every operation of every step and derives them one by one. Here the factors of the backward pass are
made for all steps at once, a step of it is one product and a few operations, and each weight's gradient is one product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from torchbasics.models._linear import derivable_once, onednn, pays, usable, watched, weight_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence


def fits(inputs: Tensor, hx: Tensor, weights: Sequence[Sequence[Tensor]]) -> bool:
    """Whether *gru* may run on these, and is faster than torch.gru: the product of one step is large enough."""
    return not watched(inputs) and inputs.numel() > 0 and pays(hx[0], weights[0][1]) and usable(inputs, hx, *(w for ws in weights for w in ws))


def gru(
    inputs: Tensor, hx: Tensor, weights: Sequence[Sequence[Tensor]], dropout: float, training: bool
) -> tuple[Tensor, Tensor]:
    """Return the outputs of the last layer and the last state of each, as torch.gru does with the steps first.

    Shapes: ``(T, N, I)``, ``(L, N, H)`` -> ``(T, N, H)``, ``(L, N, H)``.

    Args:
        weights: Of each layer those of the input and of the state, and both biases, or none.
        dropout: The share of values dropped between layers in *training*.
    """
    states = []
    for i, layer in enumerate(weights):
        if i and dropout and training:
            inputs = F.dropout(inputs, dropout)
        arguments = (inputs, hx[i], *layer, *(() if len(layer) == 4 else (None, None)))
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
            inputs = cast("Tensor", _Layer.apply(*arguments))  # type: ignore[no-untyped-call]
        else:
            inputs = _steps(*arguments)[0]
        states.append(inputs[-1])
    return inputs, torch.stack(states)


def _steps(
    x: Tensor, h: Tensor, wi: Tensor, wh: Tensor, bi: Tensor | None, bh: Tensor | None, *, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the outputs, the gates r, z and n, and (to *keep*) what r is multiplied with, of all steps."""
    size = wh.shape[1]
    gates = onednn(x, wi, bi)  # (T, N, 3H)
    outputs = gates.new_empty(*gates.shape[:2], size)
    kept = torch.empty_like(outputs) if keep else None
    for t, gate in enumerate(gates):
        from_state = onednn(h, wh, bh)  # (N, 3H)
        rz, n = gate[:, : 2 * size], gate[:, 2 * size :]
        rz.add_(from_state[:, : 2 * size]).sigmoid_()
        state_n = from_state[:, 2 * size :]
        if kept is not None:
            state_n = kept[t].copy_(state_n)
        n.addcmul_(state_n, rz[:, :size]).tanh_()
        h = torch.lerp(n, h, rz[:, size:], out=outputs[t])  # (1 - z) * n + z * h
    return outputs, gates, kept


class _Layer(torch.autograd.Function):
    """One layer in one direction."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        outputs, gates, kept = _steps(*arguments, keep=True)
        ctx.save_for_backward(*arguments, gates, kept, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, gates, kept, outputs = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if not (derivable_once(grad) and usable(grad, *arguments)):
            return _by_torch(arguments, needed, grad)
        x, h, wi, wh, _, _ = arguments
        before = torch.cat([h[None], outputs[:-1]])  # (T, N, H), the state each step began with
        to_gates, to_n, to_h = _backward_steps(grad, gates, kept, before, wh, to_first=needed[1])
        of_wh = weight_gradient(to_gates, before) if needed[3] else None
        of_bh = to_gates.sum((0, 1)) if needed[5] else None
        to_gates[..., 2 * wh.shape[1] :] = to_n  # the input's part of n is not multiplied with r
        return (
            onednn(to_gates, wi.t()) if needed[0] else None,
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
    r, z, n = gates.chunk(3, dim=-1)
    factors = torch.empty_like(gates)  # becomes the gradients, step by step
    f_r, f_z, f_n = factors.chunk(3, dim=-1)
    to_n = torch.addcmul(n.new_ones(()), n, n, value=-1).mul_(1 - z)  # through tanh
    torch.mul(to_n, r, out=f_n)
    torch.mul(f_n, 1 - r, out=f_r).mul_(kept)
    torch.mul(before - n, z, out=f_z).mul_(1 - z)
    to_state, back = grad[-1], wh.t()
    for t in range(steps - 1, -1, -1):
        factors[t].view(batch, 3, size).mul_(to_state[:, None])
        to_n[t].mul_(to_state)
        if t or to_first:
            to_state = onednn(factors[t], back).addcmul_(to_state, z[t])
            if t:
                to_state += grad[t - 1]
    return factors, to_n, to_state if to_first else None


def _by_torch(arguments: list[Any], needed: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients by torch.gru, which can be derived again."""
    x, h, *weights = arguments
    weights = [w for w in weights if w is not None]
    with torch.enable_grad():
        outputs = torch.gru(x, h[None], weights, len(weights) == 4, 1, 0.0, False, False, False)[0]
    asked = [t for t, need in zip(arguments, needed, strict=True) if need]
    found = iter(torch.autograd.grad(outputs, asked, grad, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if need else None for need in needed)
