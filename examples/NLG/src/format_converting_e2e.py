"""E2E raw text to examples: one line ``meaning representation||sentence``, or the official CSV, becomes one row.

The ``.txt`` files of the released code are already tokenised (blanks around punctuation). The official ``.csv`` files
(``mr,ref``) are not: their values and sentences are kept as they are, only the slots are written in the style of the
text files. To get the tokenised text from a CSV, run spaCy's default English tokeniser over values and sentences and
join the tokens by one blank; scores of models trained on the two styles are not comparable.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from text.converting import example, parse_paths, write_examples

from examples.common.errors import UserError, run_main
from examples.common.files import read_lines

SEPARATOR = "||"
SLOT = re.compile(r"\s*([^\s\[\],][^\[\],]*)\[([^\]]*)\]\s*(?:,|$)")
SLOT_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def main(argv: Sequence[str] | None = None) -> None:
    source, output = parse_paths(argv, "E2E text (MR||sentence) or official CSV to JSON lines")
    read = read_csv if source.suffix.lower() == ".csv" else read_text
    write_examples(output, read(source), source)


def read_text(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a text file. What follows a second ``||`` of a line is left out, as in the released code."""
    for number, line in read_lines(path):
        context, *rest = line.strip().split(SEPARATOR)
        if not rest:
            raise UserError(f"{path} line {number}: expected 'meaning representation||sentence', got {line[:60]!r}")
        yield example(context, rest[0])


def read_csv(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file with the columns ``mr`` and ``ref``."""
    lines = (f"{line}\n" for _, line in read_lines(path))
    reader = csv.DictReader(lines, strict=True)
    try:
        columns = [name.lstrip("\ufeff") for name in reader.fieldnames or ()]
        if not {"mr", "ref"} <= set(columns):
            raise UserError(f"{path} line 1: expected the columns mr and ref, got {','.join(columns)!r:.60}")
        reader.fieldnames = columns
        for row in reader:
            where = f"{path} line {reader.line_num}"
            if not row["mr"] or row["ref"] is None:
                raise UserError(f"{where}: expected a meaning representation and a sentence")
            yield example(_context(row["mr"], where), row["ref"])
    except csv.Error as error:
        raise UserError(f"{path} line {reader.reader.line_num}: not CSV ({error})") from None


def _context(mr: str, where: str) -> str:
    """``name[X], eatType[pub]`` as ``name : X | Type : pub``, slots in the order given."""
    slots, end = [], 0
    while end < len(mr):
        match = SLOT.match(mr, end)
        if match is None:
            raise UserError(f"{where}: expected slots such as 'name[X], area[Y]', got {mr[end : end + 60]!r}")
        name, value = match.groups()
        slots.append(f"{SLOT_NAMES.get(name, name)} : {value}")
        end = match.end()
    return " | ".join(slots)


if __name__ == "__main__":
    run_main(main)
