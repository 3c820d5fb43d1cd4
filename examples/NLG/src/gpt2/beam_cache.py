"""Keys and values of a beam search, stored once and never moved: a hypothesis is a set of visible columns.

The K hypotheses of a prompt attend to one common store: the columns of the prompt, then K columns for every step, one
for each hypothesis that was alive then. When a hypothesis continues another, it inherits a row of the visibility mask
instead of a copy of keys and values, so following the parents costs K x columns numbers, not K x columns x layers x
channels. The price is that scores are also computed for the columns of siblings, where the mask drops them: their
weight in the softmax is exactly zero. All hypotheses of a prompt being queries of one product makes up for it.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.attention import Attend, causal_attention
from gpt2.config import GPT2Config


class BeamCache:
    """Keys and values of B prompts with K hypotheses each, for every layer.

    Use: one pass of the model over the padded prompts with ``attends()``, then ``end_prompt()``; then for each step
    ``begin_step()``, a pass over (B, K) new tokens with ``attends()``, and ``follow(parents)``.

    Attributes:
        store: (L, 2, B, H, P + steps * K, D); index 0 of the second dimension keys, 1 values.
        mask: (B, 1, K, P + steps * K), added to the scores: 0 where a hypothesis may look, -inf elsewhere.
        used: columns filled so far.

    Args:
        config: sizes of the model.
        lengths: (B,) tokens of each prompt, without padding.
        width: P, the padded length of the prompts.
        beam: K.
        steps: most passes after that over the prompts.
        dtype: of the model's activations.
    """

    def __init__(
        self, config: GPT2Config, lengths: Tensor, *, width: int, beam: int, steps: int, dtype: torch.dtype
    ) -> None:
        B, H, D = lengths.numel(), config.n_head, config.n_embd // config.n_head
        columns = width + steps * beam
        self.beam = beam
        self.width = width
        self.store = torch.empty(config.n_layer, 2, B, H, columns, D, dtype=dtype, device=lengths.device)
        self.mask = torch.full((B, 1, beam, columns), -torch.inf, dtype=dtype, device=lengths.device)
        is_padding = torch.arange(width, device=lengths.device) >= lengths[:, None]  # (B, P)
        self.mask[..., :width] = torch.zeros_like(self.mask[..., :width]).masked_fill_(
            is_padding[:, None, None], -torch.inf
        )
        self.used = 0

    def attends(self) -> list[Attend]:
        """One ``Attend`` a layer; it stores the new keys and values behind the columns in use."""
        return [partial(self._attend, layer) for layer in range(self.store.size(0))]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, P, D) of the prompts, or (B, H, K, D) of one token of every hypothesis; same shape out."""
        end = self.used + q.size(2)
        if self.used == 0:  # padding stands on the right, where causal attention never looks
            self.store[layer, 0, :, :, :end] = k
            self.store[layer, 1, :, :, :end] = v
            return causal_attention(q, k, v)
        self.store[layer, 0, :, :, self.used : end] = k
        self.store[layer, 1, :, :, self.used : end] = v
        keys, values = self.store[layer, :, :, :, :end]
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self.mask[..., :end])

    def end_prompt(self) -> None:
        """The columns of the prompts are filled."""
        self.used = self.width

    def begin_step(self) -> None:
        """Opens K columns, each visible to its own hypothesis."""
        new = self.mask[:, 0, :, self.used : self.used + self.beam]  # (B, K, K)
        new.diagonal(dim1=1, dim2=2).zero_()

    def follow(self, parents: Tensor) -> None:
        """After a step: hypothesis k of prompt b continues ``parents[b, k]``, and sees what that one sees.

        Args:
            parents: (B, K) int64 in 0 ... K-1.
        """
        self.used += self.beam
        generated = self.mask[:, 0, :, self.width : self.used]  # (B, K, columns of all steps so far)
        generated.copy_(generated.gather(1, parents[:, :, None].expand_as(generated)))

    def move(self, holes: Tensor, movers: Tensor, size: int) -> None:
        """Keeps ``size`` prompts: those at ``movers`` take the places ``holes``, the rest stay where they are.

        Copies only the columns in use, and only of the prompts that change place.
        """
        if holes.numel() > 0:
            self.store[:, :, holes, :, : self.used] = self.store[:, :, movers, :, : self.used]
            self.mask[holes] = self.mask[movers]
        self.store, self.mask = self.store[:, :, :size], self.mask[:size]
