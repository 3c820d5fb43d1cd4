"""Scoring side by side: TER against pyter3, and the evaluation of WebNLG against the packages one by one."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import harness  # noqa: F401  (first: it makes the other folders importable)
from harness.corpora import WEBNLG_ITEMS, webnlg
from harness.rows import Row, begin, bench_parser, exact
from harness.scorers import Words, nltk_words, pyter_scores, webnlg_scores
from harness.timing import side_by_side, spread
from metrics.generation import score_generation
from metrics.ter import item_ter

from examples.common.errors import run_main

QUICK_ITEMS = 120
BLOCKS = 6  # pyter3 needs minutes: its items are timed once, in blocks between which the order changes


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    return bench_parser(__doc__, rounds=3)


def main() -> None:
    """Measures everything and writes the rows."""
    bench = begin("scoring", build_parser())
    corpus = webnlg(QUICK_ITEMS if bench.args.quick else WEBNLG_ITEMS)
    words, references = nltk_words(corpus.hypotheses), [nltk_words(texts) for texts in corpus.references]
    case = f"WebNLG, {len(words):,} items"
    scores, seconds = ter_by_blocks(words, references)
    found = spread([a / b for a, b in zip(seconds["pyter3"], seconds["ours"])])
    note = f"{BLOCKS} blocks of items, 6 references, {corpus.source}"
    bench.add(Row(f"{case}: TER", "time of TER, pyter3 / ours (1 process each)", found, note))
    differing = sum(a != b for a, b in zip(scores["ours"], scores["pyter3"]))
    bench.add(Row(case, "TER of an item, doubles that differ from pyter3's", exact(differing)))

    results: dict[str, Any] = {}

    def ours() -> None:
        metrics = ("bleu", "meteor", "ter")
        results["ours"] = score_generation(corpus.references, corpus.hypotheses, metrics=metrics)

    works: dict[str, Callable[[], object]] = {
        "ours": ours,
        "packages": lambda: results.update(packages=webnlg_scores(corpus)),
    }
    # each run starts Java, whose table takes seconds
    times = side_by_side(works, rounds=1 if bench.args.quick else bench.args.rounds, warm_up=0)
    ter = sum(seconds["pyter3"])
    found = spread([(ter + rest) / own for rest, own in zip(times["packages"], times["ours"])])
    note = (
        f"{ter + spread(times['packages']).median:.1f} s, pyter3 timed once, and {spread(times['ours']).median:.1f} s"
    )
    words_of_case, quantity = f"{case}: BLEU, METEOR, TER", "time, pyter3 + METEOR's jar + sacrebleu + nltk / ours"
    bench.add(Row(words_of_case, quantity, found, note, "WebNLG: BLEU, METEOR, TER"))
    expected = {**results["packages"], "TER": sum(scores["pyter3"]) / len(words)}
    figures = results["ours"].figures["all"]
    differing = sum(figures[name] != value for name, value in expected.items())
    bench.add(Row(words_of_case, "scores that differ from the packages'", exact(differing)))
    bench.write()


def ter_by_blocks(words: Words, references: Sequence[Words]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """TER of each item by ours and by pyter3, and the seconds of each block; which goes first alternates."""
    scores: dict[str, list[float]] = {"ours": [], "pyter3": []}
    seconds: dict[str, list[float]] = {"ours": [], "pyter3": []}
    sides: dict[str, Callable[[Words, Sequence[Words]], list[float]]] = {
        "ours": lambda hypotheses, texts: [item_ter(*item) for item in zip(hypotheses, texts)],
        "pyter3": pyter_scores,
    }
    for number in range(BLOCKS):
        block = slice(number * len(words) // BLOCKS, (number + 1) * len(words) // BLOCKS)
        for name in list(sides) if number % 2 else reversed(list(sides)):
            start = time.perf_counter()
            scores[name] += sides[name](words[block], references[block])
            seconds[name].append(time.perf_counter() - start)
    return scores, seconds


if __name__ == "__main__":
    run_main(main)
