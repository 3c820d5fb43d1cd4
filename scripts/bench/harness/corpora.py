"""Hypotheses and references to score: texts of WebNLG where they are, made-up ones of the same kind else."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text.detokenize import finish

from harness.e2e import SHARED

WEBNLG_ITEMS = 1862  # of its test set
WEBNLG_REFERENCES = 6  # as in LoRA's README
# WebNLG's test set: 4,928 texts of 1,862 items, so 2.6 each, filled up with copies of the first
TEXTS_PER_ITEM = (1, 3)
WORDS = (8, 45)  # of a text about one to seven triples, tokenised as gpt2_decode.py does


@dataclass(frozen=True)
class Corpus:
    """One hypothesis and some references per item, and in words where they come from."""

    hypotheses: list[str]
    references: list[list[str]]
    source: str


def webnlg(n_items: int = WEBNLG_ITEMS) -> Corpus:
    """Items in the files of LoRA's form: words split and lower-cased, six references, the first one repeated.

    The hypothesis of an item is its last text, written by a person; the others are its references. Entries of one
    text are left out.
    """
    files = [SHARED / "data" / "webnlg" / f"{split}.json.gz" for split in ("dev", "train")]
    if not all(file.is_file() for file in files):
        texts = synthetic_items(n_items, n_texts=TEXTS_PER_ITEM, seed=0)
        source = "made-up texts"
    else:
        usable = [texts for file in files for texts in _lexicalisations(file) if len(texts) > 1]
        # the files begin with the short entries, of one triple
        texts = random.Random(0).sample(usable, n_items)
        source = "drawn from WebNLG dev and train, each item's last text as hypothesis"
    done = [[finish(text, tokenize=True, lower=True) for text in item] for item in texts]
    references = [(item[:-1] + [item[0]] * WEBNLG_REFERENCES)[:WEBNLG_REFERENCES] for item in done]
    return Corpus([item[-1] for item in done], references, source)


def synthetic_items(n_items: int, *, n_texts: tuple[int, int], seed: int) -> list[list[str]]:
    """Texts of clauses in another order each time, with common words repeated and a few words exchanged.

    Args:
        n_texts: fewest and most references of an item; one more text, the last, is the hypothesis.
    """
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
        items.append([_rewritten(clauses, topic, generator) for _ in range(1 + generator.randint(*n_texts))])
    return items


def _rewritten(clauses: Sequence[list[str]], topic: Sequence[str], generator: random.Random) -> str:
    shuffled = generator.sample(clauses, len(clauses)) if generator.random() < 0.7 else clauses
    words = [word for clause in shuffled for word in clause]
    return " ".join(generator.choice(topic) if generator.random() < 0.15 else word for word in words)


def _lexicalisations(file: Path) -> list[list[str]]:
    """Texts marked good of each entry, as LoRA's converter takes them."""
    entries: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))["entries"]
    return [
        [text["lex"] for text in entry["lexicalisations"] if text["comment"] == "good"]
        for numbered in entries
        for entry in numbered.values()
    ]
