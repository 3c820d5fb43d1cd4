"""BLEU-4 and NIST-5 of the E2E challenge, by the definitions of both of its programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

BLEU_ORDER = 4
NIST_ORDER = 5
DEFINITIONS = ("python", "perl")
# Penalty exponent: the penalty is 1/2 where the output has 2/3 of the references' length (Doddington 2002).
NIST_BETA = math.log(2) / math.log(1.5) ** 2

Tokens = Sequence[str]
Ngrams = Counter[tuple[str, ...]]


def corpus_bleu(
    references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens], *, definition: str = "python"
) -> float:
    """BLEU-4 of a corpus; a single segment is a corpus of one.

    A count of 0 is replaced by a tiny floor. By ``python`` (pymteval, the original's ``-p``) a hypothesis shorter
    than n lowers the n-gram total, since ``len - n + 1`` is added even where negative; many empty hypotheses can so
    lift BLEU above 1. By ``perl`` (mteval-v13a, as in other BLEUs) such a hypothesis adds 0. Without hypotheses
    under 4 tokens both are equal.
    """
    return _bleu(_bleu_statistics(references, hypotheses, definition))


def sentence_bleu(references: Sequence[Tokens], hypothesis: Tokens) -> float:
    """BLEU-4 of one segment with 1 added to every match and total, so that a missing order does not make it 0."""
    # by `python` a negative total plus 1 would hit the floor and give a "BLEU" of thousands
    return _bleu(_bleu_statistics([references], [hypothesis], "perl"), add=1)


def corpus_nist(
    references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens], *, definition: str = "python"
) -> float:
    """NIST-5 of a corpus; information weights come from all of its references.

    The definitions differ in the reference length of the penalty: ``python`` (``-p``) adds up each item's mean
    reference length, ``perl`` (mteval-v13a) multiplies the items by the mean length over all references. n-gram
    totals as in ``corpus_bleu``.

    Source: Doddington 2002, "Automatic evaluation of machine translation quality using n-gram co-occurrence
    statistics", Eq. 3.
    """
    counts = [[ngrams(text, NIST_ORDER) for text in texts] for texts in references]
    information = _information(counts)
    gains = [0.0] * NIST_ORDER
    totals = [0] * NIST_ORDER
    for item_counts, hypothesis in zip(counts, hypotheses):
        for ngram, count in _clipped(ngrams(hypothesis, NIST_ORDER), item_counts).items():
            gains[len(ngram) - 1] += count * information[ngram]
        for n in range(NIST_ORDER):
            totals[n] += _n_ngrams(hypothesis, n + 1, definition)
    # an order for which the totals cancel out has no value in the original (division by zero); it adds nothing
    score = sum(gain / total for gain, total in zip(gains, totals) if total)
    return score * _nist_penalty(references, hypotheses, definition)


def ngrams(tokens: Tokens, order: int) -> Ngrams:
    """How often each n-gram of length 1 to ``order`` occurs."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, order + 1) for i in range(len(tokens) - n + 1))


def _n_ngrams(hypothesis: Tokens, n: int, definition: str) -> int:
    if definition not in DEFINITIONS:
        raise ValueError(f"definition must be one of {', '.join(DEFINITIONS)}, got {definition!r}")
    count = len(hypothesis) - n + 1
    return count if definition == "python" else max(0, count)


def _clipped(hypothesis: Ngrams, references: Sequence[Ngrams]) -> Ngrams:
    """Matches: the count in the hypothesis, at most the highest count in one reference."""
    allowed: Ngrams = Counter()
    for reference in references:
        allowed |= reference
    return hypothesis & allowed


def _bleu_statistics(
    references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens], definition: str
) -> tuple[list[int], list[int], int, int]:
    """Matches per order, n-grams per order, length of the hypotheses, closest reference lengths (tie: shorter)."""
    matches, totals = [0] * BLEU_ORDER, [0] * BLEU_ORDER
    hypothesis_length = reference_length = 0
    for texts, hypothesis in zip(references, hypotheses):
        for ngram, count in _clipped(
            ngrams(hypothesis, BLEU_ORDER), [ngrams(text, BLEU_ORDER) for text in texts]
        ).items():
            matches[len(ngram) - 1] += count
        for n in range(BLEU_ORDER):
            totals[n] += _n_ngrams(hypothesis, n + 1, definition)
        hypothesis_length += len(hypothesis)
        reference_length += min((abs(len(text) - len(hypothesis)), len(text)) for text in texts)[1]
    return matches, totals, hypothesis_length, reference_length


def _bleu(statistics: tuple[list[int], list[int], int, int], *, add: int = 0) -> float:
    matches, totals, hypothesis_length, reference_length = statistics
    if hypothesis_length == 0:
        return 0.0
    logs = [
        math.log(max(match + add, 1e-15) / max(total + add, 1e-9)) for match, total in zip(matches, totals)
    ]  # floors of pymteval
    brevity_penalty = min(1.0, math.exp(1 - reference_length / hypothesis_length))
    return brevity_penalty * math.exp(sum(logs) / BLEU_ORDER)


def _information(references: Sequence[Sequence[Ngrams]]) -> dict[tuple[str, ...], float]:
    """Bits per n-gram: log2(count of its first n-1 words / its count), both over all references."""
    counts: Ngrams = Counter()
    for texts in references:
        for text in texts:
            counts.update(text)
    n_words = sum(count for ngram, count in counts.items() if len(ngram) == 1)
    return {
        ngram: math.log2((counts[ngram[:-1]] if len(ngram) > 1 else n_words) / count) for ngram, count in counts.items()
    }


def _nist_penalty(references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens], definition: str) -> float:
    """exp(-beta * ln(min(1, L_sys / L_ref))^2)."""
    if definition == "python":
        reference_length = sum(sum(map(len, texts)) / len(texts) for texts in references)
    else:
        n_references = sum(map(len, references))
        reference_length = len(references) * sum(len(text) for texts in references for text in texts) / n_references
    hypothesis_length = sum(map(len, hypotheses))
    if hypothesis_length == 0:
        return 0.0
    if reference_length == 0:
        return 1.0
    return math.exp(-NIST_BETA * math.log(min(1.0, hypothesis_length / reference_length)) ** 2)
