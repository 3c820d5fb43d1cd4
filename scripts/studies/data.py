"""Turns the raw files of the studies into JSON lines for examples/CLM, one folder for each task.

    python scripts/studies/data.py RAW data sst cfimdb quora sonnets      (names as the course has them, .gz or not)
    python scripts/studies/data.py RAW data alpaca sms imdb sst2
    python scripts/studies/data.py RAW data e2e

What a study leaves open is decided by ``SEED`` and the rules beside each function; docs/studies.md lists them.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from examples.common.errors import UserError, run_main, warn
from examples.common.files import atomic_write, make_folder, read_jsonl, read_lines, read_text, write_jsonl

T = TypeVar("T")
Rows = list[dict[str, Any]]
SEED = 123  # of the splits that a study does not give
FIRST_LINES = 3  # of a sonnet, which a model continues
ALPACA_ROWS = {"train": 12_000, "valid": 1_500}
ALPACA_TEST = 50  # of either kind
ALPACA_LONGEST = 512  # characters of a response, below
# First words of the instructions that count as simple (with an input, one right answer) and as open-ended
SIMPLE = (
    "Add",
    "Calculate",
    "Categorize",
    "Change",
    "Classify",
    "Convert",
    "Correct",
    "Edit",
    "Fill",
    "Identify",
    "Replace",
    "Rewrite",
    "Translate",
)
OPEN = (
    "Brainstorm",
    "Compose",
    "Create",
    "Describe",
    "Design",
    "Explain",
    "Generate",
    "Imagine",
    "Invent",
    "Suggest",
    "Write",
)
QUORA_COLUMNS = ("id", "sentence1", "sentence2", "is_duplicate")
QUORA_PROMPT = 'Is "{}" a paraphrase of "{}"? Answer "yes" or "no":'
# in the form of the course's training prompt, a quotation mark that nothing closes included; the question is ours
COURSE_PROMPT = 'Question 1: "{}\nQuestion 2: "{}\nDo these two questions ask the same thing?'
REFERENCE_TOKEN = "<|ref|>"  # between meaning representation and reference in Swift's study


def find(raw: Path, *names: str) -> Path:
    """The first of these files that is there, packed or not."""
    for name in names:
        for path in (raw / name, raw / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(f"{raw} has none of {', '.join(names)} (.gz or not)")


def write(folder: Path, **splits: Rows) -> None:
    """``folder/SPLIT.jsonl`` for each split; an empty one is a mistake."""
    for name, rows in splits.items():
        if not rows:
            raise UserError(f"{folder.name}: no rows are left for {name}; are the files cut?")
        write_jsonl(make_folder(folder) / f"{name}.jsonl", rows)


def columns(path: Path, *names: str) -> Rows:
    """These columns of a file with tabs and a header line; rows that lack one are left out, counted and named."""
    found: Rows = []
    left_out = []
    lines = read_lines(path)
    _, first = next(lines, (0, ""))
    header = first.rstrip("\r").split("\t")
    if missing := [name for name in names if name not in header]:
        raise UserError(f"{path} line 1: no column {missing[0]!r} among {', '.join(header)}")
    for number, line in lines:
        cells = dict(zip(header, line.rstrip("\r").split("\t")))
        if all(cells.get(name, "").strip() for name in names):
            found.append({name: cells[name].strip() for name in names})
        elif line.strip():
            left_out.append(str(number))
    if left_out:
        warn(f"{path}: {len(left_out)} rows lack a field and are left out: lines {', '.join(left_out[:5])}")
    return found


def shuffled(rows: Sequence[dict[str, Any]]) -> Rows:
    return random.Random(SEED).sample(list(rows), len(rows))


def split(rows: Sequence[dict[str, Any]], *shares: float) -> list[Rows]:
    """Shuffled rows in parts of these shares; the last part has the rest."""
    rows, parts = shuffled(rows), []
    total = len(rows)
    for share in shares[:-1]:
        cut = max(1, round(share * total))
        parts.append(rows[:cut])
        rows = rows[cut:]
    return [*parts, rows]


def sentiment(raw: Path, out: Path, name: str) -> None:
    """SST-5 and CFIMDB of CS224N; the students' test set has no labels."""
    parts = {}
    for part, file in (("train", "train"), ("valid", "dev"), ("test", "test-student")):
        names = ("id", "sentence", *(["sentiment"] if part != "test" else []))
        rows = columns(find(raw, f"ids-{name}-{file}.csv"), *names)
        labels = {"sentiment": "label", "sentence": "text"}
        parts[part] = [{labels.get(key, key): value for key, value in row.items()} for row in rows]
    write(out, **parts)


