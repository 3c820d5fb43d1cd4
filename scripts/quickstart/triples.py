"""Writes small WebNLG- and DART-format sets, generated, and general text in the same form to pretrain a toy base on.

    python scripts/quickstart/triples.py OUT {webnlg,dart}   (PYTHONPATH: scripts and examples/NLG/src)

OUT/raw/: the file names of the released data folders, ``{train,dev,test}.json`` or ``dart-v1.1.1-full-*.json``.
OUT/general/{train,valid}.txt: one ``triples||sentence`` a line, of domains and facts of their own.
The facts and their wording are those of the quickstart's domains. Test entries of WebNLG are half of seen categories,
half of unseen ones; no set of triples is in two splits.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, make_folder, sha256_of, write_json
from scripts.quickstart import restaurant
from scripts.quickstart.grammar import Dice, Domain, Facts, realise
from scripts.quickstart.neighbours import NEIGHBOURS

SPLITS = ("train", "dev", "test")
ENTRIES = (900, 60, 120)  # of each split
SENTENCES = (1, 4)  # of each entry, from and to
GENERAL_ROWS = (16000, 200)  # train and valid
NOT_GOOD = 0.04  # share of WebNLG sentences whose comment is not "good": the converter drops them
MOST_TRIPLES = 5

# By the slot that names the thing; the last two are categories that only WebNLG's test set has.
CATEGORIES = {
    "name": "Food",
    "title": "Building",
    "sight": "Monument",
    "shop": "Building",
    "person": "Artist",
    "train": "MeanOfTransportation",
}
UNSEEN = ("Artist", "MeanOfTransportation")


@dataclass(frozen=True)
class Source:
    """A domain and how facts about one thing of it are drawn."""

    domain: Domain
    draw_facts: Callable[[Dice], Facts]

    @property
    def category(self) -> str:
        return CATEGORIES[self.domain.name_slot]


@dataclass(frozen=True)
class Entry:
    """Triples (subject, slot, value) about one thing, and different texts that say them."""

    category: str
    triples: list[tuple[str, str, str]]
    texts: list[str]


def sources() -> list[Source]:
    def draw_restaurant(dice: Dice) -> Facts:
        return restaurant.draw_facts(dice, restaurant.NAMES, restaurant.NEIGHBOURS)

    return [Source(restaurant.RESTAURANTS, draw_restaurant), *(Source(n.domain, n.draw_facts) for n in NEIGHBOURS)]


def plain(text: str) -> str:
    """Text as people write it, from the grammar's tokens: "Tilda 's , £ 20 - 25 ." is "Tilda's, £20-25."."""
    text = re.sub(r" (?=[.,']|$)", "", text)
    return re.sub(r"(?<=£) | (?=-)|(?<=-) ", "", text)


def camel(slot: str) -> str:
    """ "customer rating" as WebNLG writes a property: "customerRating"."""
    first, *more = slot.split()
    return first[0].lower() + first[1:] + "".join(word.capitalize() for word in more)


def webnlg_triple(triple: tuple[str, str, str]) -> tuple[str, str, str]:
    subject, slot, value = triple
    return plain(subject).replace(" ", "_"), camel(slot), plain(value).replace(" ", "_")


def dart_triple(triple: tuple[str, str, str]) -> tuple[str, str, str]:
    subject, slot, value = triple
    return plain(subject), slot.upper().replace(" ", "_"), plain(value)


def draw_entry(dice: Dice, chosen: Sequence[Source], sentences: tuple[int, int]) -> Entry:
    """One to five triples, and up to as many different texts as are drawn from ``sentences``."""
    source = dice.pick(chosen)
    name = source.domain.name_slot
    drawn = source.draw_facts(dice)
    others = dice.shuffled(slot for slot in drawn if slot != name)[: 1 + dice.below(MOST_TRIPLES)]
    facts = {slot: value for slot, value in drawn.items() if slot == name or slot in others}
    low, high = sentences
    wanted = low + dice.below(high - low + 1)
    texts = dict.fromkeys(plain(realise(source.domain, facts, dice).text) for _ in range(4 * wanted))
    triples = [(facts[name], slot, value) for slot, value in facts.items() if slot != name]
    return Entry(source.category, triples, list(texts)[:wanted])


