"""Files in the forms of the CS224N course: predicted labels, and sonnets that a model ended.

python scripts/studies/course_files.py sentiments RUN/test_results.txt test.jsonl RUN/predictions.csv
python scripts/studies/course_files.py sonnets RUN/generated.jsonl RUN/whole.jsonl RUN/generated_sonnets.txt
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, read_jsonl, read_lines

NUMBERS = {"yes": "1", "no": "0"}


def labels(heading: str, results: Path, rows: Path, out: Path) -> None:
    """``id, label`` a line below ``id \\t HEADING``, in the order of the rows; yes is 1 and no is 0."""
    predicted = [line.partition("\t")[2] for _, line in read_lines(results)][1:]
    ids = [str(row["id"]) for _, row in read_jsonl(rows, ("id",))]
    if len(ids) != len(predicted):
        raise UserError(f"{results} has {len(predicted)} labels, but {rows} has {len(ids)} rows")
    with atomic_write(out) as stream:
        stream.write(f"id \t {heading} \n")
        stream.writelines(f"{name}, {NUMBERS.get(label, label)} \n" for name, label in zip(ids, predicted))


def sonnets(generated: Path, whole: Path, out: Path) -> None:
    """The lines that were given with what was written after them: as JSON lines, and as the course's text file."""
    rows = [row for _, row in read_jsonl(generated, ("number", "prompt", "reference", "generated"))]
    with atomic_write(whole) as stream:
        for row in rows:
            text = {**row, "generated": row["prompt"] + row["generated"]}
            stream.write(json.dumps(text, ensure_ascii=False) + "\n")
    with atomic_write(out) as stream:
        stream.write("--Generated Sonnets-- \n\n")
        stream.writelines(f"\n{row['number']}\n\n{row['prompt']}{row['generated']}\n\n" for row in rows)


KINDS: dict[str, Callable[..., None]] = {
    "sentiments": partial(labels, "Predicted_Sentiment"),
    "paraphrases": partial(labels, "Predicted_Is_Paraphrase"),
    "sonnets": sonnets,
}


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(
        "files", type=Path, nargs=3, metavar="FILE", help="the last two are written for sonnets, the last for labels"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    KINDS[args.kind](*args.files)


if __name__ == "__main__":
    run_main(main)
