"""The scores of WebNLG's evaluation (used for WebNLG and DART) for one system output and for groups of its items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from examples.common.errors import UserError
from metrics.java import TIMEOUT_S, JavaError
from metrics.meteor import Meteor
from metrics.model_scores import bert_scores, bleurt_scores
from metrics.ter import item_ter
from metrics.word_tokens import require_package, tokenize_words

METRICS = ("bleu", "meteor", "ter", "chrf++", "bert", "bleurt")
NAMES = {  # of the figures that a metric gives, in the order of the printed table
    "bleu": ("BLEU", "BLEU NLTK"),
    "meteor": ("METEOR",),
    "chrf++": ("chrF++",),
    "ter": ("TER",),
    "bert": ("BERT-SCORE P", "BERT-SCORE R", "BERT-SCORE F1"),
    "bleurt": ("BLEURT",),
}
FIGURES = tuple(name for names in NAMES.values() for name in names)
ALL = "all"


@dataclass(frozen=True)
class Settings:
    """What the command line chooses. chrF++: longest n-grams of characters and of words, and beta of its F-score."""

    language: str = "en"
    char_order: int = 6
    word_order: int = 2
    beta: float = 2.0
    java_timeout_s: float = TIMEOUT_S

    def of_figures(self) -> dict[str, str]:
        """How each figure is computed, for the record of a run."""
        words = "nltk words" if self.language == "en" else "razdel words"
        chrf = f"characters 1-{self.char_order}, words 1-{self.word_order}, beta {self.beta:g}, eps smoothing, cased"
        return {
            "BLEU": "multi-bleu-detok by sacrebleu: order 4, 13a tokens, cased, no smoothing, closest length; percent",
            "BLEU NLTK": f"order 4, {words}, smoothing method 3, blank references left out",
            "METEOR": f"1.5, -l en -norm, {words}",
            "chrF++": f"{chrf}, blank references left out",
            "TER": f"pyter's: greedy shifts, least over references (blank: 1), mean over items, {words}",
            "BERT-SCORE P": "bert_score, its default model, best reference",
            "BERT-SCORE R": "bert_score, its default model, best reference",
            "BERT-SCORE F1": "bert_score, its default model, best reference",
            "BLEURT": "checkpoint BLEURT_CHECKPOINT, best reference, mean over items",
        }


@dataclass(frozen=True)
class Scores:
    """Figures of each group by name, those of each item where they exist, and why a metric is missing."""

    n: dict[str, int]
    figures: dict[str, dict[str, float]]
    segments: dict[str, list[float]]
    failures: dict[str, str]


# What every metric becomes: its figures for the items of a group, given by their numbers.
Scorer = Callable[[Sequence[int]], dict[str, float]]


def score_generation(
    references: Sequence[Sequence[str]],
    hypotheses: Sequence[str],
    *,
    metrics: Sequence[str] = ("bleu", "meteor", "ter", "chrf++"),
    groups: Sequence[str] | None = None,
    settings: Settings = Settings(),
) -> Scores:
    """Scores all items, and each group of them as if it had been a set of its own.

    Args:
        references: the same number of texts per item, blank where an item has fewer.
        hypotheses: one text per item.
        metrics: some of ``METRICS``.
        groups: one label per item; work per item is done once for all groups.
        settings: see there.

    Raises:
        UserError: an unknown metric or language, or a package of the basic scores is missing. What a single metric
            lacks beyond that (Java, bert_score, BLEURT) is told in ``failures`` instead.
        ValueError: numbers of hypotheses, items and labels differ, no items, or an item without references.
    """
    _check(references, hypotheses, metrics, groups)
    failures: dict[str, str] = {}
    scorers: dict[str, Scorer] = {}
    segments: dict[str, list[float]] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=1))  # left after METEOR has ended
        meteor: Meteor | None = None
        if "meteor" in metrics:
            try:
                if settings.language != "en":
                    raise UserError("METEOR is for English here: no table of another language is installed")
                meteor = stack.enter_context(Meteor(timeout_s=settings.java_timeout_s))  # its table takes seconds
            except UserError as error:
                failures["meteor"] = str(error)
        words = _Words(references, hypotheses, settings.language) if {"bleu", "meteor", "ter"} & {*metrics} else None
        statistics: Future[list[str]] | None = None
        if meteor is not None and words is not None:
            joined = [[" ".join(text) for text in texts] for texts in words.references]
            statistics = pool.submit(meteor.statistics, joined, [" ".join(text) for text in words.hypotheses])
        if words is not None and "ter" in metrics:
            segments["TER"] = [item_ter(*item) for item in zip(words.hypotheses, words.references)]
            scorers["ter"] = lambda items: {"TER": sum(segments["TER"][i] for i in items) / len(items)}
        if words is not None and "bleu" in metrics:
            scorers["bleu"] = _bleu_scorer(references, hypotheses, words)
        if "chrf++" in metrics:
            scorers["chrf++"] = _chrf_scorer(references, hypotheses, settings)
        for metric, make in (("bert", bert_scores), ("bleurt", bleurt_scores)):
            if metric in metrics:
                try:
                    scorers[metric] = _mean_scorer(make(references, hypotheses, language=settings.language))
                except UserError as error:
                    failures[metric] = str(error)
        chosen = _items_of_groups(groups, len(hypotheses))
        figures = {label: _figures(scorers, items) for label, items in chosen.items()}
        if meteor is not None and statistics is not None:
            try:
                segments["METEOR"] = _add_meteor(figures, meteor, statistics.result(), chosen)
            except JavaError as error:
                failures["meteor"] = str(error)
    ordered = {label: {name: found[name] for name in FIGURES if name in found} for label, found in figures.items()}
    return Scores({label: len(items) for label, items in chosen.items()}, ordered, segments, failures)


class _Words:
    """Words of all texts; each distinct text is tokenised once."""

    def __init__(self, references: Sequence[Sequence[str]], hypotheses: Sequence[str], language: str) -> None:
        distinct = list(dict.fromkeys([*hypotheses, *(text for texts in references for text in texts)]))
        words = dict(zip(distinct, tokenize_words(distinct, language=language)))
        self.hypotheses = [words[text] for text in hypotheses]
        self.references = [[words[text] for text in texts] for texts in references]


def _bleu_scorer(references: Sequence[Sequence[str]], hypotheses: Sequence[str], words: _Words) -> Scorer:
    require_package("sacrebleu")
    require_package("nltk")
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
    from sacrebleu.metrics import BLEU

    # an item whose references are all blank stays in the corpus, with a reference of length 0
    filled = [[text for text in texts if text] or [[]] for texts in words.references]

    def score(items: Sequence[int]) -> dict[str, float]:
        # a blank reference counts as one of length 0, as in multi-bleu; `None` would leave it out
        streams = [list(stream) for stream in zip(*(references[i] for i in items))]
        bleu = BLEU(smooth_method="none", force=True).corpus_score([hypotheses[i] for i in items], streams).score
        smoothing = SmoothingFunction().method3
        tokens = [words.hypotheses[i] for i in items]
        nltk_bleu = corpus_bleu([filled[i] for i in items], tokens, smoothing_function=smoothing)
        return {"BLEU": float(bleu), "BLEU NLTK": float(nltk_bleu)}

    return score


def _chrf_scorer(references: Sequence[Sequence[str]], hypotheses: Sequence[str], settings: Settings) -> Scorer:
    require_package("sacrebleu")
    from sacrebleu.metrics import CHRF

    beta: Any = settings.beta  # sacrebleu's annotation says int; its formula takes any number
    chrf = CHRF(settings.char_order, settings.word_order, beta, eps_smoothing=True)

    def score(items: Sequence[int]) -> dict[str, float]:
        filled = [i for i in items if any(text.strip() for text in references[i])]
        if not filled:
            return {"chrF++": 0.0}
        streams = zip(*([text if text.strip() else None for text in references[i]] for i in filled))
        return {"chrF++": chrf.corpus_score([hypotheses[i] for i in filled], list(map(list, streams))).score / 100}

    return score


def _mean_scorer(by_name: dict[str, list[float]]) -> Scorer:
    return lambda items: {name: sum(values[i] for i in items) / len(items) for name, values in by_name.items()}


def _figures(scorers: dict[str, Scorer], items: Sequence[int]) -> dict[str, float]:
    return {name: value for score in scorers.values() for name, value in score(items).items()}


def _add_meteor(
    figures: dict[str, dict[str, float]], meteor: Meteor, statistics: list[str], groups: dict[str, list[int]]
) -> list[float]:
    """Adds METEOR to the figures of each group; returns that of each item."""
    corpus, segments = meteor.combine(statistics)
    for label, items in groups.items():
        figures[label]["METEOR"] = corpus if label == ALL else meteor.combine([statistics[i] for i in items])[0]
    return segments


def _items_of_groups(labels: Sequence[str] | None, n_items: int) -> dict[str, list[int]]:
    """Numbers of the items of each group: all, then in alphabetical order (seen before unseen)."""
    groups = {ALL: list(range(n_items))}
    for label in sorted({*(labels or ())}):
        groups[label] = [i for i, found in enumerate(labels or ()) if found == label]
    return groups


def _check(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], metrics: Sequence[str], groups: Sequence[str] | None
) -> None:
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise UserError(f"unknown metric {unknown[0]!r}; choose from {','.join(METRICS)}")
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} items")
    if groups is not None and len(groups) != len(hypotheses):
        raise ValueError(f"{len(groups)} group labels for {len(hypotheses)} items")
    if not hypotheses:
        raise ValueError("no items to score")
    n_references = {len(texts) for texts in references}
    if len(n_references) > 1 or 0 in n_references:
        raise ValueError(f"items need the same number of references, at least 1; got {sorted(n_references)}")
