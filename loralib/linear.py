"""``nn.Linear`` with a low-rank update of its whole output, or of chosen blocks of a fused projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.functional import dense_update, lora_linear


class _LowRankLinear(LoRALayer, nn.Linear):
    """What the two linear layers share: a weight that may be stored transposed, blocks, and the forward pass."""

    fan_in_fan_out: bool = False
    enable_lora: tuple[bool, ...]
    block_sizes: tuple[int, ...]

    def _finish(self, fan_in_fan_out: bool) -> None:
        """Second draw of all parameters, as released (seeded runs depend on the order), then the stored orientation."""
        self.reset_parameters()
        self.fan_in_fan_out = bool(fan_in_fan_out)
        if fan_in_fan_out:
            # Contiguous, unlike the released package's: safetensors refuses strided parameters.
            weight = self._stored_weight()
            self.weight = nn.Parameter(weight.detach().T.contiguous(), weight.requires_grad)

    def reset_parameters(self) -> None:
        """Draws weight and bias as ``nn.Linear`` does for (out, in), however they are stored; then the factors."""
        if not self.fan_in_fan_out:
            super().reset_parameters()
            return
        # Drawn for (out, in) and copied, so that a seed gives the same values in both orientations.
        weight = self._stored_weight()
        drawn = nn.Linear(self.in_features, self.out_features, self.bias is not None, weight.device, weight.dtype)
        with torch.no_grad():
            weight.copy_(drawn.weight.T)
            if self.bias is not None:
                self.bias.copy_(drawn.bias)
        self.reset_lora_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Frozen layer plus update (Section 4.1, Eq. 3); the arithmetic is in ``loralib.functional``.

        Args:
            input: (..., in_features).

        Returns:
            (..., out_features).
        """
        weight = self._plain_weight()
        if weight is not None:
            return self.linear(input, self._oriented(weight), self.bias)
        return lora_linear(
            input,
            self._oriented(self._stored_weight()),
            self.bias,
            self.lora_A,
            self.lora_B,
            scaling=self.scaling,
            dropout=self.lora_dropout,
            enabled=self.enable_lora,
            block_sizes=self.block_sizes,
            linear=self.linear,
        )

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The frozen product, x W^T + b; a subclass may put an equal one in its place."""
        return F.linear(x, weight, bias)

    def _oriented(self, weight: Tensor) -> Tensor:
        """(out_features, in_features) or, if ``fan_in_fan_out``, the transpose of it; its own inverse."""
        return weight.T if self.fan_in_fan_out else weight

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        return self._oriented(dense_update(lora_A, lora_B, self.enable_lora, self.block_sizes))


class Linear(_LowRankLinear):
    """``nn.Linear`` whose frozen weight W is used as W + (alpha/r) B A, with A and B trainable.

    Maths: y = x W^T + b + (alpha/r) (D(x) A^T) B^T, D being dropout (Hu et al. 2021, Section 4.1, Eq. 3).
    Shapes: W (out, in), or (in, out) if ``fan_in_fan_out``; ``lora_A`` (r, in); ``lora_B`` (out, r).

    With r > 0 the weight is frozen at construction; the bias stays trainable until ``mark_only_lora_as_trainable``.
    The parameters of the torch layer are drawn twice and A once, as in the released package.

    Args:
        in_features, out_features: sizes; keep their meaning under ``fan_in_fan_out``.
        r: rank; 0 gives a plain linear layer, whose weight stays trainable.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: probability of dropping an input of the low-rank branch, in train mode.
        fan_in_fan_out: store the weight as (in, out), like GPT-2's Conv1D.
        merge_weights: whether ``eval()`` merges (see ``LoRALayer``).
        lora_init: a name in ``loralib.INITIALIZERS``.
        use_rslora: scale by lora_alpha / sqrt(r) instead (see ``LoRALayer``).
        **kwargs: bias, device and dtype of ``nn.Linear``.

    Raises:
        TypeError, ValueError: see ``LoRALayer``.
    """

    enable_lora = (True,)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int = 0,
        lora_alpha: float | None = 1,
        lora_dropout: float = 0.0,
        fan_in_fan_out: bool = False,
        merge_weights: bool = True,
        *,
        lora_init: str = "released",
        use_rslora: bool = False,
        **kwargs: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights, lora_init=lora_init, use_rslora=use_rslora)
        if self.r > 0:
            self._add_factors((self.r, in_features), (out_features, self.r))
        self._finish(fan_in_fan_out)

    @property
    def block_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        """The one block: (out_features,)."""
        return (self.out_features,)


class MergedLinear(_LowRankLinear):
    """Fused projection, as query, key and value in one matrix, with low-rank updates for chosen blocks of its output.

    Maths, for the blocks i of the output, of which g are enabled, s = alpha/r::

        z   = D(x) A^T                        (..., g*r)
        y_i = x W_i^T + b_i                   (..., size of block i)
        y_i = y_i + s z_j B_j^T               where block i is the j-th enabled one

    Shapes: W (out, in), or (in, out) if ``fan_in_fan_out``; ``lora_A`` (g*r, in), rows j*r to (j+1)*r = A_j;
    ``lora_B`` (rows of the enabled blocks, r), B_j below each other; r is the rank of one block. All blocks share one
    dropout mask. Only merging builds the (out, in) update; the forward pass does not (see ``loralib.functional``).
    Source: Hu et al. 2021, Section 4.1, Eq. 3, for the projections of Section 4.2.

    Args:
        in_features, out_features, r, lora_alpha, lora_dropout, fan_in_fan_out, merge_weights, lora_init, use_rslora,
            **kwargs: as in ``Linear``.
        enable_lora: for each output block, whether it has an update. With none the layer is a plain one, its weight
            trainable, whatever r is.
        block_sizes: features of each block, as for the grouped queries of a model with fewer keys and values; None:
            equal blocks.

    Raises:
        ValueError: ``block_sizes`` do not sum up to ``out_features``; without them, ``out_features`` is not a multiple
            of ``len(enable_lora)``; ``enable_lora`` is empty.
        TypeError, ValueError: see ``LoRALayer``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int = 0,
        lora_alpha: float | None = 1,
        lora_dropout: float = 0.0,
        enable_lora: Sequence[bool] = (False,),
        fan_in_fan_out: bool = False,
        merge_weights: bool = True,
        *,
        block_sizes: Sequence[int] | None = None,
        lora_init: str = "released",
        use_rslora: bool = False,
        **kwargs: Any,
    ) -> None:
        enabled, sizes = checked_blocks(enable_lora, block_sizes, out_features)
        nn.Linear.__init__(self, in_features, out_features, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights, lora_init=lora_init, use_rslora=use_rslora)
        self.enable_lora, self.block_sizes = enabled, sizes
        if self.r > 0 and any(enabled):
            rows = sum(size for size, on in zip(sizes, enabled) if on)
            self._add_factors((self.r * sum(enabled), in_features), (rows, self.r))
        self._finish(fan_in_fan_out)

    def _convert_released(self) -> None:
        self.enable_lora, self.block_sizes = checked_blocks(self.enable_lora, None, self.out_features)

    # What the released class offers beside its forward pass; nothing here calls it.

    @property
    def lora_ind(self) -> Tensor:
        """(out_features,) bool: the rows that have an update."""
        return torch.tensor([on for on, size in zip(self.enable_lora, self.block_sizes) for _ in range(size)])

    def zero_pad(self, x: Tensor) -> Tensor:
        """(rows with an update, ...) to (out_features, ...), zeros in the others."""
        rows = self.lora_ind.to(x.device)
        padded = x.new_zeros(len(rows), *x.shape[1:])
        padded[rows] = x
        return padded

    def merge_AB(self) -> Tensor:
        """The update before scaling, in the shape of the weight."""
        return self._product(self.lora_A, self.lora_B)


