"""Keys and values of a beam search, stored once and never moved: a hypothesis is a set of visible columns.

The K hypotheses of a prompt attend to one common store of columns, one column a token. When a hypothesis continues
another, it inherits a row of the visibility mask instead of a copy of keys and values. A column that no hypothesis sees
any more is free, and the tokens of the next step go into the first free columns: since the survivors of a beam share
their older tokens, the store holds a tree, and grows by less than K columns a step. The price is that scores are also
computed for the columns of siblings, where the mask drops them: their weight in the softmax is exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from gpt2.config import GPT2Config
from torch import Tensor

# (B, T, 3, H, D) queries, keys and values of the new tokens -> (B, T, H, D); a layer's own cache is inside
CachedAttention = Callable[[Tensor], Tensor]

FIRST_STEPS = 4  # steps that the store has columns for at first; it grows by half where that is not enough


class BeamCache:
    """Keys and values of B prompts with K hypotheses each, for every layer.

    Use: a pass over the prompts with ``prompt_attention()``; then for each step ``begin_step()``, a pass over (B, K)
    new tokens with ``step_attention()``, and ``follow(parents)``.

    Attributes:
        store: (L, B, S, 2, H, D); index 0 of the fourth dimension keys, 1 values.
        mask: (B, K, S), added to the scores: 0 where a hypothesis may look, -inf elsewhere.
        end: columns that the current step attends to; all of them if ``static``.

    Args:
        config: sizes of the model.
        lengths: (B,) tokens of the prompts.
        width: tokens of the longest prompt.
        beam: K.
        steps: most passes after that over the prompts.
        static: no size ever changes and nothing waits for the device, as a CUDA graph needs it.
    """

    def __init__(
        self,
        config: GPT2Config,
        lengths: Tensor,
        *,
        width: int,
        beam: int,
        steps: int,
        dtype: torch.dtype,
        static: bool = False,
    ) -> None:
        # A prompt's tokens, and K for every step: what is needed if no column is ever freed
        self.most = -(-(width + steps * beam) // 8) * 8  # fused attention on a GPU wants rows of 16 bytes
        self.end = self.most if static else min(self.most, width + FIRST_STEPS * beam)
        self.static = static
        B, H, D, device = lengths.numel(), config.n_head, config.n_embd // config.n_head, lengths.device
        # Masked columns are computed with, so they must be finite
        self.store = torch.zeros(config.n_layer, B, self.end, 2, H, D, dtype=dtype, device=device)
        self.mask = torch.full((B, beam, self.end), -torch.inf, dtype=dtype, device=device)
        visible = torch.arange(self.end, device=device) < lengths[:, None]  # (B, S)
        self.mask.masked_fill_(visible[:, None], 0.0)
        self.new = torch.zeros(B, beam, dtype=torch.int64, device=device)  # columns of the current step

    @property
    def columns(self) -> int:
        """S, columns that there is memory for."""
        return self.mask.size(2)

    def prompt_attention(self) -> list[CachedAttention]:
        """One for each layer, for a pass over the prompts, padded on the right."""
        return [partial(self._attend_prompt, layer) for layer in self.store]

    @staticmethod
    def _attend_prompt(layer: Tensor, qkv: Tensor) -> Tensor:
        """(B, P, 3, H, D) -> (B, P, H, D)."""
        layer[:, : qkv.size(1)] = qkv[:, :, 1:]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, P, D)
        # padding stands on the right, where causal attention never looks
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    def begin_step(self) -> None:
        """Opens K columns for every prompt, each visible to its own hypothesis."""
        free, index = self._free()
        if not self.static:
            while int(free.sum(dim=1).min()) < self.mask.size(1):
                self._grow()
                free, index = self._free()
        # (B, K) the first free columns
        new = torch.where(free, index, self.columns).topk(self.mask.size(1), dim=1, largest=False).values
        self.new.copy_(new)
        self.mask.scatter_(2, self.new[:, :, None], 0.0)
        if not self.static:
            self.end = int(torch.where(free, -1, index).amax().maximum(new.amax())) + 1

    def _free(self) -> tuple[Tensor, Tensor]:
        """(B, S) whether no hypothesis sees a column, and (S,) the numbers of the columns."""
        return self.mask.amax(dim=1) < 0, torch.arange(self.columns, device=self.mask.device)

    def _grow(self) -> None:
        columns = min(self.most, self.columns + self.columns // 2)
        assert columns > self.columns, "more columns are visible than a search can have"
        L, B, S, *rest = self.store.shape
        store = self.store.new_zeros(L, B, columns, *rest)
        for layer, grown in zip(self.store, store):
            grown[:, :S] = layer
        self.store = store
        self.mask = F.pad(self.mask, (0, columns - S), value=-torch.inf)

    def step_attention(self) -> list[CachedAttention]:
        """One for each layer, for one new token of every hypothesis."""
        B, S = self.mask.size(0), self.columns
        rows = (self.new + S * torch.arange(B, device=self.new.device)[:, None]).flatten()  # (B * K,)
        mask = self.mask[:, None, :, : self.end]
        return [partial(self._attend_step, layer, rows, mask) for layer in self.store]

    def _attend_step(self, layer: Tensor, rows: Tensor, mask: Tensor, qkv: Tensor) -> Tensor:
        """(B, K, 3, H, D) -> (B, K, H, D)."""
        layer.view(-1, *layer.shape[2:]).index_copy_(0, rows, qkv[:, :, 1:].flatten(0, 1))
        q = qkv[:, :, 0].transpose(1, 2)
        keys, values = layer[:, : self.end].permute(2, 0, 3, 1, 4)  # each (B, H, S', D)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).transpose(1, 2)

    def follow(self, parents: Tensor) -> None:
        """After a step: hypothesis k of prompt b continues ``parents[b, k]``, (B, K) int64, and sees what it sees."""
        mask = self.mask[:, :, : self.end]
        mask.copy_(mask.gather(1, parents[:, :, None].expand_as(mask)))

    def keep(self, slots: Sequence[int]) -> None:
        """The prompt in slot ``slots[i]`` moves to slot i, the others are dropped.

        Copies only the columns in use, and only of the prompts that move.
        """
        moved = [to for to, slot in enumerate(slots) if to != slot]
        self.store[:, moved, : self.end] = self.store[:, [slots[to] for to in moved], : self.end]
        self.store = self.store[:, : len(slots)]
        self.mask, self.new = self.mask[slots], self.new[slots]
