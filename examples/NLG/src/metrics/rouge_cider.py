"""ROUGE-L and CIDEr by the COCO caption classes of pycocoevalcap, which the E2E challenge used."""

from __future__ import annotations

from collections.abc import Sequence


def rouge_l(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[float, list[float]]:
    """Mean ROUGE-L and that of each item; beta 1.2, best precision and best recall over the references.

    Args:
        references: PTB-tokenised texts, at least one per item.
        hypotheses: PTB-tokenised texts.
    """
    from pycocoevalcap.rouge.rouge import Rouge

    return _score(Rouge(), references, hypotheses)


def cider(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[float, list[float]]:
    """CIDEr of the corpus and of each item, times 10; n 1 to 4, sigma 6, clipped; document frequencies from
    ``references``, so every figure is 0 for a single item.
    """
    from pycocoevalcap.cider.cider import Cider

    if not any(text.split() for texts in references for text in texts):
        return 0.0, [0.0] * len(hypotheses)  # nothing to count document frequencies of
    return _score(Cider(), references, hypotheses)


def _score(scorer: object, references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[float, list[float]]:
    gts = {number: list(texts) for number, texts in enumerate(references)}
    res = {number: [text] for number, text in enumerate(hypotheses)}
    corpus, segments = scorer.compute_score(gts, res)  # type: ignore[attr-defined]
    return float(corpus), [float(score) for score in segments]