def checked_blocks(
    enable_lora: Sequence[bool], block_sizes: Sequence[int] | None, out_features: int
) -> tuple[tuple[bool, ...], tuple[int, ...]]:
    """``enable_lora`` and ``block_sizes`` as tuples of one length; equal blocks for None.

    Raises:
        TypeError, ValueError: see ``MergedLinear``.
    """
    if isinstance(enable_lora, str) or not isinstance(enable_lora, Sequence):
        raise TypeError(f"enable_lora must be a sequence with one bool for each output block, got {enable_lora!r}")
    if any(on not in (True, False) for on in enable_lora):
        raise TypeError(f"enable_lora must contain only True and False, got {list(enable_lora)}")
    enabled, n = tuple(bool(on) for on in enable_lora), len(enable_lora)
    if block_sizes is None:
        if n == 0 or out_features % n != 0:
            raise ValueError(
                f"out_features must be divisible by the number of blocks, got out_features={out_features} "
                f"and {n} entries in enable_lora={list(enable_lora)}; unequal blocks need block_sizes"
            )
        return enabled, (out_features // n,) * n
    sizes = tuple(block_sizes)
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise TypeError(f"block_sizes must be positive integers, got {list(sizes)}")
    if len(sizes) != n or sum(sizes) != out_features:
        raise ValueError(
            f"block_sizes must have one size for each entry of enable_lora and sum up to out_features={out_features}, "
            f"got block_sizes={list(sizes)} and enable_lora={list(enable_lora)}"
        )
    return enabled, sizes
