"""LoRA on layers whose code is not ours to replace: those that other code reads, and those that are kept as they are.

Some weights are read by other code instead of being used by their layer, as ``nn.MultiheadAttention`` does: whoever
reads them gets ``weight + scaling * B A``, differentiable in A and B, in every mode. That costs a dense update at each
reading, and no dropout can act. Other layers keep their forward pass, because they are quantised, offloaded or a
subclass: the update is added to their output. ``apply_lora`` makes both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.functional import add_update, dense_update
from loralib.linear import Linear

# --- weights that are read -------------------------------------------------------------------------------------------


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


# --- layers that are kept --------------------------------------------------------------------------------------------


class Beside(LoRALayer):
    """First base of a class whose second is that of the adapted layer: its output plus the update.

    The frozen weight is never looked at: it may be packed (bitsandbytes), a subclass of Tensor (torchao), or live
    elsewhere until it is needed (``device_map`` of accelerate). Merging such a weight is refused. A plain weight can be
    merged if the layer's code makes of ``weight + scaling * B A`` what the two branches give, which is tried out.
    ``apply_lora`` makes these layers.
    """

    enable_lora: tuple[bool, ...]
    block_sizes: tuple[int, ...]
    _bases: tuple[type, type]  # of the class that was made at run time
    _own_forward: Any = None  # the forward function that stood on the object itself, as accelerate puts it there

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Frozen layer plus update (Hu et al. 2021, Section 4.1, Eq. 3).

        Args:
            input: (..., in_features); further arguments go to the frozen layer.

        Returns:
            (..., out_features), as the frozen layer returns it.
        """
        y: Tensor = self._frozen(input, *args, **kwargs)
        if self.merged or not (self.has_lora and self.lora_enabled):
            return y
        return add_update(
            y,
            self.lora_dropout(input).to(y.device, y.dtype),
            self.lora_A,
            self.lora_B,
            scaling=self.scaling,
            enabled=self.enable_lora,
            block_sizes=self.block_sizes,
        )

    def _frozen(self, *args: Any, **kwargs: Any) -> Any:
        if self._own_forward is None:
            return super().forward(*args, **kwargs)
        # accelerate fetches and drops all parameters that it finds on the layer: the factors are none of its business.
        hidden = {name: self._parameters.pop(name) for name in list(self._parameters) if name.startswith("lora_")}
        try:
            return self._own_forward(*args, **kwargs)
        finally:
            self._parameters.update(hidden)

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        return dense_update(lora_A, lora_B, self.enable_lora, self.block_sizes)

    def _check_mergeable(self, weight: Tensor) -> None:
        if self._own_forward is not None or not is_plain(weight) or not self._reads_its_weight():
            raise RuntimeError(
                f"a {self._bases[1].__name__} that is quantised, offloaded or has its own forward pass cannot take the "
                "update into its weight; merge the saved adapter into the full-precision model instead "
                "(python -m loralib merge), or take LoRA away with remove_lora(model, merge=False)"
            )

    @torch.no_grad()
    def _reads_its_weight(self) -> bool:
        """Whether the layer's own code, given the summed weight, computes what the two branches do."""
        stored, merged, enabled = self._parameters[self.weight_name], self.merged, self.lora_enabled
        assert stored is not None
        x = torch.linspace(-1, 1, 2 * self.lora_A.shape[1], device=stored.device).view(2, -1).to(stored.dtype)
        training, self.merged, self.lora_enabled = self.training, False, True
        nn.Module.train(self, False)
        try:
            expected = self.forward(x)
            update = self.delta_weight().to(stored.dtype)
            self.lora_enabled, self._parameters[self.weight_name] = False, nn.Parameter(stored + update, False)
            summed = self.forward(x)
        finally:
            self._parameters[self.weight_name], self.merged, self.lora_enabled = stored, merged, enabled
            nn.Module.train(self, training)
        size = expected.abs().max() + 1
        return bool((summed - expected).abs().max() <= 16 * torch.finfo(stored.dtype).eps * size * x.shape[1] ** 0.5)


def keep_differentiable(model: nn.Module) -> None:
    """Has the 4-bit layers of bitsandbytes, adapted or not, keep the form of their weights that has a backward pass.

    On CPUs with AVX-512 the first evaluation would pack them for good into one that has none: what is trained below
    such a layer would then get no gradient, without a word.
    """
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            layer.state_dict()  # which unpacks what is packed
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is a matrix of numbers, and not packed or a subclass of Tensor that stands for one."""
    sharded = type(weight).__name__ == "DTensor"
    return (sharded or type(weight) is nn.Parameter) and weight.is_floating_point()
