"""Products with GPT-2's large frozen weights on CPUs with AVX-512, by oneDNN instead of the BLAS of ``F.linear``.

Torch multiplies float32 matrices on CPUs by the BLAS that it was built with, and tensors in its own layout
(``Tensor.to_mkldnn``) by oneDNN. Where the BLAS does not use a processor's AVX-512, oneDNN is faster by more than the
layouts cost; without AVX-512 it is slower, and everything here is ``F.linear``. Results differ by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENABLED = True  # the switch of ``--fast_cpu_products``
AVX512 = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
# Below these a call costs more than it saves.
SMALLEST_WEIGHT = 2**18  # numbers
FEWEST_ROWS = 8


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, equal up to rounding, gradients included; itself for all operands but those that ``applies`` names.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out).
    """
    if not applies(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return _FrozenLinear.apply(x, weight, bias)
    return _product(x, weight, bias)


def applies(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN computes this product: large and dense operands in float32, eager mode, frozen weights."""
    if not (ENABLED and AVX512 and torch.backends.mkldnn.enabled) or torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    operands = [x, weight] if bias is None else [x, weight, bias]
    if any(type(t) not in (Tensor, nn.Parameter) or t.layout != torch.strided for t in operands):
        return False
    if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in operands):
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in operands[1:]):
        return False
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        return False  # an error, which F.linear tells
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        return False
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_contiguous()):
        return False
    return weight.numel() >= SMALLEST_WEIGHT and x.shape[:-1].numel() >= FEWEST_ROWS


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return F.linear(rows.to_mkldnn(), weight, bias).to_dense().view(*x.shape[:-1], weight.shape[0])


class _FrozenLinear(torch.autograd.Function):
    """y = x W^T + b and dx = dy W.

    Autograd differentiates ``_product`` too, but keeps a copy of x although no gradient of W is wanted: 7 more
    activations a block beside some 11, and a training step 1.16 times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            return fast_linear(dy, weight.t()), None, None
