"""Training texts of any GLUE folder, JSON-lines, TSV or plain text file: one or two sentences a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from examples.common.errors import UserError
from examples.common.files import read_lines

Text = tuple[str, ...]  # one sentence or two
ENDINGS = (".tsv", ".jsonl", ".txt")


def read_texts(paths: Sequence[Path]) -> list[Text]:
    """Every distinct text once, in the order of the files; of a folder its files named ``train*``, at any depth.

    A ``UserError`` says where a path does not exist, holds no text, or is not UTF-8.
    """
    texts: dict[Text, None] = {}
    for path in paths:
        files = sorted(found for found in path.rglob("train*") if kind(found)) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path}: no file named train*{'|'.join(ENDINGS)}, plain or .gz")
        for file in files:
            before = len(texts)
            texts.update(dict.fromkeys(texts_of(file)))
            if len(texts) == before and not before:
                raise UserError(f"{file} holds no sentences")
    return list(texts)


def kind(path: Path) -> str | None:
    """``.tsv``, ``.jsonl`` or ``.txt``, gzipped or not; None for anything else."""
    ending = Path(path.name.removesuffix(".gz")).suffix
    return ending if ending in ENDINGS else None


def texts_of(path: Path) -> Iterator[Text]:
    """Texts of one file: of a table the first two cells of each row that hold several words.

    That leaves out numbers, names and labels. MNLI's columns of parse trees are not sentences.
    """
    ending = kind(path)
    if ending is None:
        raise UserError(f"{path}: expected {', '.join(ENDINGS)}, plain or .gz")
    skipped: set[int] = set()
    for number, line in enumerate(lines_of(path), start=1):
        if ending == ".jsonl":
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {number}: not JSON ({error})") from None
            cells = [value for value in row.values() if isinstance(value, str)] if isinstance(row, dict) else []
        elif ending == ".tsv":
            cells = line.split("\t")
            if number == 1:
                skipped = {place for place, cell in enumerate(cells) if cell.endswith("_parse")}
            cells = [cell for place, cell in enumerate(cells) if place not in skipped]
        else:
            cells = [line]
        found = tuple(cell.strip() for cell in cells if " " in cell.strip())[:2]
        if found and not (ending == ".tsv" and number == 1 and found[0].startswith("#")):  # MRPC's header
            yield found


def lines_of(path: Path) -> Iterator[str]:
    """Lines without their ends; a ``UserError`` where the file cannot be read as UTF-8 text."""
    for _, line in read_lines(path):
        yield line.removeprefix("\ufeff").rstrip("\r")
