"""Keys and values of a beam search, stored once and never moved: a hypothesis is a set of visible columns.

The K hypotheses of a prompt attend to one common store of columns, one column a token. When a hypothesis continues
another, it inherits a row of the visibility mask instead of a copy of keys and values. A column that no hypothesis sees
any more is free, and the tokens of the next step go into the first free columns: since the survivors of a beam share
their older tokens, the store holds a tree, and grows by less than K columns a step. The price is that scores are also
computed for the columns of siblings, where the mask drops them: their weight in the softmax is exactly zero.

Places of the batch are independent: each has its own free columns, so a new prompt can take the place of a decided one
at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from gpt2.config import GPT2Config
from torch import Tensor

Attend = Callable[[Tensor], Tensor]  # (B, T, 3, H, D) queries, keys, values of the new tokens -> (B, T, H, D)

FIRST_STEPS = 4  # steps that the store has room for at first; it grows by half where that is not enough


class BeamCache:
    """Keys and values of B places with K hypotheses each, for every layer.

    Use: ``admit()`` and a pass over new prompts with ``prompt_attends()``; then for each step ``begin_step()``, a pass
    over (B, K) new tokens with ``step_attends()``, and ``follow(parents)``.

    Attributes:
        store: (L, B, S, 2, H, D); index 0 of the fourth dimension keys, 1 values.
        mask: (B, K, S), added to the scores: 0 where a hypothesis may look, -inf elsewhere.
        end: columns that the current step attends to; all of them if ``static``.

    Args:
        config: sizes of the model.
        places: B.
        width: tokens of the longest prompt.
        beam: K.
        steps: most passes after that over a prompt.
        static: no size ever changes and nothing waits for the device, as a CUDA graph needs it.
    """

    def __init__(
        self,
        config: GPT2Config,
        *,
        places: int,
        width: int,
        beam: int,
        steps: int,
        dtype: torch.dtype,
        device: torch.device,
        static: bool = False,
    ) -> None:
        # A prompt's tokens, and K for every step: what is needed if no column is ever freed
        self.most = -(-(width + steps * beam) // 8) * 8  # fused attention on a GPU wants rows of 16 bytes
        columns = self.most if static else min(self.most, width + FIRST_STEPS * beam)
        H, D = config.n_head, config.n_embd // config.n_head
        self.static = static
        # Masked columns are computed with, so they must be finite
        self.store = torch.zeros(config.n_layer, places, columns, 2, H, D, dtype=dtype, device=device)
        self.mask = torch.full((places, beam, columns), -torch.inf, dtype=dtype, device=device)
        self.new = torch.zeros(places, beam, dtype=torch.int64, device=device)
        self.end = columns

    @property
    def columns(self) -> int:
        """S, columns that there is room for."""
        return self.mask.size(2)

    def admit(self, places: Tensor, lengths: Tensor) -> None:
        """Prompts of ``lengths`` (n,) tokens take ``places`` (n,); what was there is forgotten."""
        visible = torch.arange(self.columns, device=lengths.device) < lengths[:, None]  # (n, S)
        empty = self.mask.new_full((places.numel(), self.columns), -torch.inf).masked_fill_(visible, 0.0)
        self.mask[places] = empty[:, None].expand(-1, self.mask.size(1), -1)
        self.end = self.columns

    def prompt_attends(self, places: Tensor) -> list[Attend]:
        """One ``Attend`` a layer for a pass over prompts that stand at ``places``, padded on the right."""
        return [partial(self._attend_prompt, layer, places) for layer in self.store]

    @staticmethod
    def _attend_prompt(layer: Tensor, places: Tensor, qkv: Tensor) -> Tensor:
        """(n, P, 3, H, D) -> (n, P, H, D)."""
        layer[places, : qkv.size(1)] = qkv[:, :, 1:]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, H, P, D)
        # padding stands on the right, where causal attention never looks
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    def begin_step(self) -> None:
        """Opens K columns in every place, each visible to its own hypothesis."""
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

    def step_attends(self) -> list[Attend]:
        """One ``Attend`` a layer for one new token of every hypothesis."""
        B, S = self.mask.size(0), self.columns
        rows = (self.new + S * torch.arange(B, device=self.new.device)[:, None]).flatten()  # (B * K,)
        return [partial(self._attend_step, layer, rows, self.mask[:, None, :, : self.end]) for layer in self.store]

    def _attend_step(self, layer: Tensor, rows: Tensor, mask: Tensor, qkv: Tensor) -> Tensor:
        """(B, K, 3, H, D) -> (B, K, H, D)."""
        layer.flatten(0, 1).index_copy_(0, rows, qkv[:, :, 1:].flatten(0, 1))
        keys, values = layer[:, : self.end].permute(2, 0, 3, 1, 4)  # each (B, H, S', D)
        return F.scaled_dot_product_attention(qkv[:, :, 0].transpose(1, 2), keys, values, attn_mask=mask).transpose(
            1, 2
        )

    def follow(self, parents: Tensor, over: Tensor) -> None:
        """After a step: hypothesis k of place b continues ``parents[b, k]``, and sees what that one sees.

        Args:
            parents: (B, K) int64 in 0 ... K-1.
            over: (B,) whether the search of a place has reached its last step; it then sees nothing any more.
        """
        mask = self.mask[:, :, : self.end]
        followed = mask.gather(1, parents[:, :, None].expand_as(mask))
        mask.copy_(followed.masked_fill_(over[:, None, None], -torch.inf))

    def move(self, holes: Tensor, movers: Tensor, size: int) -> None:
        """Keeps ``size`` places: the prompts at ``movers`` go to ``holes``, the rest stay where they are.

        Copies only the columns in use, and only of the prompts that change place.
        """
        if holes.numel() > 0:
            self.store[:, holes, : self.end] = self.store[:, movers, : self.end]
            self.mask[holes] = self.mask[movers]
        self.store, self.mask, self.new = self.store[:, :size], self.mask[:size], self.new[:size]
