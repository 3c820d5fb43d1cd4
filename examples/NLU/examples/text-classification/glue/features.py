"""Turns examples into token ids and label ids, and batches into tensors that are no longer than their longest row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from glue.cli import UserError, warn
from glue.sources import Examples, Rows

Feature = dict[str, Any]


class Features(Dataset[Feature]):
    """Tokenised rows in memory. Items have the tokenizer's keys, and ``label`` where the row has one."""

    def __init__(self, items: list[Feature]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Feature:
        return self.items[index]


def label_order(examples: Examples, label2id: dict[str, int] | None) -> tuple[str, ...]:
    """Label names by id: the order of a model that was trained with exactly these labels, else the data set's.

    A model's own names count regardless of case (``ENTAILMENT``); ``LABEL_0`` and so on are no names.
    """
    known = {name.lower(): index for name, index in (label2id or {}).items()}
    if not examples.labels or set(known) != {name.lower() for name in examples.labels}:
        return examples.labels
    return tuple(sorted(examples.labels, key=lambda name: known[name.lower()]))


def length_limit(max_seq_length: int, tokenizer: PreTrainedTokenizerBase, positions: int) -> int:
    """Most tokens of an example that tokenizer and position embeddings allow, at most ``max_seq_length``."""
    limit = min(max_seq_length, tokenizer.model_max_length, positions)
    if limit < max_seq_length:
        warn(f"--max_seq_length {max_seq_length} is more than this model has room for; using {limit}")
    return limit


def tokenize(
    examples: Examples, split: str, tokenizer: PreTrainedTokenizerBase, *, max_length: int, labels: Sequence[str]
) -> Features:
    """Features of one split, truncated to ``max_length`` tokens, not padded.

    Args:
        labels: label names by id; empty for regression.

    Raises:
        UserError: a label that is none of ``labels``, or no number for regression; names split and example.
    """
    rows = examples.splits[split]
    texts = [[str(row[name]) for row in rows] for name in examples.sentences]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    ids = {name: index for index, name in enumerate(labels)}
    items = [{key: encoded[key][i] for key in encoded} for i in range(len(rows))]
    where = examples.files.get(split, split)
    for number, (item, row) in enumerate(zip(items, rows), start=1):
        if "label" in row:
            item["label"] = _label_id(row["label"], ids, examples, f"{where} example {number}")
    return Features(items)


def _label_id(value: object, ids: dict[str, int], examples: Examples, where: str) -> int | float:
    if examples.is_regression:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{where}: label {value!r} is not a number")
        return number
    if isinstance(value, int) and 0 <= value < len(ids) and str(value) not in ids:
        value = examples.labels[value]
    if str(value) not in ids:
        raise UserError(f"{where}: unknown label {value!r}, expected one of {', '.join(ids)}")
    return ids[str(value)]


def first_rows(rows: Rows, limit: int | None) -> Rows:
    """At most ``limit`` rows from the start."""
    return rows if limit is None else rows[:limit]


def padding_collator(
    tokenizer: PreTrainedTokenizerBase, pad_to: int | None, half_precision: bool
) -> DataCollatorWithPadding:
    """Pads to the longest row of a batch, or to ``pad_to`` tokens always; both give the same logits (masked)."""
    if pad_to is not None:
        return DataCollatorWithPadding(tokenizer, padding="max_length", max_length=pad_to)
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if half_precision else None)
