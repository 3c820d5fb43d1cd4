"""Products of few rows with weights that never change, packed once for oneDNN; beside them the same in plain torch.

A step of a beam search multiplies a few rows (hypotheses) by every weight, and reading the weights is most of its cost.
oneDNN has kernels for few rows, and adds bias, GELU and residual on the way; torch's own linear layer calls the general
product of its BLAS. The packed copy takes as much memory as the weight. Results differ by rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN is here and computes in the dtype of the weight."""
    if weight.device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class Projection:
    """Affine map of rows, with what follows it in a block.

    Args:
        weight: (out, in), any strides.
        bias: (out,) or None.
        pack: whether to keep a copy for oneDNN instead of the weight; by default where ``can_pack``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, pack: bool | None = None) -> None:
        self.packed = can_pack(weight) if pack is None else pack
        weight = weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight
        # oneDNN reads the memory of a bias, whatever its strides
        self.bias = None if bias is None else bias.detach().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """(R, in) -> (R, out)."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def then_gelu(self, x: Tensor) -> Tensor:
        """(R, in) -> (R, out), through the tanh form of GELU."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "tanh")
        return F.gelu(F.linear(x, self.weight, self.bias), approximate="tanh")

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """(R, out), (R, in) -> (R, out)."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
        return residual + F.linear(x, self.weight, self.bias)
