"""Files of ``quickstart.sh --real``: a few rows of E2E's official CSV files, and generated texts as lines.

python scripts/quickstart/real.py rows RAW data --train 480 --test 30
python scripts/quickstart/real.py texts lora/generated.jsonl lora/hypotheses.txt
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from examples.common.errors import run_main
from examples.common.files import atomic_write, make_folder, read_jsonl
from scripts.studies.data import e2e_pairs, find, spaced

VALID = 32  # rows whose loss is followed


def write_rows(raw: Path, out: Path, n_train: int, n_test: int) -> None:
    """``train.csv``, ``valid.csv``; ``inputs.csv``, each test input once, and ``test.csv`` with all its references."""
    train, valid, test = (e2e_pairs(find(raw, f"{name}.csv")) for name in ("trainset", "devset", "testset_w_refs"))
    groups: dict[str, list[list[str]]] = {}
    for row in test:
        groups.setdefault(row[0], []).append(row)
    chosen = spaced(list(groups.values()), n_test)
    files = {"train": spaced(train, n_train), "valid": spaced(valid, VALID), "inputs": [rows[0] for rows in chosen]}
    files["test"] = [row for rows in chosen for row in rows]
    for name, rows in files.items():
        with atomic_write(make_folder(out) / f"{name}.csv") as stream:
            csv.writer(stream, lineterminator="\n").writerows([("mr", "ref"), *rows])


def write_texts(source: Path, target: Path) -> None:
    """One text a line."""
    with atomic_write(target) as stream:
        stream.writelines(f"{' '.join(row['generated'].split())}\n" for _, row in read_jsonl(source, ("generated",)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rows, texts = commands.add_parser("rows"), commands.add_parser("texts")
    for command in (rows, texts):
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
    rows.add_argument("--train", type=int, required=True, help="rows to train on")
    rows.add_argument("--test", type=int, required=True, help="inputs to test on")
    args = parser.parse_args()
    if args.command == "rows":
        write_rows(args.source, args.target, args.train, args.test)
    else:
        write_texts(args.source, args.target)


if __name__ == "__main__":
    run_main(main)
