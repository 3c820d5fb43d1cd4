"""Reads what ``gpt2_decode.py`` writes for WebNLG and DART: one text per line, one file per reference number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from examples.common.errors import UserError, warn
from examples.common.files import open_binary, read_jsonl, read_lines

SEEN, UNSEEN = "seen", "unseen"


@dataclass(frozen=True)
class Texts:
    """One hypothesis and ``n_references`` references per item; a blank line is a blank text."""

    hypotheses: list[str]
    references: list[list[str]]  # [item][reference number]
    files: dict[str, Path]  # by role
    final_newline: bool  # every file ends with one, as gpt2_decode.py writes them


def read_texts(reference_prefix: str | Path, hypothesis_path: str | Path, *, n_references: int) -> Texts:
    """Reads ``<reference_prefix>0`` to ``<reference_prefix><n_references - 1>`` and the hypotheses.

    The newline at the end of a file ends its last line; the released program took it for one more item, blank.

    Raises:
        UserError: a missing or empty file, files of different lengths, or ``n_references`` under 1.
    """
    if n_references < 1:
        raise UserError(f"the number of references must be at least 1, got {n_references}")
    hypothesis_path = Path(hypothesis_path)
    hypotheses = _read(hypothesis_path)
    paths = _reference_paths(reference_prefix, n_references)
    columns = [_read(path) for path in paths]
    for path, column in zip(paths, columns):
        if len(column) != len(hypotheses):
            raise UserError(
                f"{path} has {len(column)} lines, but {hypothesis_path} has {len(hypotheses)}; line n of every file "
                "must belong to item n"
            )
    files = {"hypotheses": hypothesis_path, **{f"reference{n}": path for n, path in enumerate(paths)}}
    references = [list(texts) for texts in zip(*columns)]
    return Texts(hypotheses, references, files, all(map(_ends_with_newline, files.values())))


def read_groups(path: str | Path, *, n_items: int) -> list[str]:
    """One label per item: the lines of a text file, or ``seen`` and ``unseen`` from a ``*_formatted.jsonl``.

    In the latter, items are the distinct contexts in order of first appearance, as ``gpt2_decode.py`` writes them
    with ``--filter all``; ``cate`` true is seen.

    Raises:
        UserError: a missing file, another number of items, a blank label, or rows without ``context`` and ``cate``.
    """
    if Path(path).suffix == ".jsonl":
        labels = _seen_and_unseen(path)
    else:
        labels = _read(Path(path))
    if len(labels) != n_items:
        raise UserError(f"{path} has labels for {len(labels)} items, but there are {n_items} hypotheses")
    for number, label in enumerate(labels, start=1):
        if not label.strip():
            raise UserError(f"{path} line {number} is blank; expected the group of item {number}")
    labels = [label.strip() for label in labels]
    if "all" in labels:
        raise UserError(f"{path} line {labels.index('all') + 1}: 'all' names the whole set and cannot be a group")
    return labels


def _seen_and_unseen(path: str | Path) -> list[str]:
    labels: dict[str, str] = {}
    for number, row in read_jsonl(path, keys=("context", "cate")):
        if not isinstance(row["context"], str):
            raise UserError(f"{path} line {number}: expected a text as 'context', got {row['context']!r:.40}")
        label = SEEN if row["cate"] else UNSEEN
        if labels.setdefault(row["context"], label) != label:
            raise UserError(
                f"{path} line {number}: this context was {labels[row['context']]} before and is {label} now"
            )
    return list(labels.values())


def _reference_paths(prefix: str | Path, n_references: int) -> list[Path]:
    if n_references == 1 and not Path(f"{prefix}0").exists() and Path(prefix).is_file():
        return [Path(prefix)]
    paths: list[Path] = []
    for number in range(n_references):
        paths.append(path := Path(f"{prefix}{number}"))
        if not path.is_file():
            found = f"{number} of {n_references} files are there" if number else "it is the beginning of file names"
            raise UserError(
                f"{path} does not exist: references are read from {prefix}0 to {prefix}{n_references - 1} ({found}); "
                "correct -R or -nr"
            )
    if (left_out := Path(f"{prefix}{n_references}")).is_file():
        warn(f"{left_out} exists, but -nr {n_references} leaves it out")
    return paths


def _read(path: Path) -> list[str]:
    lines = [line.rstrip("\r") for _, line in read_lines(path)]
    if not any(line.strip() for line in lines):
        raise UserError(f"{path} is empty; expected one text per line")
    return [lines[0].lstrip("\ufeff"), *lines[1:]]


def _ends_with_newline(path: Path) -> bool:
    with open_binary(path) as stream:
        stream.seek(-1, 2)
        return stream.read() == b"\n"
