"""Where the examples come from: CSV or JSON files, official TSV folders, or the hub."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.common.errors import UserError
from examples.common.files import read_text
from glue.tasks import Task
from glue.tsv import find_tsv, read_tsv

Rows = list[dict[str, Any]]
HUB_DATA_SET = "nyu-mll/glue"


@dataclass
class Examples:
    """Rows by split (``train``, ``validation``, ``test``; MNLI also ``_matched``, ``_mismatched``) and their columns.

    ``label`` of a row is a label name, a number, an index into ``labels`` or absent. ``labels`` is empty for
    regression. ``files`` are the local files that were read, by split.
    """

    splits: dict[str, Rows]
    sentences: tuple[str, ...]
    labels: tuple[str, ...]
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def is_regression(self) -> bool:
        return not self.labels


def from_folder(data_dir: str, task: Task, splits: list[str]) -> Examples:
    """Examples of an official GLUE download; a wanted split that has no file is an error."""
    rows: dict[str, Rows] = {}
    files = {}
    for split in splits:
        path = find_tsv(data_dir, task, split)
        if path is None:
            raise UserError(f"--data_dir {data_dir}: no file of {task.folder} for the {split} split was found")
        rows[split], files[split] = list(read_tsv(path, task, split)), path
        if task.tsv_values:
            _name_labels(rows[split], dict(zip(task.tsv_values, task.labels)), path)
    return Examples(rows, task.sentences, task.labels, files)


def from_hub(task: Task, splits: list[str], cache_dir: str | None) -> Examples:
    """Examples of the hub's GLUE data set, downloaded once."""
    import datasets

    try:
        loaded = datasets.load_dataset(HUB_DATA_SET, task.name, cache_dir=cache_dir)
    except Exception as error:  # the library raises its own, its client's and the system's errors here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the data set {HUB_DATA_SET} ({task.name}) could not be loaded from the hub ({reason}); "
            "give the official files with --data_dir"
        ) from None
    rows: dict[str, Rows] = {}
    for split in splits:
        rows[split] = [{name: row[name] for name in (*task.sentences, "label")} for row in loaded[split]]
        for row in rows[split]:
            if split.startswith("test"):
                del row["label"]  # -1 for every row
    return Examples(rows, task.sentences, task.labels)


def from_files(files: Mapping[str, str], task: Task | None, known: Collection[str] = ()) -> Examples:
    """Examples of CSV, TSV or JSON files of one's own; with a task, its labels and its kind of score.

    Sentences are the task's columns or ``sentence1`` and ``sentence2``; without a task else the first one or two
    columns that are not ``label``. Without a task, floating-point labels mean regression, and other labels that are all
    ``known`` (to the model) stand for all of these.
    """
    rows = {split: _read_file(Path(name)) for split, name in files.items()}
    first = next(iter(rows))
    columns = list(rows[first][0])
    sentences = _choose_columns(columns, task, files[first])
    for split, table in rows.items():
        needed = sentences if split.startswith("test") else (*sentences, "label")
        for number, row in enumerate(table, start=1):
            if isinstance(row.get("label"), list | dict):
                raise UserError(f"{files[split]} example {number}: label {row['label']!r} is neither text nor a number")
            for column in needed:
                if row.get(column) is None:
                    raise UserError(
                        f"{files[split]} example {number}: column {column!r} is missing, found {', '.join(row)}"
                    )
    labels = task.labels if task else _own_labels(rows, known)
    if task and task.tsv_values:
        for split, table in rows.items():
            _name_labels(table, dict(zip(task.tsv_values, task.labels)), Path(files[split]), strict=False)
    return Examples(rows, sentences, labels, {split: Path(name) for split, name in files.items()})


def _choose_columns(columns: list[str], task: Task | None, path: str) -> tuple[str, ...]:
    if task:
        for choice in (task.sentences, ("sentence1", "sentence2")[: len(task.sentences)]):
            if all(name in columns for name in choice):
                return choice
        raise UserError(
            f"{path}: column {next(n for n in task.sentences if n not in columns)!r} of {task.name} is missing, "
            f"found {', '.join(columns)}"
        )
    if "sentence1" in columns and "sentence2" in columns:
        return "sentence1", "sentence2"
    others = [name for name in columns if name not in ("label", "idx", "index")]
    if not others:
        raise UserError(f"{path}: no column with text, found {', '.join(columns)}")
    return tuple(others[:2])


def _own_labels(rows: dict[str, Rows], known: Collection[str]) -> tuple[str, ...]:
    values = {row["label"] for split, table in rows.items() if not split.startswith("test") for row in table}
    if not values and not known:
        raise UserError("files of your own need a label: give --train_file or --validation_file, or --task_name")
    if any(isinstance(value, float) for value in values):
        return ()
    names = {str(value) for value in values}
    return tuple(known) if names <= set(known) else tuple(sorted(names))  # sorted: row order must not matter


def _name_labels(rows: Rows, names: Mapping[str, str], path: Path, strict: bool = True) -> None:
    """Replaces each label as written in a file (``0``, ``1``) by its name, in place."""
    for number, row in enumerate(rows, start=1):
        if "label" in row:
            value = str(row["label"])
            if strict and value not in names:
                raise UserError(
                    f"{path} example {number}: unknown label {value!r}, expected one of {', '.join(sorted(names))}"
                )
            row["label"] = names.get(value, value)


def _read_file(path: Path) -> Rows:
    name = path.name.removesuffix(".gz")
    if not name.endswith((".csv", ".tsv", ".json", ".jsonl")):
        raise UserError(f"{path}: expected a .csv, .tsv, .json or .jsonl file (or one of these with .gz)")
    text = read_text(path)
    rows = _json_rows(text, path) if name.endswith((".json", ".jsonl")) else _csv_rows(text, path, name)
    if not rows:
        raise UserError(f"{path} holds no examples")
    return rows


def _csv_rows(text: str, path: Path, name: str) -> Rows:
    stream = io.StringIO(text, newline="")
    if name.endswith(".tsv"):
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(stream)
    rows: Rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path} line {reader.line_num}: not {len(reader.fieldnames or [])} fields as in the header"
                )
            rows.append(dict(row))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num + 1}: {error}") from None
    values = [row["label"] for row in rows if "label" in row]
    if values and not all(_is_integer(value) for value in values) and all(_is_number(value) for value in values):
        for row in rows:
            row["label"] = float(row["label"])
    return rows


def _json_rows(text: str, path: Path) -> Rows:
    try:
        whole = json.loads(text)
        rows = whole.get("data") if isinstance(whole, dict) and "data" in whole else whole
        rows = [rows] if isinstance(rows, dict) else rows  # a file of one line
    except (ValueError, RecursionError):  # of several lines, or wrong
        rows = []
        for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number}: not JSON ({error.msg})") from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise UserError(f"{path} line {number}: not JSON that can be read ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected one JSON object a line, or a list of them")
    return rows


def _is_integer(value: str) -> bool:
    return value.removeprefix("-").isdigit()


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
