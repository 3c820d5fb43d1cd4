"""Scores of texts against references: chrF by sacrebleu, ROUGE-L by pycocoevalcap; each with its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clm.sources import Row, read_rows
from examples.common.errors import UserError
from examples.common.files import read_lines

GENERATED = ("generated", "response", "completion", "output", "text")
REFERENCE = ("reference", "response", "completion", "output", "text")
ROUGE_SETTINGS = "ROUGE-L|beta:1.2|case:lower|tok:words and single marks|refs:best of each|mean of texts"


@dataclass(frozen=True)
class Score:
    """A figure in percent with the settings it depends on."""

    name: str
    value: float
    settings: str


def read_texts(path: str | Path, names: Sequence[str]) -> list[str]:
    """Texts of a file: the first of the fields ``names`` of each row, or each line of a ``.txt``.

    Raises:
        UserError: an unreadable file, or a row without these fields.
    """
    if Path(path).suffix.lower() == ".txt":
        found = [line.rstrip("\r") for _, line in read_lines(path)]
        if not found:
            raise UserError(f"{path} is empty")
        return found
    return [_field(row, names) for row in read_rows(path)]


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """chrF (Popović 2015) of the corpus, character order 6, beta 2, case kept."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return Score("chrF", score.score, str(metric.get_signature()))


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """ROUGE-L (Lin 2004): F with beta 1.2 of the longest common subsequence of words, mean over the texts."""
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = ({n: [_words(text)] for n, text in enumerate(texts)} for texts in (references, hypotheses))
    return Score("ROUGE-L", 100 * float(Rouge().compute_score(gts, res)[0]), ROUGE_SETTINGS)


def same_length(a: Sequence[Any], b: Sequence[Any], names: Mapping[str, str]) -> None:
    """Raises a ``UserError`` where two files do not have as many rows; ``names``: flag to path."""
    if len(a) != len(b):
        (flag, path), (other, reference) = names.items()
        raise UserError(f"{flag} {path} has {len(a)} rows, but {other} {reference} has {len(b)}")


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))


def _field(row: Row, names: Sequence[str]) -> str:
    name = next((name for name in names if name in row.fields), None)
    if name is None or not isinstance(row.fields[name], str):
        raise UserError(f"{row.where}: expected a text in {' or '.join(names)}; found {', '.join(row.fields)}")
    return str(row.fields[name])
