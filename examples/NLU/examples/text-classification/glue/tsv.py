"""Reads the official GLUE folders: tab-separated, unquoted, one layout for each task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from examples.common.errors import UserError, warn
from examples.common.files import read_lines
from glue.tasks import Task

# CoLA has no header in train and dev
COLA_HEADER = ["source", "label", "star", "sentence"]
STEMS = {
    "train": "train",
    "validation": "dev",
    "validation_matched": "dev_matched",
    "validation_mismatched": "dev_mismatched",
    "test": "test",
    "test_matched": "test_matched",
    "test_mismatched": "test_mismatched",
}

Row = dict[str, str]


def find_tsv(data_dir: str | Path, task: Task, split: str) -> Path | None:
    """Path of a split's file below ``data_dir``: the GLUE root or the task's own folder, plain or gzipped."""
    for folder in (Path(data_dir) / task.folder, Path(data_dir)):
        for name in (f"{STEMS[split]}.tsv", f"{STEMS[split]}.tsv.gz"):
            if (folder / name).is_file():
                return folder / name
    return None


def read_tsv(path: Path, task: Task, split: str) -> list[Row]:
    """Rows of one official file under the task's column names, ``label`` as text; no label in test files.

    QQP's own train and dev files contain a few lines that are cut short; these are left out and counted. In any
    other task a line with another number of fields is an error.

    Raises:
        UserError: names file, line and column of a broken line or an absent column.
    """
    has_labels = not split.startswith("test")
    lines = _lines(path)
    if task.name == "cola" and has_labels:
        header = COLA_HEADER
    else:
        header = next(lines, (0, ""))[1].split("\t")
    wanted = [*task.tsv_columns, *([task.tsv_label] if has_labels else [])]
    for column in wanted:
        if column not in header:
            raise UserError(f"{path} line 1: column {column!r} of {task.name} is missing, found {', '.join(header)}")
    names = [*task.sentences, *(["label"] if has_labels else [])]
    places = [(name, header.index(column)) for name, column in zip(names, wanted)]
    rows, short = [], 0
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(header):
            if task.name == "qqp" and len(fields) < len(header):
                short += 1
                continue
            raise UserError(f"{path} line {number}: {len(fields)} tab-separated fields, expected {len(header)}")
        rows.append({name: fields[place] for name, place in places})
    if short:
        warn(f"{path}: {short} lines cut short are left out, as in GLUE's own row counts")
    if not rows:
        raise UserError(f"{path} holds no examples")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in read_lines(path):
        yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r")
