"""The low-rank branch of a linear layer as a function of tensors, free of module state, so that it can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def lowrank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    *,
    scaling: float,
    enabled: Sequence[bool],
    dropout: Callable[[Tensor], Tensor],
) -> Tensor:
    """Frozen linear map plus a low-rank update of each enabled block of its output.

    With n = len(enabled) output blocks of out/n features, of which g are enabled, for the j-th enabled block::

        z   = D(x) A^T            (..., g*r)     all enabled blocks in one thin product
        y_i = (x W^T + b)_i       (..., out/n)   for every block i
        y_i += s * z_j B_j^T      (..., out/n)   for the j-th enabled block i; z_j = z[..., j*r:(j+1)*r]

    The (out, in) update is never built, and nothing is padded with zeros: beside the frozen layer, the forward pass
    costs r*g*(in + out/n) multiply-adds a row, where the dense update would cost in*out.
    Source: Hu et al. 2021 (arXiv:2106.09685), Section 4.1, Eq. 3, applied to each block.

    Factors in another dtype than x compute in their own dtype, unless autocast decides.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        lora_A: (g*r, in); rows j*r to (j+1)*r belong to the j-th enabled block.
        lora_B: (g*out/n, r); rows j*out/n to (j+1)*out/n belong to the j-th enabled block.
        scaling: s = alpha / r.
        enabled: for each block, whether it has an update; at least one has.
        dropout: D; called once, on x in its own shape, so that all blocks share one mask.

    Returns:
        (..., out), in the dtype of the frozen branch.
    """
    leading = x.shape[:-1]
    y = F.linear(x, weight, bias).reshape(leading.numel(), weight.shape[0])  # (rows, out)
    x = dropout(x).reshape(leading.numel(), weight.shape[1])  # (rows, in)
    if x.dtype != lora_A.dtype and not _autocast_decides(x.device):
        x = x.to(lora_A.dtype)
    z = F.linear(x, lora_A)  # (rows, g*r)

    g = sum(enabled)
    blocks = list(y.chunk(len(enabled), dim=1))  # n of (rows, out/n), views of y
    positions = [i for i, on in enumerate(enabled) if on]
    for i, z_j, B_j in zip(positions, z.chunk(g, dim=1), lora_B.chunk(g, dim=0)):
        blocks[i] = _add_product(blocks[i], z_j, B_j, scaling)
    y = torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]
    return y.reshape(*leading, y.shape[1])


def _autocast_decides(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _add_product(y: Tensor, z: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """``y + scaling * z B^T``; y (rows, block), z (rows, r), lora_B (block, r)."""
    if y.dtype == z.dtype:
        return torch.addmm(y, z, lora_B.T, alpha=scaling)
    return y + (scaling * F.linear(z, lora_B)).to(y.dtype)
