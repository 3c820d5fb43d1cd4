"""R-Drop and token cutoff: a second pass over the batch, and a penalty where the two passes disagree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from examples.common.errors import UserError


@dataclass(frozen=True)
class Consistency:
    """Settings of the two-pass loss.

    Attributes:
        weight: of the penalty (``--reg_loss_wgt``); above 0.
        masking_prob: probability that a token becomes ``unk`` in the second pass (token cutoff); 0 gives R-Drop, whose
            passes differ by dropout alone.
        kept: ids that are never masked (beginning and end of a sentence).
        unk: id of the unknown token.
    """

    weight: float
    masking_prob: float = 0.0
    kept: tuple[int, ...] = ()
    unk: int = 0

    def second_input(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) ids of the second pass; each position that may be masked is drawn by itself."""
        if self.masking_prob == 0.0:
            return input_ids
        eligible = attention_mask.bool()
        for token in self.kept:
            eligible &= input_ids != token
        hit = torch.rand(input_ids.shape, device=input_ids.device) < self.masking_prob
        return input_ids.masked_fill(hit & eligible, self.unk)


def find_consistency(
    reg_loss_wgt: float, masking_prob: float, tokenizer: PreTrainedTokenizerBase, is_regression: bool
) -> Consistency | None:
    """Settings from the flags; None where the weight is 0.

    Raises:
        UserError: a value outside its range, a regression task, or a tokenizer without the ids that cutoff needs.
    """
    if reg_loss_wgt < 0:
        raise UserError(f"--reg_loss_wgt must be at least 0, got {reg_loss_wgt}")
    if not 0 <= masking_prob <= 1:
        raise UserError(f"--masking_prob must be a probability, got {masking_prob}")
    if reg_loss_wgt == 0:
        if masking_prob:
            raise UserError("--masking_prob has an effect only with --reg_loss_wgt above 0")
        return None
    if is_regression:
        raise UserError("--reg_loss_wgt compares class probabilities; this task is a regression and has none")
    if masking_prob == 0:
        return Consistency(reg_loss_wgt)
    unk, kept = tokenizer.unk_token_id, (tokenizer.cls_token_id, tokenizer.sep_token_id)
    if unk is None or unk == tokenizer.pad_token_id or None in kept:
        raise UserError("--masking_prob needs a tokenizer with cls, sep and unk tokens of their own")
    return Consistency(reg_loss_wgt, masking_prob, tuple(int(token) for token in kept if token is not None), unk)


def consistency_loss(first: Tensor, second: Tensor, labels: Tensor, weight: float) -> Tensor:
    """``CE(l1, y) + CE(l2, y) + w/2 * (KL(p || softmax l1) + KL(p || softmax l2))``, p = softmax of the mean logits.

    The cross-entropies are means over examples and added, not averaged; KL is a mean over examples *and* classes, as
    in the released code. Examples with a negative label are left out.

    Args:
        first, second: (B, C) logits of the two passes.
        labels: (B,) class ids.
        weight: w.

    Returns:
        Scalar in float32; zero where no example is left.
    """
    known = labels >= 0
    if not bool(known.any()):
        return (first.sum() + second.sum()) * 0.0
    first, second, labels = first[known].float(), second[known].float(), labels[known]
    p = F.softmax((first + second) / 2, dim=-1)
    log_p = F.log_softmax((first + second) / 2, dim=-1)

    def divergence(logits: Tensor) -> Tensor:
        return (p * (log_p - F.log_softmax(logits, dim=-1))).sum() / logits.numel()

    cross_entropy = F.cross_entropy(first, labels) + F.cross_entropy(second, labels)
    return cross_entropy + 0.5 * weight * (divergence(first) + divergence(second))
