"""Writes small generated sets in the official layouts of six GLUE tasks, for trials of the whole chain offline.

Short statements of where things are: pairs say the same, contradict each other or have nothing to do with each other.
MNLI's mismatched half is about a harbour; all else is about a house. ``general/train.txt``: sentences of both, to make
a small model of. They resemble GLUE in form alone; scores on them compare with nothing.

    python utils/toy_glue.py glue_data
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_folder

TRAIN, DEV = 1200, 200  # examples
GENERAL = 4000  # sentences


@dataclass(frozen=True)
class Genre:
    """What there is and where it can be; each place has two wordings."""

    things: tuple[str, ...]
    places: tuple[tuple[str, str], ...]


HOUSE = Genre(
    ("cat", "dog", "child", "letter", "lamp", "basket", "clock", "mirror"),
    (
        ("in the kitchen", "beside the stove"),
        ("on the roof", "above the attic"),
        ("under the table", "below the plates"),
        ("in the garden", "among the roses"),
    ),
)
HARBOUR = Genre(
    ("sailor", "gull", "anchor", "barrel", "rope", "captain", "crate", "flag"),
    (
        ("on the deck", "near the mast"),
        ("at the pier", "along the quay"),
        ("in the cabin", "behind the hatch"),
        ("on the shore", "by the dunes"),
    ),
)
GOOD = ("lovely", "great", "warm", "bright", "charming", "clever")
BAD = ("awful", "poor", "cold", "dull", "boring", "clumsy")

Fact = tuple[str, int]  # a thing, and the number of its place


class Speaker:
    """Draws facts of a genre and words them."""

    def __init__(self, genre: Genre, draw: random.Random) -> None:
        self.genre, self.draw = genre, draw

    def facts(self, count: int) -> list[Fact]:
        """Facts of different things."""
        things = self.draw.sample(self.genre.things, count)
        return [(thing, self.draw.randrange(len(self.genre.places))) for thing in things]

    def moved(self, fact: Fact) -> Fact:
        """The same thing elsewhere."""
        return fact[0], (fact[1] + self.draw.randrange(1, len(self.genre.places))) % len(self.genre.places)

    def say(self, facts: Sequence[Fact]) -> str:
        """One sentence, each place in one of its wordings."""
        parts = [f"the {thing} is {self.draw.choice(self.genre.places[place])}" for thing, place in facts]
        return " and ".join(parts) + " ."

    def judged(self) -> tuple[str, int]:
        """A sentence of praise (1) or blame (0)."""
        label = self.draw.randint(0, 1)
        word = self.draw.choice(GOOD if label else BAD)
        return f"a {word} story about the {self.draw.choice(self.genre.things)}", label

    def pair(self, relation: str) -> tuple[str, str]:
        """Two sentences, the second in that relation to the first."""
        facts = self.facts(3)
        known = self.draw.choice(facts[:2])
        second = {"entailment": known, "contradiction": self.moved(known), "neutral": facts[2]}[relation]
        return self.say(facts[:2]), self.say([second])


def mnli(speaker: Speaker, index: int) -> list[object]:
    relation = ("entailment", "neutral", "contradiction")[index % 3]
    return [index, index, f"{index}p", "toy", *[""] * 4, *speaker.pair(relation), relation, relation]


def rte(speaker: Speaker, index: int) -> list[object]:
    relation = ("entailment", "contradiction")[index % 2]
    return [index, *speaker.pair(relation), "entailment" if index % 2 == 0 else "not_entailment"]


def mrpc(speaker: Speaker, index: int) -> list[object]:
    facts = speaker.facts(2)
    label = int(index % 3 > 0)
    other = facts[::-1] if label else [speaker.moved(fact) for fact in facts]
    return [label, index, index, speaker.say(facts), speaker.say(other)]


def stsb(speaker: Speaker, index: int) -> list[object]:
    facts, shared = speaker.facts(4), index % 3  # of two facts
    other = [*facts[:shared], *facts[2 : 4 - shared]]
    return [
        index,
        "toy",
        "toy",
        "2012",
        index,
        "none",
        "none",
        speaker.say(facts[:2]),
        speaker.say(other),
        2.5 * shared,
    ]


def sst2(speaker: Speaker, index: int) -> list[object]:
    return list(speaker.judged())


def cola(speaker: Speaker, index: int) -> list[object]:
    words = speaker.say(speaker.facts(1)).split()
    label = int(index % 3 > 0)
    if not label:
        words = [*words[1:3][::-1], words[0], *words[3:]]  # "is cat the on ..."
    return ["toy", label, "" if label else "*", " ".join(words)]


MNLI_HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label"
)
TASKS: dict[str, tuple[str, Callable[[Speaker, int], list[object]]]] = {
    "MNLI": ("\t".join(MNLI_HEADER.split()), mnli),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", mrpc),
    "RTE": ("index\tsentence1\tsentence2\tlabel", rte),
    "STS-B": ("index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore", stsb),
    "SST-2": ("sentence\tlabel", sst2),
    "CoLA": ("", cola),
}


def write_task(folder: Path, task: str, counts: dict[str, int], seed: int) -> None:
    """Files of one task; ``counts``: examples of ``train`` and ``dev``."""
    header, example = TASKS[task]
    genres = {"train": HOUSE, "dev": HOUSE}
    if task == "MNLI":
        genres = {"train": HOUSE, "dev_matched": HOUSE, "dev_mismatched": HARBOUR}
    (folder / task).mkdir()
    for split, genre in genres.items():
        speaker = Speaker(genre, random.Random(f"{seed} {task} {split}"))
        rows = [example(speaker, index) for index in range(counts[split.split("_")[0]])]
        lines = [header] if header else []
        lines += ["\t".join(map(str, row)) for row in rows]
        (folder / task / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder to make")
    parser.add_argument("--train", type=int, default=TRAIN, help=f"examples of each train file (default: {TRAIN})")
    parser.add_argument("--dev", type=int, default=DEV, help=f"examples of each dev file (default: {DEV})")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if min(args.train, args.dev) < 3:
        raise UserError(f"--train {args.train} and --dev {args.dev} must be at least 3, one of each label")
    if args.target.exists():
        raise UserError(f"{args.target} exists; delete it or name another folder")
    with atomic_folder(args.target) as partial:
        for task in TASKS:
            write_task(partial, task, {"train": args.train, "dev": args.dev}, args.seed)
        draw = random.Random(f"{args.seed} general")
        speakers = [Speaker(genre, draw) for genre in (HOUSE, HARBOUR)]
        lines = []
        for index in range(GENERAL):
            speaker = speakers[index % 2]
            lines.append(speaker.judged()[0] if index % 5 == 0 else speaker.say(speaker.facts(1 + index % 3)))
        (partial / "general").mkdir()
        (partial / "general" / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
