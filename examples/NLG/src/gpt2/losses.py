"""The training objective: cross-entropy over the tokens that the mask counts, and nothing else computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Added to the number of counted tokens, as released: an empty mask gives loss 0 and not NaN.
DENOMINATOR_EPSILON = 1e-4
# Smoothing at or below this is no smoothing, as released.
MIN_LABEL_SMOOTH = 1e-4


def token_losses(logits: Tensor, target: Tensor, label_smooth: float = 0.0) -> Tensor:
    """Cross-entropy of every token, in nats.

    With smoothing s the target distribution is (1 - s) on the label plus s spread over the whole vocabulary, the
    label included (Szegedy et al. 2016, Section 7).

    Args:
        logits: (n, V), any float dtype; reduced in float32.
        target: (n,) token ids. Without smoothing, an id of -1 has loss 0.
        label_smooth: s in [0, 1).

    Returns:
        (n,) float32.
    """
    if label_smooth <= MIN_LABEL_SMOOTH:
        return F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="none")
    return F.cross_entropy(logits.float(), target, label_smoothing=label_smooth, reduction="none")


def lm_loss(logits: Tensor, target: Tensor, mask: Tensor | None = None, label_smooth: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats per counted token, from logits at every position.

    The divisor is the number of counted tokens + 1e-4. Training computes the same by ``chunked_loss``.

    Args:
        logits: (B, T, V).
        target: (B, T) token ids, already shifted: target[b, t] follows input[b, t].
        mask: (B, T), 1.0 where the token counts; None counts all.
        label_smooth: see ``token_losses``.

    Returns:
        Scalar. Zero, not NaN, when nothing is counted.
    """
    if mask is None:
        mask = torch.ones(target.shape, device=logits.device)
    losses = token_losses(logits.flatten(0, 1), target.flatten(), label_smooth)
    return (losses * mask.flatten()).sum() / (mask.sum() + DENOMINATOR_EPSILON)