def quora_sentence(text: str) -> str:
    """As the course prepares it: lower case, a blank before . ? , and '."""
    return re.sub(r"([.?,'])", r" \1", text.lower())


def quora(raw: Path, out: Path, course: bool = False) -> None:
    """Question pairs as one prompt, the same in training and test; labels are the words yes and no.

    Args:
        course: train with another prompt than the one that labels, as the course does; the dev rows get both.
    """
    prompt = COURSE_PROMPT if course else QUORA_PROMPT
    train = columns(find(raw, "quora-train.csv", "quora-train.sample5000.csv"), *QUORA_COLUMNS)
    dev = columns(find(raw, "quora-dev.csv"), *QUORA_COLUMNS)
    parts = {"train": quora_rows(train, prompt), "valid": quora_rows(dev, prompt)}
    write(out, **parts, **({"test": quora_rows(dev, QUORA_PROMPT)} if course else {}))


def quora_rows(rows: Rows, prompt: str) -> Rows:
    return [
        {
            "id": row["id"],
            "text": prompt.format(*(quora_sentence(row[key]) for key in ("sentence1", "sentence2"))),
            "label": "yes" if float(row["is_duplicate"]) else "no",
        }
        for row in rows
    ]


def sonnets_of(path: Path) -> dict[str, str]:
    """Text by number: split at lines that hold only a number, what stands before the first of them dropped."""
    parts = re.split(r"^\s*(\d+)\s*$", read_text(path).replace("\r\n", "\n"), flags=re.MULTILINE)
    return {number: text.strip("\n") for number, text in zip(parts[1::2], parts[2::2])}


def sonnets(raw: Path, out: Path, train_size: float) -> None:
    """Sonnets to train on, in two parts for early stopping, and the first lines of the others with their whole text."""
    whole = sonnets_of(find(raw, "TRUE_sonnets_held_out_dev.txt"))
    rows = [{"text": text} for text in sonnets_of(find(raw, "sonnets.txt")).values()]
    train, valid = split(rows, train_size, 1 - train_size)
    test = []
    for number, text in sonnets_of(find(raw, "sonnets_held_out_dev.txt")).items():
        if number not in whole:
            raise UserError(f"sonnet {number} of the held-out lines is not among the true ones")
        lines = [line for line in text.splitlines() if line.strip()][:FIRST_LINES]
        test.append({"number": number, "prompt": "\n".join(lines) + "\n", "reference": whole[number]})
    write(out, train=train, valid=valid, test=test)


