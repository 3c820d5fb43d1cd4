"""Scoring side by side: TER against pyter3, the evaluations of WebNLG and E2E against the packages one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import harness  # noqa: F401  (makes gpt2 importable)
from harness.corpora import E2E_ITEMS, WEBNLG_ITEMS, Corpus, e2e, webnlg
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.scorers import Words, e2e_scores, nltk_words, pyter_scores, sacrebleu_percent, webnlg_scores
from harness.timing import ratio, side_by_side, spread
from metrics.bleu_nist import corpus_bleu
from metrics.e2e import score_e2e
from metrics.generation import score_generation
from metrics.ter import item_ter
from metrics.tokenizers import tokenize_13a

from examples.common.errors import run_main

Seconds = list[float]  # one for each block or round

# Seconds that the released eval.py took for BLEU, METEOR and TER of 1,862 items with six references each, a system's
# output, on a machine of 4 AMD EPYC cores: 13.7 for BLEU and METEOR, 291 for TER. Stated, not measured here.
RELEASED_EVAL_SECONDS = 305
RELEASED_E2E_SECONDS = 14.8  # of its measure_scores.py -p, 630 items, same machine
QUICK_ITEMS = 120
BLOCKS = 6  # pyter3 needs minutes: its items are timed once, in blocks between which the order changes
CLOSE = 1e-12  # relative; two formulas for the same BLEU round in another order


def build_parser() -> Any:
    return bench_parser(__doc__, rounds=3)


def main() -> None:
    bench = begin("scoring", build_parser())
    quick = bench.args.quick
    # each run starts Java, whose table takes seconds
    whole_rounds = 1 if quick else bench.args.rounds
    score_webnlg(bench, webnlg(QUICK_ITEMS if quick else WEBNLG_ITEMS), rounds=whole_rounds)
    score_e2e_set(bench, e2e(E2E_ITEMS), rounds=whole_rounds)
    bench.write()


def score_webnlg(bench: Bench, corpus: Corpus, *, rounds: int) -> None:
    """Rows of TER alone, of its growth with the items, and of the whole evaluation."""
    words, references = nltk_words(corpus.hypotheses), [nltk_words(texts) for texts in corpus.references]
    n, case = len(words), f"WebNLG, {len(words):,} items"
    ours, theirs, our_times, their_times = ter_by_blocks(words, references)
    bench.add(
        Row(
            f"{case}: TER",
            "time of TER, pyter3 / ours (1 process each)",
            spread([a / b for a, b in zip(their_times, our_times)]),
            note=f"{sum(their_times):.1f} s and {sum(our_times):.2f} s; rounds are {BLOCKS} blocks of items; "
            f"6 references, {corpus.source}",
        )
    )
    differing = sum(a != b for a, b in zip(ours, theirs))
    bench.add(Row(case, "TER of an item, doubles that differ from pyter3's", exact(differing), target="<= 0"))

    add_growth(bench, words, references)

    whole: Callable[..., Any] = lambda: score_generation(  # noqa: E731
        corpus.references, corpus.hypotheses, metrics=("bleu", "meteor", "ter")
    )
    results: dict[str, Any] = {}
    alternatives = {
        "ours": lambda: results.update(ours=whole()),
        "packages": lambda: results.update(packages=webnlg_scores(corpus)),
    }
    times = side_by_side(alternatives, rounds=rounds, warm_up=0)
    ter_seconds = sum(their_times)
    seconds = spread(times["ours"])
    released = (
        f"; the released eval.py took {RELEASED_EVAL_SECONDS} s on a machine of this class (recorded, not measured "
        f"here): {RELEASED_EVAL_SECONDS / seconds.median:.1f} times ours"
        if n == WEBNLG_ITEMS
        else ""
    )
    bench.add(
        Row(
            f"{case}: BLEU, METEOR, TER",
            "time, pyter3 + METEOR's jar + sacrebleu + nltk / ours",
            spread([(ter_seconds + rest) / own for rest, own in zip(times["packages"], times["ours"])]),
            target=">= 8" if n == WEBNLG_ITEMS else "",
            headline="WebNLG: BLEU, METEOR, TER",
            note=f"{ter_seconds + spread(times['packages']).median:.1f} s, pyter3 timed once, and "
            f"{seconds.median:.1f} s{released}",
        )
    )
    found = results["ours"].figures["all"]
    expected = {**results["packages"], "TER": sum(theirs) / n}
    add_differences(bench, f"{case}: BLEU, METEOR, TER", found, expected)


def ter_by_blocks(words: Words, references: Sequence[Words]) -> tuple[list[float], list[float], Seconds, Seconds]:
    """TER of each item by ours and by pyter3, and the seconds of each block; which goes first alternates."""
    scores: dict[str, list[float]] = {"ours": [], "pyter3": []}
    seconds: dict[str, Seconds] = {"ours": [], "pyter3": []}
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
    return scores["ours"], scores["pyter3"], seconds["ours"], seconds["pyter3"]


def add_growth(bench: Bench, words: Words, references: Sequence[Words]) -> None:
    """TER of more and more of the items, on a curve."""
    sizes = [len(words) // part for part in (8, 4, 2, 1)]
    work = {str(n): lambda n=n: [item_ter(*item) for item in zip(words[:n], references[:n])] for n in sizes}
    times = side_by_side(work, rounds=bench.args.rounds)
    for n in sizes:
        bench.add(Row(f"WebNLG, {n} items", "seconds of TER, ours", spread(times[str(n)]), axis=("items", n)))


def score_e2e_set(bench: Bench, corpus: Corpus, *, rounds: int) -> None:
    """Rows of BLEU alone and of the whole E2E evaluation."""
    case = f"E2E, {len(corpus.hypotheses)} items"
    results: dict[str, Any] = {}

    def own_bleu() -> None:
        texts = [tokenize_13a(references) for references in corpus.references]
        results["own"] = corpus_bleu(texts, tokenize_13a(corpus.hypotheses))

    bleu = {"ours": own_bleu, "sacrebleu": lambda: results.update(sacrebleu=sacrebleu_percent(corpus, lowercase=True))}
    times = side_by_side(bleu, rounds=bench.args.rounds)
    bench.add(Row(f"{case}: BLEU", "time, ours / sacrebleu", ratio(times, "ours", "sacrebleu"), note=both(times)))
    difference = abs(results["own"] / (results["sacrebleu"] / 100) - 1)
    bench.add(Row(f"{case}: BLEU", "relative difference from sacrebleu", exact(difference), target=f"<= {CLOSE}"))

    whole = {
        "ours": lambda: results.update(ours=score_e2e(corpus.references, corpus.hypotheses)),
        "packages": lambda: results.update(packages=e2e_scores(corpus)),
    }
    times = side_by_side(whole, rounds=rounds, warm_up=0)
    seconds = spread(times["ours"]).median
    bench.add(
        Row(
            f"{case}: all five scores",
            "time, sacrebleu + pycocoevalcap (four scores, no NIST) / ours",
            ratio(times, "packages", "ours"),
            note=f"{both(times)}; the released measure_scores.py -p took {RELEASED_E2E_SECONDS} s on a machine of "
            f"this class (recorded, not measured here): {RELEASED_E2E_SECONDS / seconds:.2f} times ours; "
            f"{corpus.source}, {sum(map(len, corpus.references)):,} references",
        )
    )
    add_differences(bench, f"{case}: METEOR, ROUGE_L, CIDEr", results["ours"]["scores"], results["packages"], ("BLEU",))


def add_differences(
    bench: Bench, case: str, ours: dict[str, float], theirs: dict[str, float], leave_out: Sequence[str] = ()
) -> None:
    """A row that counts the scores which are not the same double on both sides."""
    names = [name for name in theirs if name not in leave_out]
    differing = [name for name in names if ours[name] != theirs[name]]
    values = ", ".join(f"{name} {ours[name]:.12g}" for name in names)
    others = "".join(f"; {name} there {theirs[name]!r}, here {ours[name]!r}" for name in differing)
    row = Row(case, "scores that differ from the packages'", exact(len(differing)), target="<= 0", note=values + others)
    bench.add(row)


def both(times: dict[str, list[float]]) -> str:
    """Median seconds of each side."""
    return ", ".join(f"{name} {spread(seconds).median:.2f} s" for name, seconds in times.items())


if __name__ == "__main__":
    run_main(main)
