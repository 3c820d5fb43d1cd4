"""The one forward pass of LoRA on linear maps, and the dense update that merging adds: tensors in, tensors out.

Source: Hu et al. 2021 (arXiv:2106.09685), Section 4.1, Eq. 3, for each block of a projection's output. A projection
of n blocks, as the query, key and value in one matrix, has updates in the g blocks that are enabled; rows j*r to
(j+1)*r of A and the j-th part of B belong to the j-th of these. A plain layer is one block. With D for dropout and
s = alpha / r::

    y   = x W^T + b                   (rows, out)     the frozen layer
    z   = A D(x)^T                    (g*r, rows)     all enabled blocks in one thin product
    y_i = y_i + s z_j^T B_j^T         (rows, out_i)   for the j-th enabled block i

The (out, in) update is never built here: beside the frozen layer, a row costs r * (g*in + out of enabled blocks)
multiply-adds. What the backward pass keeps of the size of x is D(x) and, with dropout, its mask. Blocks that are not
enabled are those of the frozen layer to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    *,
    scaling: float,
    dropout: Callable[[Tensor], Tensor],
    enabled: Sequence[bool],
    block_sizes: Sequence[int],
    linear: Product = F.linear,
) -> Tensor:
    """Frozen linear map plus low-rank updates of the enabled blocks of its output; see the formulas of this file.

    Args:
        x: (..., in).
        weight: (out, in), any strides.
        bias: (out,) or None.
        lora_A: (g*r, in).
        lora_B: (rows of the enabled blocks, r).
        scaling: s.
        dropout: D, called once on x, so that all blocks share one mask.
        enabled: for each block, whether it has an update; at least one has.
        block_sizes: rows of the weight in each block; their sum is out.
        linear: the frozen product of x, weight and bias.

    Returns:
        (..., out), in the dtype of the frozen product.
    """
    y = linear(x, weight, bias)
    return add_update(y, dropout(x), lora_A, lora_B, scaling=scaling, enabled=enabled, block_sizes=block_sizes)


def add_update(
    y: Tensor,
    dropped: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    *,
    scaling: float,
    enabled: Sequence[bool],
    block_sizes: Sequence[int],
) -> Tensor:
    """The output of a frozen layer plus the low-rank updates of its blocks.

    Factors compute in the dtype of what they meet, as autocast would have it: float32 factors on a bfloat16 model are
    rounded for the product, while they themselves and their gradients stay float32.

    Args:
        y: (..., out).
        dropped: D(x), (..., in).
        lora_A, lora_B, scaling, enabled, block_sizes: as in ``lora_linear``.

    Returns:
        (..., out), a new tensor.
    """
    x = dropped.reshape(-1, lora_A.shape[1])
    z = lora_A.to(x.dtype) @ x.t()  # (g*r, rows): the thin side first, which CPUs compute faster than (rows, g*r)
    if len(block_sizes) == 1:
        return _plus_product(y.reshape(-1, y.shape[-1]), z, lora_B, scaling).reshape(y.shape)
    sizes = [size for size, on in zip(block_sizes, enabled) if on]
    z_blocks, B_blocks = z.chunk(len(sizes)), lora_B.split(sizes)  # g of (r, rows), g of (out_i, r)
    y_blocks = y.reshape(-1, y.shape[-1]).split(list(block_sizes), dim=1)  # n of (rows, out_i)
    # By index, not by iteration, which would end torch.fx.
    blocks, j = [], 0
    for i, on in enumerate(enabled):
        y_i = y_blocks[i]
        if on:
            y_i, j = _plus_product(y_i, z_blocks[j], B_blocks[j], scaling), j + 1
        blocks.append(y_i)
    return torch.cat(blocks, dim=1).reshape(y.shape)


def _plus_product(y: Tensor, z: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """``y + scaling * z^T B^T``, in the dtype of y: y (rows, out), z (r, rows), lora_B (out, r)."""
    return torch.addmm(y, z.to(y.dtype).t(), lora_B.to(y.dtype).t(), alpha=scaling)


def dense_update(lora_A: Tensor, lora_B: Tensor, enabled: Sequence[bool], block_sizes: Sequence[int]) -> Tensor:
    """B A of every enabled block and zeros in the others: (out, in), before scaling."""
    sizes = [size for size, on in zip(block_sizes, enabled) if on]
    updates = (B_j @ A_j for A_j, B_j in zip(lora_A.chunk(len(sizes)), lora_B.split(sizes)))
    return torch.cat(
        [next(updates) if on else lora_A.new_zeros(size, lora_A.shape[1]) for size, on in zip(block_sizes, enabled)]
    )
