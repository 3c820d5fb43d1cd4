"""Three ways for queries to meet keys: within the input alone, with a growing past, with a past of fixed size.

Every way is an ``Attend``: called once per layer and forward pass with the new queries, keys and values. The beam
search has its own in ``beam_cache``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# On a CPU, torch's gradient of bfloat16 attention over short inputs is several times slower than that of float32, which
# is also more exact; over long ones it is the other way round.
MAX_WIDENED = 256  # tokens

# (q, k, v), each (B, H, T, D), of the T new tokens -> (B, H, T, D)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Fused causal self-attention; the last query sees every key.

    Args:
        q: (B, H, T, D).
        k, v: (B, H, S, D) with S >= T; the first S - T keys lie in the past of every query.

    Returns:
        (B, H, T, D).
    """
    new, total = q.size(2), k.size(2)
    if new == total:
        if q.dtype == torch.bfloat16 and q.device.type == "cpu" and new <= MAX_WIDENED and q.requires_grad:
            with torch.autocast("cpu", enabled=False):  # which would turn the three back to bfloat16
                return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True).to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # `is_causal` aligns the triangle to the top left; with a past it belongs to the bottom right
    visible = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)


class GrowingPast:
    """Attention that puts the new keys and values after those of the past.

    Args:
        past: (2, B, H, P, D), keys and values of one layer, or None at the start.

    After the call ``present`` is (2, B, H, P + T, D).
    """

    def __init__(self, past: Tensor | None) -> None:
        self.past = past
        self.present: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.past is not None:
            k = torch.cat([self.past[0], k], dim=2)
            v = torch.cat([self.past[1], v], dim=2)
        self.present = torch.stack([k, v])
        return causal_attention(q, k, v)


class FixedPast:
    """Attention for one new token a row, over a cache of fixed size that is written in place.

    Args:
        past: (2, B, H, S, D), the cache of one layer. Altered: row b gets its new key and value at ``len_past[b]``.
        len_past: (B,) int64, how many tokens of the row came before.
    """

    def __init__(self, past: Tensor, len_past: Tensor) -> None:
        self.present = past
        self.len_past = len_past

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.size(2) != 1:
            raise ValueError(f"a fixed-size past takes one new token a row, got {q.size(2)}")
        rows = torch.arange(q.size(0), device=q.device)
        self.present[0, rows, :, self.len_past] = k[:, :, 0]
        self.present[1, rows, :, self.len_past] = v[:, :, 0]
        positions = torch.arange(self.present.size(3), device=q.device)
        visible = (positions <= self.len_past[:, None])[:, None, None, :]  # (B, 1, 1, S)
        return F.scaled_dot_product_attention(q, self.present[0], self.present[1], attn_mask=visible)
