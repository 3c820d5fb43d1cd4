"""LoRA on weights that other code reads instead of calling their layer, as ``nn.MultiheadAttention`` does.

Whoever reads them gets ``weight + scaling * B A``, differentiable in A and B, in every mode. That costs a dense update
at each reading, and no dropout can act. ``apply_lora`` makes these layers.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.functional import dense_update
from loralib.linear import Linear


def _effective(layer: LoRALayer) -> Tensor:
    weight = layer._plain_weight()
    return layer._weight_plus_update(layer.lora_A, layer.lora_B) if weight is None else weight


class ReadLinear(Linear):
    """A ``Linear`` that may be called, by the low-rank path, or read.

    torch's fused kernel for ``nn.TransformerEncoderLayer`` reads its linear layers, ``nn.MultiheadAttention`` its
    ``out_proj``, and the kernels of Mamba theirs.
    """

    weight = property(_effective, LoRALayer.weight.fset, doc="(out, in), with the update in every mode.")  # type: ignore


class MultiheadAttention(LoRALayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with LoRA on the matrix of its query, key and value projections.

    ``lora_A`` (g*r, E) and ``lora_B`` (rows of the g enabled blocks, r) are those of a ``MergedLinear`` with blocks of
    E rows, or of one update of rank r for all 3E rows. ``out_proj`` is a layer of its own (``ReadLinear``).
    """

    __jit_unused_properties__ = (*LoRALayer.__jit_unused_properties__, "in_proj_weight")
    weight_name = "in_proj_weight"
    enable_lora: tuple[bool, ...]
    block_sizes: tuple[int, ...]

    @property
    def in_proj_weight(self) -> Any:
        """(3E, E): the matrix with its update, in every mode."""
        return _effective(self)

    @in_proj_weight.setter
    def in_proj_weight(self, value: Tensor) -> None:
        self.__dict__["in_proj_weight"] = value  # as LoRALayer.weight: for replicas of nn.DataParallel

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        return dense_update(lora_A, lora_B, self.enable_lora, self.block_sizes)
