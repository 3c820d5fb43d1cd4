"""Frozen linear map plus low-rank update as one node of autograd: no copies of x and y, thin products rank-major."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loralib.base import autocast_off


class LowRankLinear(torch.autograd.Function):
    """Forward and backward pass of the formulas below, for tensors of one dtype on one device.

    With D(x) = x * m / (1-p), mask m of zeros and ones (all ones without dropout), and s = alpha / r; for the j-th
    enabled block i of n; rows (batch and time) are the first dimension of x (rows, in) and dy (rows, out)::

        z    = A D(x)^T                         (g*r, rows)
        y    = x W^T + b;  y_i += s z_j^T B_j^T (rows, out)
        dB_j = s (z_j dy_i)^T                   (out/n, r)
        G_j  = s / (1-p) B_j^T dy_i^T           (r, rows)     gradient of z_j, with the factor of the mask
        dA   = G (x * m)                        (g*r, in)
        dx   = dy W + (G^T A) * m               (rows, in)

    Source: Hu et al. 2021 (arXiv:2106.09685), Section 4.1, Eq. 3, and the chain rule.

    Why it is near the cost of the frozen layer, where autograd on the same formulas is not:

    - Everything that has r as a dimension is computed with r first ("rank-major"), because libraries of matrix products
      are several times slower for a result of few columns than for one of few rows.
    - The update is added into slices of the fresh y, and dy W to the update's gradient, inside the product itself.
    - Kept for the backward pass are x (once: the frozen branch needs no copy of it), m in a byte an element, and z. The
      last is g*r/in of x, a hundredth as a rule, while making it again would read x and m once more.

    The backward pass is made of differentiable operations, so second derivatives exist.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_A: Tensor,
        lora_B: Tensor,
        dropped: Tensor | None,
        mask: Tensor | None,
        keep: float,
        scaling: float,
        enabled: Sequence[bool],
    ) -> Tensor:
        """See ``linear_plus_update``; ``mask`` is m in the shape of x, uint8 or bool, and ``keep`` is 1-p."""
        y, z = linear_plus_update(x, weight, bias, lora_A, lora_B, dropped, scaling, enabled)
        needs_x = ctx.needs_input_grad[0]
        ctx.save_for_backward(x, weight if needs_x else None, lora_A, lora_B, z, mask)
        ctx.keep, ctx.scaling, ctx.enabled = keep, scaling, enabled
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """dx, dW, db, dA and dB, each only if needed; see the formulas of the class."""
        with autocast_off(dy.device):
            return _gradients(ctx, dy)


def linear_plus_update(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    dropped: Tensor | None,
    scaling: float,
    enabled: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The forward pass alone, outside autograd.

    Args:
        x: (..., in); weight: (out, in); bias: (out,); lora_A: (g*r, in); lora_B: (g*out/n, r).
        dropped: D(x), in the shape of x; None where no dropout takes place.

    Returns:
        y (..., out) and z (g*r, rows).
    """
    # Made in its final shape and not through F.linear, which returns a view: autograd refuses to change in place a view
    # that a Function has made.
    result = x.new_empty(*x.shape[:-1], weight.shape[0])
    y = _rows(result)  # (rows, out), the same memory
    if bias is None:
        torch.mm(_rows(x), weight.t(), out=y)
    else:
        torch.addmm(bias, _rows(x), weight.t(), out=y)
    z = lora_A @ _rows(x if dropped is None else dropped).t()  # (g*r, rows)
    g = sum(enabled)
    for y_i, z_j, B_j in zip(_enabled_blocks(y, enabled), z.chunk(g), lora_B.chunk(g)):
        torch.addmm(y_i, z_j.t(), B_j.t(), alpha=scaling, out=y_i)
    return result, z


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x_in, weight, lora_A, lora_B, z, mask_in = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    x, dy = _rows(x_in), _rows(dy)  # (rows, in), (rows, out)
    mask = None if mask_in is None else _rows(mask_in).to(x.dtype)  # converted once for two products
    x_kept = x if mask is None else x * mask
    differentiable = torch.is_grad_enabled()
    if differentiable:  # second derivatives pass through z, which was kept as a mere number
        z = lora_A @ x_kept.t() / ctx.keep

    g = sum(ctx.enabled)
    dy_blocks = _enabled_blocks(dy, ctx.enabled)  # g of (rows, out/n)
    dB = torch.cat([(z_j @ dy_i).t() for z_j, dy_i in zip(z.chunk(g), dy_blocks)]) * ctx.scaling
    G = torch.cat([B_j.t() @ dy_i.t() for B_j, dy_i in zip(lora_B.chunk(g), dy_blocks)]) * (ctx.scaling / ctx.keep)
    dA = G @ x_kept
    del x_kept  # before another tensor of its size is made
    dx = None
    if needs_x:
        update = G.t() @ lora_A  # (rows, in)
        out = None if differentiable else update
        if mask is not None:
            update = torch.mul(update, mask, out=out)
        dx = torch.addmm(update, dy, weight, out=out).view(x_in.shape)
    dW = dy.t() @ x if needs_weight else None
    db = dy.sum(0) if needs_bias else None
    return dx, dW, db, dA, dB, None, None, None, None, None


def _rows(tensor: Tensor) -> Tensor:
    """(..., features) -> (rows, features)."""
    return tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])


def _enabled_blocks(tensor: Tensor, enabled: Sequence[bool]) -> list[Tensor]:
    """Views of the enabled ones of the n equal blocks of columns."""
    return [block for block, on in zip(tensor.chunk(len(enabled), dim=1), enabled) if on]
