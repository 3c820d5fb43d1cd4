"""Turns examples into token ids and label ids, and batches into tensors that are no longer than their longest row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from examples.common.errors import UserError, warn
from glue.sources import Examples, Rows

Features: TypeAlias = datasets.Dataset  # items have the tokenizer's keys, and ``label`` where the rows have one


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
    examples: Examples,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    labels: Sequence[str],
    cache_dir: str | None = None,
) -> Features:
    """Features of one split, truncated to ``max_length`` tokens, not padded; kept on disk and memory-mapped.

    A run or process with the same examples, tokenizer and settings reads the file that the first one left.

    Args:
        labels: label names by id; empty for regression.
        cache_dir: where the file is; default: in the cache of the package ``datasets``.

    Raises:
        UserError: a label that is none of ``labels``, or no number for regression; names split and example.
    """
    rows = examples.splits[split]
    facts = [rows, examples.sentences, examples.labels, labels, max_length, _tokenizer_facts(tokenizer)]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    path = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "glue_tokens" / f"{digest}.arrow"
    if path.is_file():
        return datasets.Dataset.from_file(str(path))
    columns: dict[str, list[Any]] = {name: [str(row[name]) for row in rows] for name in examples.sentences}
    ids = {name: index for index, name in enumerate(labels)}
    where = examples.files.get(split, split)
    if all("label" in row for row in rows):
        columns["label"] = [
            _label_id(row["label"], ids, examples, f"{where} example {number}")
            for number, row in enumerate(rows, start=1)
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    return datasets.Dataset.from_dict(columns).map(
        lambda batch: tokenizer(*(batch[name] for name in examples.sentences), truncation=True, max_length=max_length),
        batched=True,
        remove_columns=list(examples.sentences),
        cache_file_name=str(path),
        new_fingerprint=digest,
        desc=f"token ids of {split}",
    )


def _tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What token ids depend on, whatever the tokenizer has been used for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    facts = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    used = {name: value for name, value in facts.items() if name not in ("truncation", "padding")}
    return [type(tokenizer).__name__, used, str(tokenizer.special_tokens_map), tokenizer.model_input_names]


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