def alpaca(raw: Path, out: Path) -> None:
    """Responses below 512 characters; 100 to test on, half with an input and a first word of ``SIMPLE``, half without
    and with one of ``OPEN``; then 12,000 and 1,500 rows, or 8 to 1 of what is there."""
    path = find(raw, "alpaca_data.json", "alpaca_subset.json")
    try:
        rows = json.loads(read_text(path))
        short = [r for r in rows if r["output"].strip() and len(r["output"]) < ALPACA_LONGEST]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: expected a list of instruction, input, output ({error!r})") from None
    short = shuffled([{key: row[key] for key in ("instruction", "input", "output")} for row in short])

    def starts(row: dict[str, Any], words: Sequence[str]) -> bool:
        return row["instruction"].split(" ")[0] in words

    kinds = (
        [row for row in short if row["input"] and starts(row, SIMPLE)],
        [row for row in short if not row["input"] and starts(row, OPEN)],
    )
    test = [row for kind in kinds for row in kind[: min(ALPACA_TEST, max(1, len(kind) // 10))]]
    rest = [row for row in short if row not in test]
    n_valid = min(ALPACA_ROWS["valid"], max(1, len(rest) // 9))
    write(out, train=rest[n_valid:][: ALPACA_ROWS["train"]], valid=rest[:n_valid], test=test)


def sms(raw: Path, out: Path) -> None:
    """As many ham as spam, in parts of 70, 10 and 20 %."""
    path = find(raw, "SMSSpamCollection", "SMSSpamCollection.minus_heldout.tsv")
    pairs = [line.partition("\t")[::2] for _, line in read_lines(path) if "\t" in line]
    spam, ham = (
        [{"text": text.strip(), "label": kind} for label, text in pairs if label == kind] for kind in ("spam", "ham")
    )
    train, valid, test = split(spam + shuffled(ham)[: len(spam)], 0.7, 0.1, 0.2)
    write(out, train=train, valid=valid, test=test)


def imdb(raw: Path, out: Path) -> None:
    """Reviews of a file of JSON lines, in parts of 70, 10 and 20 %."""
    path = find(raw, "imdb.jsonl", "dev1k.jsonl")
    rows = [{"text": str(row["text"]), "label": str(row["label"])} for _, row in read_jsonl(path, ("text", "label"))]
    train, valid, test = split(rows, 0.7, 0.1, 0.2)
    write(out, train=train, valid=valid, test=test)


def sst2(raw: Path, out: Path) -> None:
    """GLUE's files; its dev set is the test set, a tenth of the training rows validates."""
    folder = raw / "SST-2" if (raw / "SST-2").is_dir() else raw
    train, dev = (
        [{"text": row["sentence"], "label": row["label"]} for row in columns(find(folder, name), "sentence", "label")]
        for name in ("train.tsv", "dev.tsv")
    )
    train, valid = split(train, 0.9, 0.1)
    write(out, train=train, valid=valid, test=dev)


def e2e(raw: Path, out: Path) -> None:
    """Swift's form: the representation as the official CSV files have it, ``<|ref|>``, the reference; of the test set
    each representation once, with all its references."""
    files = {"train": "trainset.csv", "valid": "devset.csv", "test": "testset_w_refs.csv"}
    pairs = {part: e2e_pairs(find(raw, name)) for part, name in files.items()}
    groups: dict[str, list[str]] = {}
    for mr, reference in pairs.pop("test"):
        groups.setdefault(mr, []).append(reference)
    # no blank stands between the token and a response: it begins with its own, as in a text that is tokenised whole
    parts = {
        part: [{"prompt": f"{mr} {REFERENCE_TOKEN}", "response": f" {reference}"} for mr, reference in some]
        for part, some in pairs.items()
    }
    test = [{"prompt": f"{mr} {REFERENCE_TOKEN}", "references": references} for mr, references in groups.items()]
    write(out, **parts, test=test)


def e2e_pairs(path: Path) -> list[list[str]]:
    """Meaning representation and reference of each row, white space in them as single blanks."""
    rows = csv.reader((line.lstrip("\ufeff") + "\n" for _, line in read_lines(path)), strict=True)
    found: list[list[str]] = []
    try:
        for cells in rows:
            cells = [" ".join(cell.split()) for cell in cells]
            if len(cells) != 2 or not all(cells) or (not found and cells != ["mr", "ref"]):
                raise UserError(f"{path} line {rows.line_num}: expected the columns mr and ref, got {cells!r:.60}")
            found.append(cells)
    except csv.Error as error:
        raise UserError(f"{path} line {rows.line_num}: not CSV ({error})") from None
    return found[1:]


def keep_few(folder: Path, count: int) -> None:
    """Evenly spaced rows of what validates and tests, no more than ``count``."""
    for path in (folder / "valid.jsonl", folder / "test.jsonl"):
        if path.exists():
            write(folder, **{path.stem: spaced([row for _, row in read_jsonl(path)], count)})


def spaced(items: Sequence[T], count: int) -> list[T]:
    """No more than ``count`` items, evenly spaced: the files are sorted."""
    n = min(count, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def write_references(folder: Path) -> None:
    """The references of the test set in groups of lines, as ``score.py e2e`` reads them."""
    with atomic_write(folder / "references.txt") as stream:
        for _, row in read_jsonl(folder / "test.jsonl", ("references",)):
            stream.write("".join(f"{text}\n" for text in row["references"]) + "\n")


TASKS = {
    "sst": lambda raw, out: sentiment(raw, out, "sst"),
    "cfimdb": lambda raw, out: sentiment(raw, out, "cfimdb"),
    "quora": quora,
    "quora-course": lambda raw, out: quora(raw, out, course=True),
    "sonnets": lambda raw, out: sonnets(raw, out, 0.9),
    "sonnets-0.8": lambda raw, out: sonnets(raw, out, 0.8),
    **{"alpaca": alpaca, "sms": sms, "imdb": imdb, "sst2": sst2, "e2e": e2e},
}


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder of the raw files")
    parser.add_argument("out", type=Path, metavar="OUT", help="gets a folder for each task")
    parser.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--rows", type=int, metavar="N", help="of what validates and tests only N rows, evenly spaced")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if args.rows is not None and args.rows < 1:
        raise UserError(f"--rows must be at least 1, got {args.rows}")
    for task in dict.fromkeys(args.tasks):
        TASKS[task](args.raw, args.out / task)
        if args.rows is not None:
            keep_few(args.out / task, args.rows)
        if task == "e2e":
            write_references(args.out / task)
        print(f"{task}: {counts(args.out / task)}", flush=True)


def counts(folder: Path) -> str:
    def lines(path: Path) -> int:
        return sum(1 for _ in read_lines(path))

    files: Iterable[Path] = sorted(folder.glob("*.jsonl"))
    return ", ".join(f"{path.stem} {lines(path):,}" for path in files)


if __name__ == "__main__":
    run_main(main)