def draw_splits(dice: Dice, counts: Sequence[int], unseen_in_test: bool) -> dict[str, list[Entry]]:
    """Entries by split. With ``unseen_in_test`` the unseen categories are half of the test and nowhere else."""
    every = sources()
    seen = [source for source in every if source.category not in UNSEEN]
    unseen = [source for source in every if source.category in UNSEEN]
    taken: set[tuple[tuple[str, str, str], ...]] = set()
    splits: dict[str, list[Entry]] = {}
    for split, count in zip(SPLITS, counts):
        entries: list[Entry] = []
        while len(entries) < count:
            chosen = every
            if unseen_in_test:
                chosen = unseen if split == "test" and 2 * len(entries) >= count else seen
            entry = draw_entry(dice, chosen, SENTENCES)
            if tuple(entry.triples) not in taken:
                taken.add(tuple(entry.triples))
                entries.append(entry)
        splits[split] = entries
    return splits


def webnlg_json(entries: Sequence[Entry], dice: Dice) -> dict[str, Any]:
    """Entries in the layout of WebNLG's JSON, numbered from 1; each keeps at least one good sentence."""
    out = []
    for number, entry in enumerate(entries, start=1):
        triples = [dict(zip(("subject", "property", "object"), webnlg_triple(t))) for t in entry.triples]
        comments = ["good", *("toFix" if dice.chance(NOT_GOOD) else "good" for _ in entry.texts[1:])]
        texts = [
            {"comment": comment, "lang": "", "lex": text, "xml_id": f"Id{i}"}
            for i, (comment, text) in enumerate(zip(comments, entry.texts), start=1)
        ]
        fields = {"category": entry.category, "size": str(len(triples)), "modifiedtripleset": triples}
        out.append({str(number): {**fields, "lexicalisations": texts, "xml_id": f"Id{number}"}})
    return {"entries": out}


def dart_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Entries in the layout of DART's JSON."""
    return [
        {
            "tripleset": [list(dart_triple(triple)) for triple in entry.triples],
            "subtree_was_extended": False,
            "annotations": [{"source": "generated", "text": text} for text in entry.texts],
        }
        for entry in entries
    ]


def write_general(folder: Path, dice: Dice, dataset: str, counts: Sequence[int]) -> None:
    """Pretraining text in the E2E form, contexts as the converter of the data set writes them."""
    every = sources()
    for split, count in zip(("train", "valid"), counts):
        with atomic_write(folder / f"{split}.txt") as stream:
            for _ in range(count):
                entry = draw_entry(dice, every, (1, 1))
                if dataset == "webnlg":
                    triples = [webnlg_triple(triple) for triple in entry.triples]
                else:
                    triples = [(s, relation.lower(), o) for s, relation, o in map(dart_triple, entry.triples)]
                context = " | ".join(" : ".join(triple) for triple in triples)
                stream.write(f"{context}||{entry.texts[0]}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", help="folder to write raw/ and general/ into")
    parser.add_argument("dataset", choices=["webnlg", "dart"], help="format of the raw files")
    parser.add_argument("--seed", type=int, default=11, help="of all draws (default: 11)")
    parser.add_argument(
        "--entries", type=int, nargs=3, default=ENTRIES, metavar=("TRAIN", "DEV", "TEST"), help="(default: 900 60 120)"
    )
    parser.add_argument(
        "--general", type=int, nargs=2, default=GENERAL_ROWS, metavar=("TRAIN", "VALID"), help="(default: 16000 200)"
    )
    args = parser.parse_args()
    if args.seed < 0 or min(*args.entries, *args.general) < 1:
        raise UserError("--seed must be 0 or more, and every number of --entries and --general 1 or more")
    dice = Dice(args.seed)
    splits = draw_splits(dice, args.entries, unseen_in_test=args.dataset == "webnlg")
    raw = make_folder(Path(args.out) / "raw")
    for split, entries in splits.items():
        if args.dataset == "webnlg":
            path = raw / f"{split}.json"
            write_json(path, webnlg_json(entries, dice))
        else:
            path = raw / f"dart-v1.1.1-full-{split}.json"
            write_json(path, dart_json(entries))
        texts = sum(len(entry.texts) for entry in entries)
        print(f"{path}: {len(entries)} entries, {texts} sentences, sha256 {sha256_of(path)[:16]}")
    write_general(make_folder(Path(args.out) / "general"), Dice(args.seed + 1), args.dataset, args.general)


if __name__ == "__main__":
    run_main(main)
