"""Reads rows: JSON lines, JSON, CSV, TSV or a text; each row knows where it stands."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.common.errors import UserError
from examples.common.files import read_jsonl, read_lines


@dataclass(frozen=True)
class Row:
    """Fields by name; ``where`` is for messages, such as ``train.jsonl line 3``."""

    where: str
    fields: dict[str, Any]


def read_rows(path: str | Path, columns: Sequence[str] | None = None) -> list[Row]:
    """All rows of a file, its kind known by its suffix.

    ``.tsv`` is split at tabs, quotation marks being letters as in GLUE. ``.csv`` has quoted fields, and tabs between
    them where its first line has one. ``.txt`` is one text. ``.json`` is a list of objects, or JSON lines.

    Args:
        columns: names of the columns of a table without a header line.

    Raises:
        UserError: a missing, empty or cut file, or another kind of content; names the line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".gz", ".zip", ".xz", ".bz2"):
        raise UserError(f"{path} is compressed; unpack it first")
    if suffix in (".csv", ".tsv"):
        rows = _table(path, columns)
    elif columns:
        raise UserError(f"--columns names the columns of a .csv or .tsv file, but {path} is none")
    elif suffix == ".txt":
        text = "\n".join(line.rstrip("\r") for _, line in read_lines(path)).strip()
        rows = [Row(str(path), {"text": text})] if text else []
    elif suffix == ".json" and _starts_list(path):
        rows = _json_list(path)
    elif suffix in (".jsonl", ".json"):
        rows = [Row(f"{path} line {number}", fields) for number, fields in read_jsonl(path)]
    else:
        raise UserError(f"{path}: expected a name that ends in .jsonl, .json, .csv, .tsv or .txt")
    if not rows:
        raise UserError(f"{path} is empty")
    for row in rows:
        try:
            json.dumps(row.fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{row.where}: has half of a surrogate pair (\\ud800 to \\udfff), which is no text"
            ) from None
    return rows


def _starts_list(path: Path) -> bool:
    first = next((line.strip() for _, line in read_lines(path) if line.strip()), "")
    return first.startswith("[")


def _json_list(path: Path) -> list[Row]:
    try:
        content = json.loads("\n".join(line for _, line in read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    for number, item in enumerate(content, start=1):
        if not isinstance(item, dict):
            raise UserError(f"{path} item {number}: expected a JSON object, got {type(item).__name__}")
    return [Row(f"{path} item {number}", item) for number, item in enumerate(content, start=1)]


def _table(path: Path, columns: Sequence[str] | None) -> list[Row]:
    lines = list(read_lines(path))
    if not lines:
        return []
    tabs = path.suffix.lower() == ".tsv" or "\t" in lines[0][1]
    quoting: Any = csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL
    limit = csv.field_size_limit(2**31 - 1)  # a text may be longer than 128 KiB
    reader = csv.reader(
        (line.rstrip("\r") + "\n" for _, line in lines), delimiter="\t" if tabs else ",", quoting=quoting
    )
    rows = []
    try:
        names = list(columns) if columns else next(reader)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise UserError(
                    f"{path} line {reader.line_num}: {len(cells)} columns, expected {len(names)} ({', '.join(names)})"
                )
            rows.append(Row(f"{path} line {reader.line_num}", dict(zip(names, cells))))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows
