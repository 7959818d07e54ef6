"""Linear layers whose float32 products run through oneDNN where torch's own choice, MKL, is slow.

On processors of AMD from Zen 5 on, whose vector units are 512 bits wide, MKL multiplies float32 matrices at about half
the speed of oneDNN, which torch ships too; on Zen 4, of 256 bits, the two are equally fast.
Whether a product takes that way depends on sizes and settings alone, never on a timing, so a run repeats its bits.
The two ways add in another order: results differ in their last bits.
"""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from collections.abc import Callable

# Measured on a Zen 5 core, torch 2.15, against MKL: of all products of 3 to 560 million multiply-adds whose sides are
# 8 or more, oneDNN took 0.29 to 0.88 of the time in the forward pass and both gradients; below a million its fixed
# cost of some 12 us loses, and with one or two rows the memory decides, not the arithmetic. On a Zen 4 core it
# took 0.57 to 1.40, mostly 0.9 to 1.1: there MKL stays.
LEAST_WORK = 3_000_000
LEAST_SIDE = 8
ZEN5 = 26  # what processors of Zen 5 call their family; Zen 3 and 4 are 25

_PLAIN = frozenset({Tensor, nn.Parameter})
_is_compiling, _tracing = torch.compiler.is_compiling, torch._C._get_tracing_state  # looked up once: small nets feel it


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``inputs @ weight.T + bias`` as torch.nn.functional.linear does, by the faster of torch's two ways.

    Shapes: ``(..., K)``, ``(N, K)``, ``(N,)`` -> ``(..., N)``.

    >>> product(torch.ones(5, 3), torch.ones(2, 3)).shape
    torch.Size([5, 2])
    """
    if watched(inputs) or not pays(inputs, weight) or not dense(bias, weight) or not usable(inputs, weight, bias):
        return F.linear(inputs, weight, bias)
    if torch.is_grad_enabled() and (weight.requires_grad or inputs.requires_grad or _requires_grad(bias)):
        return cast("Tensor", _Product.apply(inputs, weight, bias))
    return onednn(inputs, weight, bias)


class Linear(nn.Linear):
    """torch.nn.Linear in all but the speed, and the last bits, of large float32 products on AMD's Zen 5."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Return ``input @ weight.T + bias``: ``(..., in_features)`` -> ``(..., out_features)``."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]  # torch does not list it
            return F.linear(input, self.weight, self.bias)
        return product(input, self.weight, self.bias)


def watched(inputs: Tensor) -> bool:
    """Whether torch is compiling or tracing, where a question about sizes would become part of what it records."""
    return _is_compiling() or type(inputs) not in _PLAIN or _tracing() is not None


def usable(*tensors: Tensor | None) -> bool:
    """Whether a shortcut may take these: plain float32 on the CPU, and nobody transforms or watches torch."""
    for t in tensors:
        if t is not None and not (
            type(t) in _PLAIN
            and t.dtype is torch.float32
            and t.is_cpu
            and t.layout is torch.strided
            and not t.is_nested
        ):
            return False
    return (
        not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_function_stack()
        and not torch._C._len_torch_dispatch_stack()
    )


def dense(bias: Tensor | None, weight: Tensor) -> bool:
    """Whether *bias* is as oneDNN takes it to be, without looking: a value for each output, one after the other."""
    return bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous())


def pays(inputs: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is faster at the product of ``(..., K)`` and ``(N, K)``: large, on AMD's Zen 5 or later."""
    values = inputs.numel()
    if values * len(weight) < LEAST_WORK or weight.ndim != 2 or inputs.shape[-1:] != weight.shape[1:]:
        return False
    n, k = weight.shape
    return min(values // k, n, k) >= LEAST_SIDE and _zen5() and bool(torch.backends.mkldnn.enabled)


def onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what F.linear does, by oneDNN and without a gradient."""
    return cast("Tensor", torch.ops.mkldnn._linear_pointwise.default(inputs, weight, bias, "none", [], ""))


def way(inputs: Tensor, weight: Tensor) -> Callable[..., Tensor]:
    """Return the faster of *onednn* and F.linear for a product of these, which are *usable*."""
    return onednn if pays(inputs, weight) else F.linear


def weight_gradient(grad: Tensor, inputs: Tensor) -> Tensor:
    """Return ``grad.T @ inputs``, summed over all but the last dimension: ``(..., N)``, ``(..., K)`` -> ``(N, K)``."""
    grad, inputs = _rows(grad), _rows(inputs)
    if not pays(grad.t(), inputs.t()):
        return grad.t() @ inputs
    if grad.shape[1] > inputs.shape[1]:  # oneDNN is faster with the longer side last, by up to 3.5
        return onednn(inputs.t(), grad.t()).t().contiguous()
    return onednn(grad.t(), inputs.t())


def derivable_once(grad: Tensor) -> bool:
    """Whether a backward pass, given *grad*, need be neither differentiable nor batched (is_grads_batched)."""
    return not torch.is_grad_enabled() and not torch._C._functorch.is_legacy_batchedtensor(grad)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        to_inputs, to_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(inputs if to_weight else None, weight if to_inputs else None)
        return onednn(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        to_inputs, to_weight, to_bias = ctx.needs_input_grad
        fast = derivable_once(grad) and usable(grad, inputs, weight)
        of_inputs = of_weight = None
        if to_inputs:
            of_inputs = onednn(grad, weight.t()) if fast else grad @ weight
        if to_weight:
            of_weight = weight_gradient(grad, inputs) if fast else _rows(grad).t() @ _rows(inputs)
        return of_inputs, of_weight, _rows(grad).sum(0) if to_bias else None


def _requires_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


@cache
def _zen5() -> bool:
    """Whether the processor is AMD's Zen 5 or a later one, and torch has oneDNN with this operator."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = platform.processor()  # "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD"
    family = re.search(r"family\s*:?\s*(\d+)", told, re.IGNORECASE)
    return "AuthenticAMD" in told and family is not None and int(family[1]) >= ZEN5
