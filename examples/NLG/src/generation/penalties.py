"""What decoding forbids or discourages: edits of raw logits that depend on the tokens generated so far.

Everything is computed for all hypotheses at once and nothing waits for the device. The prompt never counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

NOTHING = -1  # where a hypothesis has not generated a token yet


def penalize(
    logits: Tensor,
    generated: Tensor,
    *,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    forbidden: Tensor | None = None,
    forbid_now: Tensor | bool = True,
) -> Tensor:
    """Applies, in the order of the released code, repetition penalty, forbidden ids and n-gram ban.

    Args:
        logits: (R, V) float32 of the next token of R hypotheses. Altered.
        generated: (R, t) tokens that each hypothesis has generated, t >= 0, after any number of ``NOTHING``.
        repetition_penalty: see ``discourage_repetition``; 1 is none.
        no_repeat_ngram_size: see ``ban_repeated_ngrams``; 0 is none.
        forbidden: (n,) ids whose logits become -inf: the end-of-text ids before ``min_length``.
        forbid_now: whether that holds at this step; on the device of ``logits``, so that nothing waits for it.

    Returns:
        ``logits``.
    """
    t = generated.size(1)
    if repetition_penalty != 1.0 and t > 0:
        discourage_repetition(logits, generated, repetition_penalty)
    if forbidden is not None:
        now = torch.as_tensor(forbid_now, device=logits.device)
        logits.index_copy_(1, forbidden, logits.index_select(1, forbidden).masked_fill_(now, -torch.inf))
    if no_repeat_ngram_size > 0 and t >= no_repeat_ngram_size:
        ban_repeated_ngrams(logits, generated, no_repeat_ngram_size)
    return logits


def discourage_repetition(logits: Tensor, generated: Tensor, penalty: float) -> None:
    """Divides the positive and multiplies the negative logits of tokens already generated, each token once.

    Source: Keskar et al. 2019 (arXiv:1909.05858), Section 4.1, in the form that also handles negative logits.
    """
    # A token that was generated stands in where there is none; so do equal tokens for one another
    generated = torch.where(generated < 0, generated[:, -1:], generated)
    seen = logits.gather(1, generated)  # (R, t); equal tokens get equal values, so writing them twice is harmless
    logits.scatter_(1, generated, torch.where(seen < 0, seen * penalty, seen / penalty))


def ban_repeated_ngrams(logits: Tensor, generated: Tensor, n: int) -> None:
    """Sets to -inf every token that would complete an n-gram which the hypothesis already contains.

    An n-gram ending in token x bans x when its first n - 1 tokens are the last n - 1 of the hypothesis; for n = 1
    that is every token generated so far.
    """
    t = generated.size(1)
    ngrams = generated.unfold(1, n, 1)  # (R, t - n + 1, n)
    recent = generated[:, None, t - n + 1 :]  # (R, 1, n - 1)
    last = ngrams[..., -1]
    completes = (ngrams[..., :-1] == recent).all(dim=-1) & (last >= 0)  # (R, t - n + 1)
    last = last.clamp_min(0)
    # The minimum lets a ban win where the same token ends several n-grams, and leaves other logits as they are
    banned = logits.gather(1, last).masked_fill(completes, -torch.inf)
    logits.scatter_reduce_(1, last, banned, reduce="amin")
