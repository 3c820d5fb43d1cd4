"""Training texts of any GLUE folder, JSON-lines, TSV or plain text file: one or two sentences a line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ends import fail

Text = tuple[str, ...]  # one sentence or two
ENDINGS = (".tsv", ".jsonl", ".txt")


def read_texts(paths: Sequence[Path]) -> list[Text]:
    """Every distinct text once, in the order of the files; of a folder its files named ``train*``, at any depth.

    Ends the program where a path does not exist, holds no text, or is not UTF-8.
    """
    texts: dict[Text, None] = {}
    for path in paths:
        files = sorted(found for found in path.rglob("train*") if kind(found)) if path.is_dir() else [path]
        if not files:
            fail(f"{path}: no file named train*{'|'.join(ENDINGS)}, plain or .gz")
        for file in files:
            before = len(texts)
            texts.update(dict.fromkeys(texts_of(file)))
            if len(texts) == before and not before:
                fail(f"{file} holds no sentences")
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
        fail(f"{path}: expected {', '.join(ENDINGS)}, plain or .gz")
    skipped: set[int] = set()
    for number, line in enumerate(lines_of(path), start=1):
        if ending == ".jsonl":
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                fail(f"{path} line {number}: not JSON ({error.msg})")
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
    """Lines without their ends; ends the program where the file cannot be read as UTF-8 text."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    yield line.decode("utf-8-sig").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    fail(f"{path} line {number}: not UTF-8 text ({error.reason})")
    except (OSError, EOFError) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error}")
