"""Losses as sums with counts, so that they add up over batches, processes and data sets to means over all tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from clm.features import IGNORED


def token_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats of each token that counts, (N,).

    Args:
        logits: (B, T, V), any float dtype; reduced in float32.
        labels: (B, T), not shifted: logits[b, t] say what labels[b, t + 1] is; -100 where nothing counts.
    """
    target = labels[:, 1:]
    counts = target != IGNORED
    return cross_entropy(
        logits[:, :-1][counts].float(), target[counts], reduction="none", label_smoothing=label_smoothing
    )


@torch.no_grad()
def row_figures(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, 3): sum of the losses of a row's tokens, how many the model has right, how many there are."""
    counts = labels[:, 1:] != IGNORED
    figures = logits.new_zeros(*counts.shape, 3, dtype=torch.float64)  # (B, T-1, 3)
    right = logits[:, :-1][counts].argmax(-1) == labels[:, 1:][counts]
    figures[counts] = torch.stack([token_losses(logits, labels), right, torch.ones_like(right)], -1).double()
    return figures.sum(1)


def language_scores(figures: np.ndarray) -> dict[str, float]:
    """Loss in nats per token, its perplexity, and the share of tokens that were the most probable ones.

    Args:
        figures: (N, 3) of ``row_figures``.
    """
    loss, right, count = figures.sum(0)
    if not count:
        return {"loss": 0.0, "perplexity": 1.0, "token_accuracy": 0.0, "tokens": 0}
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(loss / count))
    return {"loss": loss / count, "perplexity": perplexity, "token_accuracy": right / count, "tokens": int(count)}


def class_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Cross-entropy in nats, accuracy, and the mean F1 over the classes that occur in either."""
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    predicted = logits.argmax(-1)
    return {"loss": -float(log_probabilities[np.arange(len(labels)), labels].mean()), **label_scores(predicted, labels)}


def label_scores(predicted: Sequence[Any] | np.ndarray, labels: Sequence[Any] | np.ndarray) -> dict[str, float]:
    """Accuracy and macro F1."""
    right = np.asarray(predicted) == np.asarray(labels)
    f1 = f1_score(labels, predicted, average="macro", zero_division=0)
    return {"accuracy": float(right.mean()), "f1_macro": float(f1)}


def finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores with None for what is not a finite number, which JSON cannot say."""
    return {name: None if isinstance(x, float) and not np.isfinite(x) else x for name, x in scores.items()}
