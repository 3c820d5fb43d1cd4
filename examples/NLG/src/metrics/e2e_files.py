"""Reads references and hypotheses as the E2E challenge wrote them: plain text in groups, or CSV/TSV with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.common.errors import UserError, warn
from examples.common.files import read_lines

# Names of columns, in the order of preference, as the challenge's data and its participants wrote them.
SOURCE_COLUMNS = ("mr", "src", "source")
REFERENCE_COLUMNS = ("ref", "reference", "references", "text")
OUTPUT_COLUMNS = ("output", "sys", "hyp", "hypothesis", "prediction", *REFERENCE_COLUMNS)
DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Table:
    """One column of texts, and the meaning representation beside each where the file has such a column."""

    texts: list[str]
    sources: list[str] | None


def read_references(path: str | Path) -> list[list[str]]:
    """References per item: groups between blank lines, or neighbouring rows of a CSV/TSV with an equal source.

    Raises:
        UserError: missing or empty file, not UTF-8, or a table without the columns.
    """
    return _read_table_groups(path) if _is_table(path) else _read_groups(path)


def read_system_output(path: str | Path, *, n_expected: int, source_path: str | Path | None = None) -> list[str]:
    """One hypothesis per line, or per row of a CSV/TSV. A blank line is an empty hypothesis.

    Args:
        path: the system output.
        n_expected: number of reference groups.
        source_path: meaning representations in the right order (one per line, or a CSV/TSV); ``path`` must then be
            a CSV/TSV with a source column, and every row must repeat its source.

    Raises:
        UserError: missing or empty file, not UTF-8, another number of hypotheses, or another source.
    """
    sources = None
    if _is_table(path):
        table = _read_table(path, OUTPUT_COLUMNS)
        hypotheses, sources = table.texts, table.sources
    else:
        hypotheses = [line.strip() for _, line in _lines(path)]
    if not hypotheses:
        raise UserError(f"{path} is empty; expected {n_expected} hypotheses, one per line")
    while len(hypotheses) > n_expected and not hypotheses[-1]:
        hypotheses.pop()  # blank lines at the end of a file are no hypotheses
    if len(hypotheses) != n_expected:
        raise UserError(_count_message(path, hypotheses, n_expected))
    if source_path is not None:
        _check_sources(path, sources, source_path)
    return hypotheses


def _is_table(path: str | Path) -> bool:
    return Path(path).suffix.lower() in DELIMITERS


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    for number, line in read_lines(path):
        yield number, line.lstrip("\ufeff") if number == 1 else line


def _read_groups(path: str | Path) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for _, line in _lines(path):
        if text := line.strip():
            groups[-1].append(text)
        elif groups[-1]:
            groups.append([])
    groups = [group for group in groups if group]
    if not groups:
        raise UserError(f"{path} is empty; expected references, one per line, a blank line after each item's last")
    return groups


def _read_table_groups(path: str | Path) -> list[list[str]]:
    table = _read_table(path, REFERENCE_COLUMNS)
    if table.sources is None:
        raise UserError(f"{path}: references need a source column ({', '.join(SOURCE_COLUMNS)}) to be grouped by")
    groups: list[list[str]] = []
    group_sources: list[str] = []
    for text, source in zip(table.texts, table.sources):
        if not group_sources or source != group_sources[-1]:
            groups.append([])
            group_sources.append(source)
        groups[-1].append(text)
    if repeated := len(group_sources) - len(set(group_sources)):
        warn(f"{path}: {repeated} sources come back after other rows; only neighbouring rows make an item")
    return groups


def _read_table(path: str | Path, text_columns: Sequence[str]) -> Table:
    rows = list(_rows(path))
    if len(rows) < 2:
        raise UserError(f"{path} is empty; expected a header line and rows")
    (_, header), *body = rows
    names = [name.strip().lower() for name in header]
    text_column = _column(names, text_columns)
    if text_column is None:
        raise UserError(f"{path} line 1: expected one of the columns {', '.join(text_columns)}, found {header}")
    source_column = _column(names, SOURCE_COLUMNS)
    for number, row in body:
        if len(row) != len(header):
            raise UserError(f"{path} line {number}: expected {len(header)} columns as in the header, found {len(row)}")
    texts = [" ".join(row[text_column].split("\n")).strip() for _, row in body]
    return Table(texts, None if source_column is None else [row[source_column].strip() for _, row in body])


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """(line number of its end, fields) of each row of a CSV or TSV that is not blank."""
    delimiter = DELIMITERS[Path(path).suffix.lower()]
    reader = csv.reader((f"{line}\n" for _, line in _lines(path)), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not a well-formed table ({error})") from None


def _column(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _count_message(path: str | Path, hypotheses: Sequence[str], n_expected: int) -> str:
    message = f"{path} has {len(hypotheses)} hypotheses, but the references are for {n_expected} items"
    if len([text for text in hypotheses if text]) == n_expected:
        message += "; it has blank lines, without which the number would fit"
    return message


def _check_sources(path: str | Path, sources: Sequence[str] | None, source_path: str | Path) -> None:
    if sources is None:
        raise UserError(
            f"{path}: -s checks the source column of a .csv or .tsv output ({', '.join(SOURCE_COLUMNS)}); it has none"
        )
    expected = read_sources(source_path)
    if len(expected) != len(sources):
        raise UserError(f"{source_path} has {len(expected)} sources, but {path} has {len(sources)} hypotheses")
    for number, (found, wanted) in enumerate(zip(sources, expected), start=1):
        if found != wanted:
            raise UserError(f"{path} item {number}: its source is {found!r}, but {source_path} has {wanted!r} there")


def read_sources(path: str | Path) -> list[str]:
    """Meaning representations, one per line, or of the source column of a CSV/TSV.

    Raises:
        UserError: missing or empty file, not UTF-8, or a table without the column.
    """
    if _is_table(path):
        return _read_table(path, SOURCE_COLUMNS).texts
    return [line.strip() for _, line in _lines(path)]
