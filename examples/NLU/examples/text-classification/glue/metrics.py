"""The scores of GLUE, from scipy and scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import ConstantInputWarning, pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef


def glue_scores(task: str | None, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of a task (Wang et al. 2019, Section 3), as fractions.

    CoLA: Matthews correlation. STS-B: Pearson and Spearman. MRPC and QQP: accuracy and F1 of class 1. Others: accuracy.
    Data without a task name: mean squared error for numbers, else accuracy. More than one: also ``combined_score``,
    their mean.

    Args:
        predictions: (N,) class ids, or numbers for regression.
        labels: (N,) likewise.
    """
    scores: dict[str, float]
    if task == "cola":
        scores = {"matthews_correlation": float(matthews_corrcoef(labels, predictions))}
    elif task == "stsb":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)  # then the score is nan, which says it
            scores = {
                "pearson": float(pearsonr(predictions, labels).statistic),
                "spearmanr": float(spearmanr(predictions, labels).statistic),
            }
    elif task is None and np.issubdtype(predictions.dtype, np.floating):
        scores = {"mse": float(((predictions - labels) ** 2).mean())}
    else:
        scores = {"accuracy": float((predictions == labels).mean())}
        if task in ("mrpc", "qqp"):
            scores["f1"] = float(f1_score(labels, predictions))
    if len(scores) > 1:
        scores["combined_score"] = float(np.mean(list(scores.values())))
    return scores


def overall_accuracy(scores: Mapping[str, float], counts: tuple[int, int], prefix: str = "eval") -> float:
    """MNLI's accuracy over both halves, from that of each and their numbers of examples (matched, mismatched)."""
    right = scores[f"{prefix}_accuracy"] * counts[0] + scores[f"{prefix}_mm_accuracy"] * counts[1]
    return right / sum(counts)


def predicted(logits: np.ndarray | tuple[np.ndarray, ...], is_regression: bool) -> np.ndarray:
    """(N,) class ids, or numbers for regression, from (N, C) logits; models may return more behind the logits."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.squeeze(-1) if is_regression else logits.argmax(axis=-1)


def score_function(task: str | None, is_regression: bool) -> Callable[[Any], dict[str, float]]:
    """What the Trainer calls after an evaluation."""

    def compute(result: Any) -> dict[str, float]:
        return glue_scores(task, predicted(result.predictions, is_regression), result.label_ids.reshape(-1))

    return compute
