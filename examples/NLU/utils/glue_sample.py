"""Makes a GLUE folder in the official layout where of some tasks only a sample of the training part is at hand.

``SOURCE/<task>/`` holds official TSV files (``dev_in_domain.tsv`` may stand for CoLA's dev) or, of MNLI, QNLI and QQP,
``train*.jsonl``; all may be gzipped. Official files are copied. A sample is divided into train and dev: of MNLI the
premises transcribed from speech (lower case throughout the start, no punctuation; MNLI's telephone genre, which the
sample does not name) become ``dev_mismatched`` whole, so that training never sees that genre, and ``dev_matched`` is
drawn from the rest. Texts with the same first sentence stay together.

    python utils/glue_sample.py SOURCE glue_data
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ends import fail, whole
from texts import lines_of

SEED = 0  # of all draws
HELD_OUT = 0.1  # share of first sentences that become dev
PUNCTUATION = ".?!,;:"

Row = Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """Official columns of a task's train file, and which of a sample's keys fill them; the others stay empty."""

    columns: tuple[str, ...]
    keys: Mapping[str, str]  # official column: key of the sample
    first: str  # the key by which texts stay together


MNLI_COLUMNS = (
    *("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"),
    *("sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label"),
)
LAYOUTS = {
    "MNLI": Layout(
        MNLI_COLUMNS,
        {"sentence1": "sentence1", "sentence2": "sentence2", "label1": "label", "gold_label": "label"},
        "sentence1",
    ),
    "QNLI": Layout(
        ("index", "question", "sentence", "label"),
        {name: name for name in ("question", "sentence", "label")},
        "question",
    ),
    "QQP": Layout(
        ("index", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        {"question1": "sentence1", "question2": "sentence2", "is_duplicate": "label"},
        "sentence1",
    ),
}
PLAIN_TASKS = ("CoLA", "SST-2", "MRPC", "RTE", "STS-B", "WNLI")  # complete, or not at hand
HEADERLESS = "CoLA"


def is_transcribed(sentence: str) -> bool:
    """Whether a sentence looks transcribed from a telephone call: no capital at its start and no punctuation."""
    return sentence[:1].islower() and not any(mark in sentence for mark in PUNCTUATION)


def divide(items: Sequence[str], first: Callable[[str], str], draw: random.Random) -> tuple[list[str], list[str]]:
    """(train, held out): ``HELD_OUT`` of the groups with the same ``first``, at least one, each part in its order."""
    groups = list(dict.fromkeys(map(first, items)))
    held = set(draw.sample(groups, max(1, round(HELD_OUT * len(groups)))))
    return [item for item in items if first(item) not in held], [item for item in items if first(item) in held]


def sample_lines(path: Path, layout: Layout) -> list[str]:
    """Rows of a JSON-lines sample as lines of the official file, without its header."""
    lines = []
    for number, line in enumerate(lines_of(path), start=1):
        try:
            row = json.loads(line)
            values = {column: " ".join(row[key].split()) for column, key in layout.keys.items()}
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            wanted = ", ".join(sorted(set(layout.keys.values())))
            fail(f"{path} line {number}: expected a JSON object with texts as {wanted}")
        values["index"] = str(number - 1)
        lines.append("\t".join(values.get(column, "") for column in layout.columns))
    return lines


def divide_sample(task: str, path: Path, *, dev: bool) -> dict[str, tuple[str, list[str]]]:
    """(header, lines) by file name; only ``train`` unless ``dev``."""
    layout = LAYOUTS[task]
    header, lines = "\t".join(layout.columns), sample_lines(path, layout)
    place = layout.columns.index(next(column for column, key in layout.keys.items() if key == layout.first))

    def first(line: str) -> str:
        return line.split("\t")[place]

    draw = random.Random(SEED)
    draw.shuffle(lines)
    if not dev:
        return {"train": (header, lines)}
    if task != "MNLI":
        train, held = divide(lines, first, draw)
        return {"train": (header, train), "dev": (header, held)}
    speech = [line for line in lines if is_transcribed(first(line))]
    train, held = divide([line for line in lines if not is_transcribed(first(line))], first, draw)
    return {"train": (header, train), "dev_matched": (header, held), "dev_mismatched": (header, speech)}


def find(folder: Path, stems: Iterable[str], ending: str) -> Path | None:
    """The first of ``<stem><ending>``, plain or gzipped, that is there."""
    candidates = (folder / f"{stem}{ending}{packed}" for stem in stems for packed in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def make_task(task: str, source: Path, target: Path) -> None:
    """Writes the folder of one task.

    Official files win over samples: where train is a sample and dev is official, the whole sample is train.
    """
    sample = next(iter(sorted([*source.glob("train*.jsonl"), *source.glob("train*.jsonl.gz")])), None)
    official = {
        stem: path
        for stem, names in {
            **{name: (name,) for name in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched")},
            "dev": ("dev", "dev_in_domain"),
            "test": ("test",),
        }.items()
        if (path := find(source, names, ".tsv"))
    }
    if "train" not in official and (sample is None or task not in LAYOUTS):
        fail(f"{source}: neither train.tsv nor a train*.jsonl that {task} can be made of")
    target.mkdir()
    for stem, path in official.items():
        shutil.copyfile(path, target / (f"{stem}.tsv.gz" if path.suffix == ".gz" else f"{stem}.tsv"))
    if "train" not in official:
        assert sample is not None, task  # checked above
        has_dev = any(stem.startswith("dev") for stem in official)
        for stem, (header, lines) in divide_sample(task, sample, dev=not has_dev).items():
            (target / f"{stem}.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def hold_out(task: str, folder: Path) -> None:
    """Makes the dev files of a finished folder parts of its train instead: for choosing settings without dev."""
    path = find(folder, ["train"], ".tsv")
    assert path is not None, folder  # make_task wrote it
    header, lines = ([], list(lines_of(path))) if task == HEADERLESS else ([next(lines_of(path))], [])
    lines = lines or list(lines_of(path))[1:]
    train, held = divide(lines, lambda line: line, random.Random(SEED))
    for old in (*folder.glob("dev*"), *folder.glob("test*"), path):
        old.unlink()
    dev = ("dev_matched", "dev_mismatched") if task == "MNLI" else ("dev",)
    for stem, rows in {"train": train, **dict.fromkeys(dev, held)}.items():
        (folder / f"{stem}.tsv").write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")


def count_lines(path: Path, task: str) -> int:
    """Examples of a file."""
    return sum(1 for _ in lines_of(path)) - (task != HEADERLESS or path.name.startswith("test"))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder with a folder for each task")
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder to make")
    parser.add_argument(
        "--hold_out", action="store_true", help="dev files are a tenth of train instead, taken out of it"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    tasks = [task for task in (*LAYOUTS, *PLAIN_TASKS) if (args.source / task).is_dir()]
    if not tasks:
        fail(f"{args.source}: none of the folders {', '.join((*LAYOUTS, *PLAIN_TASKS))} is there")
    if args.target.exists():
        fail(f"{args.target} exists; delete it or name another folder")
    with whole(args.target) as partial:
        partial.mkdir()
        for task in tasks:
            make_task(task, args.source / task, partial / task)
            if args.hold_out:
                hold_out(task, partial / task)
            files = sorted((partial / task).iterdir())
            print(f"{task}: {', '.join(f'{path.name} {count_lines(path, task):,}' for path in files)}")


if __name__ == "__main__":
    main()
