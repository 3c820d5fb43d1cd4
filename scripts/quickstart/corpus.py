"""Writes the quickstart's two corpora in the E2E text form: restaurants to tune on, neighbouring texts to pretrain on.

    python scripts/quickstart/corpus.py OUT   (PYTHONPATH: scripts and examples/NLG/src)

OUT/e2e/{train,valid,test}.txt: one ``meaning representation||reference`` a line, those of one representation
together.
OUT/general/{train,valid}.txt: the same form; slots and domains that E2E does not have.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, make_folder, sha256_of
from scripts.quickstart import neighbours, restaurant
from scripts.quickstart.grammar import Dice, Facts, Text, realise

SPLITS = {"train": 800, "valid": 60, "test": 100}  # distinct meaning representations
REFERENCES = (2, 6)  # of each representation, from and to
GENERAL_ROWS = {"train": 24000, "valid": 300}
PLAIN_SHARE = 0.08  # of the general rows: sentences without attributes
UNSEEN_NAME, UNSEEN_NEIGHBOUR = 0.4, 0.3  # share of test representations that draw from the kept-back lists


@dataclass(frozen=True)
class Row:
    """One line of a corpus; ``text.trace`` says which words stand for which fact."""

    facts: Facts
    text: Text

    @property
    def context(self) -> str:
        return " | ".join(f"{slot} : {value}" for slot, value in self.facts.items())

    @property
    def line(self) -> str:
        return f"{self.context}||{self.text.text}"


def restaurant_rows(seed: int) -> dict[str, list[Row]]:
    """Rows of the E2E-format corpus by split; no meaning representation is in two splits."""
    dice = Dice(seed)
    taken: set[tuple[tuple[str, str], ...]] = set()
    out: dict[str, list[Row]] = {}
    for split, count in SPLITS.items():
        out[split] = []
        for _ in range(count):
            facts = _new_facts(dice, split == "test", taken)
            out[split] += _references(facts, dice)
    return out


def _new_facts(dice: Dice, test: bool, taken: set[tuple[tuple[str, str], ...]]) -> Facts:
    while True:
        names = restaurant.UNSEEN_NAMES if test and dice.chance(UNSEEN_NAME) else restaurant.NAMES
        near = restaurant.UNSEEN_NEIGHBOURS if test and dice.chance(UNSEEN_NEIGHBOUR) else restaurant.NEIGHBOURS
        facts = restaurant.draw_facts(dice, names, near)
        key = tuple(facts.items())
        if key not in taken:
            taken.add(key)
            return facts


def _references(facts: Facts, dice: Dice) -> list[Row]:
    """References that all differ; short representations may not have as many as were drawn."""
    low, high = REFERENCES
    wanted = low + dice.below(high - low + 1)
    rows: dict[str, Row] = {}
    for _ in range(20 * wanted):
        text = realise(restaurant.RESTAURANTS, facts, dice)
        rows.setdefault(text.text, Row(facts, text))
        if len(rows) == wanted:
            break
    return list(rows.values())


def general_rows(seed: int) -> dict[str, list[Row]]:
    """Rows of the neighbouring corpus by split, one text each."""
    dice = Dice(seed + 1)
    return {split: [_general_row(dice) for _ in range(count)] for split, count in GENERAL_ROWS.items()}


def _general_row(dice: Dice) -> Row:
    if dice.chance(PLAIN_SHARE):
        topic, sentence = neighbours.plain_sentence(dice)
        return Row({"topic": topic}, Text(sentence, ()))
    chosen = dice.weighted(neighbours.NEIGHBOURS, (n.weight for n in neighbours.NEIGHBOURS))
    facts = chosen.draw_facts(dice)
    return Row(facts, realise(chosen.domain, facts, dice))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    with atomic_write(path) as stream:
        stream.writelines(f"{row.line}\n" for row in rows)


def ngrams(text: str, order: int) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return zip(*(words[i:] for i in range(order)))


def share_seen(train: Sequence[Row], test: Sequence[Row], order: int | None = None) -> float:
    """Share of the test references' n-grams (whole references for None) that training also has."""

    def pieces(rows: Sequence[Row]) -> list[object]:
        if order is None:
            return [row.text.text for row in rows]
        return [gram for row in rows for gram in ngrams(row.text.text, order)]

    known = set(pieces(train))
    asked = pieces(test)
    return sum(piece in known for piece in asked) / len(asked)


def describe(rows: dict[str, list[Row]]) -> str:
    """Counts of the restaurant corpus and how much of its test split training already says word for word."""
    lines = []
    for split, of_split in rows.items():
        contexts = {row.context for row in of_split}
        words = sum(len(row.text.text.split()) for row in of_split) / len(of_split)
        lines.append(
            f"e2e {split}: {len(of_split)} rows, {len(contexts)} meaning representations, "
            f"{len(of_split) / len(contexts):.2f} references each, {words:.1f} words a reference"
        )
    seen = ", ".join(f"{order}-grams {share_seen(rows['train'], rows['test'], order):.1%}" for order in (1, 2, 4, 8))
    whole = share_seen(rows["train"], rows["test"])
    return "\n".join([*lines, f"e2e test, share seen in train: {seen}, whole references {whole:.1%}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", help="folder to write e2e/ and general/ into")
    parser.add_argument("--seed", type=int, default=11, help="of all draws (default: 11)")
    args = parser.parse_args()
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: expected 0 or more")
    restaurants = restaurant_rows(args.seed)
    for name, splits in (("e2e", restaurants), ("general", general_rows(args.seed))):
        folder = make_folder(Path(args.out) / name)
        for split, rows in splits.items():
            path = folder / f"{split}.txt"
            write_rows(path, rows)
            print(f"{path}: {len(rows)} rows, sha256 {sha256_of(path)[:16]}")
    print(describe(restaurants))


if __name__ == "__main__":
    run_main(main)
