"""Linear maps with a large weight, through the faster of the two matrix libraries that torch carries on CPUs.

``F.linear`` in float32 calls the BLAS that torch was built with. On CPUs with AVX-512 that this BLAS does not know as
such, oneDNN, which torch uses for half precision and convolutions, computes the same float32 products in less than
half the time. Where it does not apply, everything here is ``F.linear``. ``torch.backends.mkldnn.flags(enabled=False)``
switches it off; results then differ by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from loralib.base import autocast_off

# Below these the call costs more than it saves (measured at 1 and 2 threads, weights from 128x384 to 3072x768).
SMALLEST_WEIGHT = 2**18  # numbers
FEWEST_ROWS = 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, equal to it up to rounding and as differentiable; faster for large weights.

    Args:
        x: (..., in).
        weight: (out, in), any strides.
        bias: (out,) or None.

    Returns:
        (..., out).
    """
    if not is_plain(x, weight, bias) or not onednn_is_faster(x, weight) or autocast_decides(x.device):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias) if t is not None):
        return _Linear.apply(x, weight, bias)
    return product(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b outside autograd, for plain tensors of one dtype; shapes as in ``linear``. New memory, not a view."""
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    if onednn_is_faster(x, weight):
        y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    elif bias is None:
        y = torch.mm(rows, weight.t())
    else:
        y = torch.addmm(bias, rows, weight.t())
    return torch.ops.aten._unsafe_view(y, [*x.shape[:-1], weight.shape[0]])


def product_added_to(base: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``base + x W^T`` outside autograd: base (rows, out), which may be overwritten; x (rows, in); weight (out, in)."""
    if onednn_is_faster(x, weight):
        return torch.ops.mkldnn._linear_pointwise.binary(x, base, weight, None, "add")
    return torch.addmm(base, x, weight.t(), out=base)


def onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there and pays off; a rule of device, dtype and sizes alone, so that runs repeat themselves."""
    return bool(
        _HAS_ONEDNN_LINEAR
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and weight.numel() >= SMALLEST_WEIGHT
        and x.numel() >= FEWEST_ROWS * x.size(-1)
        and torch.backends.mkldnn.enabled
    )


def is_plain(*tensors: Tensor | None) -> bool:
    """Eager mode, ordinary tensors, reverse-mode gradients: no tracer, compiler, transform, subclass or tangent."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return all(
        type(tensor) in (Tensor, nn.Parameter) and forward_ad.unpack_dual(tensor).tangent is None
        for tensor in tensors
        if tensor is not None
    )


def autocast_decides(device: torch.device) -> bool:
    """Whether autocast chooses the dtype of products on this kind of device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


class _Linear(torch.autograd.Function):
    """y = x W^T + b; dx = dy W, dW = dy^T x, db = sum of dy; keeps x only for dW and W only for dx."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = dy.reshape(-1, dy.size(-1))  # (rows, out)
        with autocast_off(dy.device):
            dx = linear(dy, weight.t()) if needs_x else None
            dW = linear(rows.t(), x.reshape(rows.size(0), -1).t()) if needs_weight else None
        return dx, dW, rows.sum(0) if needs_bias else None


_HAS_ONEDNN_LINEAR = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
