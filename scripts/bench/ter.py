"""TER side by side: our ``item_ter`` and pyter3 on the same items of WebNLG's kind, one process each, CPU seconds."""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "NLG" / "src"))

from gpt2.cli import UserError, run_main
from nlgmetrics.generation_files import read_texts
from nlgmetrics.ter import item_ter
from nlgmetrics.word_tokens import tokenize_words

Item = tuple[list[str], list[list[str]]]  # words of the hypothesis, words of each reference
REFERENCES = 6  # as in LoRA's README
# WebNLG's test set: 4,928 texts of 1,862 items, so 2.6 each, filled up with copies of the first
TEXTS_PER_ITEM = (1, 3)
WORDS = (8, 45)  # of a text about one to seven triples, tokenised as gpt2_decode.py does


def synthetic_items(n_items: int, *, seed: int) -> list[Item]:
    """Texts of clauses in another order for each reference, with common words repeated and a few words exchanged."""
    generator = random.Random(seed)
    common = ["the", "is", "of", "in", ".", ",", "a", "and", "by", "was"]
    names = [f"name{number}" for number in range(400)]
    items = []
    for _ in range(n_items):
        topic = generator.sample(names, 12)
        length, clauses, n_words = generator.randint(*WORDS), [], 0
        while n_words < length:
            clauses.append([generator.choice(common if generator.random() < 0.5 else topic) for _ in range(7)])
            n_words += 7
        texts = [_rewritten(clauses, topic, generator) for _ in range(1 + generator.randint(*TEXTS_PER_ITEM))]
        references = texts[1:] + [texts[1]] * REFERENCES
        items.append((texts[0], references[:REFERENCES]))
    return items


def _rewritten(clauses: list[list[str]], topic: list[str], generator: random.Random) -> list[str]:
    shuffled = generator.sample(clauses, len(clauses)) if generator.random() < 0.7 else clauses
    words = [word for clause in shuffled for word in clause]
    return [generator.choice(topic) if generator.random() < 0.15 else word for word in words]


def read_items(prefix: str, hypothesis_file: str, n_references: int, n_items: int) -> list[Item]:
    """The first items of files as eval.py reads them."""
    texts = read_texts(prefix, hypothesis_file, n_references=n_references)
    references = [tokenize_words(column) for column in texts.references[:n_items]]
    return list(zip(tokenize_words(texts.hypotheses[:n_items]), references))


def timed(score: Callable[[Item], float], items: list[Item]) -> tuple[list[float], float]:
    """Scores, and the seconds of CPU time that they took."""
    start = time.process_time()
    scores = [score(item) for item in items]
    return scores, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n_items", type=int, default=300, help="number of items (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic items (default: 0)")
    parser.add_argument("-R", metavar="PREFIX", help="real references instead, as for eval.py; needs -H")
    parser.add_argument("-H", metavar="FILE", help="real hypotheses")
    parser.add_argument("-nr", type=int, default=REFERENCES, help=f"reference files (default: {REFERENCES})")
    args = parser.parse_args()
    if args.n_items < 1 or (args.R is None) != (args.H is None):
        raise UserError("--n_items must be at least 1, and -R and -H belong together")
    try:
        import pyter
    except ImportError:
        raise UserError("pyter3 is not installed; `pip install pyter3==0.3`") from None
    if args.R is None:
        items = synthetic_items(args.n_items, seed=args.seed)
    else:
        items = read_items(args.R, args.H, args.nr, args.n_items)

    ours, our_seconds = timed(lambda item: item_ter(*item), items)
    theirs, their_seconds = timed(lambda item: min(pyter.ter(item[0], reference) for reference in item[1]), items)
    differing = sum(ours[number] != theirs[number] for number in range(len(items)))
    n_words = sum(len(hypothesis) for hypothesis, _ in items) / len(items)
    print(f"{len(items)} items, {n_words:.1f} words, {len(items[0][1])} references; Python {platform.python_version()}")
    print(f"ours    {our_seconds:9.3f} s CPU   mean TER {sum(ours) / len(ours)!r}")
    print(f"pyter3  {their_seconds:9.3f} s CPU   mean TER {sum(theirs) / len(theirs)!r}")
    print(f"own/pyter {our_seconds / their_seconds:.4f}: {their_seconds / our_seconds:.1f} times faster")
    print(f"{differing} doubles differ")


if __name__ == "__main__":
    run_main(main)
