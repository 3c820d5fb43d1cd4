"""``nn.Linear`` with a low-rank update of its whole output, or of chosen blocks of a fused projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.lowrank import lowrank_linear
from loralib.products import linear


class _LowRankLinear(LoRALayer, nn.Linear):
    """What the two linear layers share: a weight that may be stored transposed, and the forward pass."""

    fan_in_fan_out: bool = False
    enable_lora: tuple[bool, ...]

    def _finish(self, fan_in_fan_out: bool) -> None:
        """Second draw of all parameters, as released (seeded runs depend on the order), then the stored orientation."""
        self.reset_parameters()
        self.fan_in_fan_out = bool(fan_in_fan_out)
        if fan_in_fan_out:
            # Contiguous, unlike the released package's: safetensors refuses strided parameters.
            self.weight = nn.Parameter(self.weight.detach().T.contiguous(), self.weight.requires_grad)

    def reset_parameters(self) -> None:
        """Draws weight and bias as ``nn.Linear`` does for (out, in), however they are stored; then the factors."""
        if not self.fan_in_fan_out:
            super().reset_parameters()
            return
        # Drawn for (out, in) and copied, so that a seed gives the same values in both orientations.
        drawn = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, self.weight.device, self.weight.dtype
        )
        with torch.no_grad():
            self.weight.copy_(drawn.weight.T)
            if self.bias is not None:
                self.bias.copy_(drawn.bias)
        self.reset_lora_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Frozen layer plus update (Section 4.1, Eq. 3).

        Args:
            input: (..., in_features).

        Returns:
            (..., out_features).
        """
        weight = self._plain_weight()
        if weight is not None:
            return linear(input, self._oriented(weight), self.bias)
        return lowrank_linear(
            input,
            self._oriented(self.weight),
            self.bias,
            self.lora_A,
            self.lora_B,
            scaling=self.scaling,
            enabled=self.enable_lora,
            dropout=self.lora_dropout,
        )

    def _oriented(self, weight: Tensor) -> Tensor:
        """(out_features, in_features) or, if ``fan_in_fan_out``, the transpose of it; its own inverse."""
        return weight.T if self.fan_in_fan_out else weight


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
        lora_alpha: float = 1,
        lora_dropout: float = 0.0,
        fan_in_fan_out: bool = False,
        merge_weights: bool = True,
        *,
        lora_init: str = "released",
        **kwargs: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights, lora_init=lora_init)
        if self.r > 0:
            self._add_factors((self.r, in_features), (out_features, self.r))
        self._finish(fan_in_fan_out)

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        return self._oriented(lora_B @ lora_A)


class MergedLinear(_LowRankLinear):
    """Fused projection, as query, key and value in one matrix, with low-rank updates for chosen blocks of its output.

    Maths, for n = len(enable_lora) blocks of out/n features of which g are enabled, s = alpha/r::

        z = D(x) A^T                                   (..., g*r)
        y = x W^T + b                                  (..., out)
        y[block of the j-th enabled] += s z_j B_j^T    (..., out/n)

    Shapes: W (out, in), or (in, out) if ``fan_in_fan_out``; ``lora_A`` (g*r, in), rows j*r to (j+1)*r = A_j;
    ``lora_B`` (g*out/n, r), rows j*out/n to (j+1)*out/n = B_j; r is the rank of one block. All blocks share one dropout
    mask. Only merging builds the (out, in) update; the forward pass does not (see ``lowrank_linear``).
    Source: Hu et al. 2021, Section 4.1, Eq. 3, for the projections of Section 4.2.

    Args:
        in_features, out_features, r, lora_alpha, lora_dropout, fan_in_fan_out, merge_weights, lora_init, **kwargs:
            as in ``Linear``.
        enable_lora: for each of the equal output blocks, whether it has an update. With none the layer is a plain one,
            its weight trainable, whatever r is.

    Raises:
        ValueError: ``out_features`` is not a multiple of ``len(enable_lora)``, or ``enable_lora`` is empty.
        TypeError, ValueError: see ``LoRALayer``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int = 0,
        lora_alpha: float = 1,
        lora_dropout: float = 0.0,
        enable_lora: Sequence[bool] = (False,),
        fan_in_fan_out: bool = False,
        merge_weights: bool = True,
        *,
        lora_init: str = "released",
        **kwargs: Any,
    ) -> None:
        enabled = _checked_blocks(enable_lora, out_features)
        nn.Linear.__init__(self, in_features, out_features, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights, lora_init=lora_init)
        self.enable_lora = enabled
        if self.r > 0 and any(enabled):
            g, block = sum(enabled), out_features // len(enabled)
            self._add_factors((self.r * g, in_features), (block * g, self.r))
        self._finish(fan_in_fan_out)

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        g = sum(self.enable_lora)
        blocks = lora_B.reshape(g, -1, self.r) @ lora_A.reshape(g, self.r, -1)  # (g, out/n, in)
        enabled, disabled = iter(blocks), torch.zeros_like(blocks[0])
        return self._oriented(torch.cat([next(enabled) if on else disabled for on in self.enable_lora]))


def _checked_blocks(enable_lora: Sequence[bool], out_features: int) -> tuple[bool, ...]:
    if isinstance(enable_lora, str) or not isinstance(enable_lora, Sequence):
        raise TypeError(f"enable_lora must be a sequence with one bool for each output block, got {enable_lora!r}")
    if any(on not in (True, False) for on in enable_lora):
        raise TypeError(f"enable_lora must contain only True and False, got {list(enable_lora)}")
    n = len(enable_lora)
    if n == 0 or out_features % n != 0:
        raise ValueError(
            f"out_features must be divisible by the number of blocks, got out_features={out_features} "
            f"and {n} entries in enable_lora={list(enable_lora)}"
        )
    return tuple(bool(on) for on in enable_lora)
