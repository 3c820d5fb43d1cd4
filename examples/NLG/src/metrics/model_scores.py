"""BERTScore and BLEURT, for those who have installed them and their models; imported only when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from examples.common.errors import UserError
from metrics.word_tokens import require_package

BLEURT_VARIABLE = "BLEURT_CHECKPOINT"


def bert_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, language: str
) -> dict[str, list[float]]:
    """Precision, recall and F1 of each item: each the best over its references that are not blank.

    Raises:
        UserError: bert_score is not installed, or its model is neither here nor to be had.
    """
    require_package("bert_score")
    from bert_score import score

    filled = [[text for text in texts if text.strip()] or [""] for texts in references]
    values = _run("BERTScore", lambda: score(list(hypotheses), filled, lang=language))
    return {f"BERT-SCORE {name}": [float(value) for value in column] for name, column in zip(("P", "R", "F1"), values)}


def bleurt_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, language: str
) -> dict[str, list[float]]:
    """BLEURT of each item: the best over its references that are not blank.

    The checkpoint is the folder that the environment variable BLEURT_CHECKPOINT names.

    Raises:
        UserError: the package or the checkpoint is missing, or the language is not English.
    """
    if language != "en":
        raise UserError("BLEURT's checkpoints are for English")
    require_package("bleurt")
    checkpoint = os.environ.get(BLEURT_VARIABLE)
    if not checkpoint or not os.path.isdir(checkpoint):  # noqa: PTH112 (a text, passed on as one)
        raise UserError(f"BLEURT needs the folder of a checkpoint in the environment variable {BLEURT_VARIABLE}")
    from bleurt import score

    filled = [[text for text in texts if text.strip()] or [""] for texts in references]
    flat_references = [text for texts in filled for text in texts]
    flat_hypotheses = [text for text, texts in zip(hypotheses, filled) for _ in texts]
    values = _run(
        "BLEURT",
        lambda: score.BleurtScorer(checkpoint).score(references=flat_references, candidates=flat_hypotheses),
    )
    following = iter(values)
    return {"BLEURT": [max(float(next(following)) for _ in texts) for texts in filled]}


def _run(name: str, compute: Callable[[], Sequence[Sequence[float]]]) -> Sequence:
    try:
        return compute()
    except (OSError, RuntimeError, ValueError) as error:  # the model is missing, broken or too big; others still count
        raise UserError(f"{name} failed: {' '.join(str(error).split())[:300] or type(error).__name__}") from error
