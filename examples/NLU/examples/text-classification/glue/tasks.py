"""The nine GLUE tasks: sentence columns, label names in GLUE's order, official files."""

from __future__ import annotations

from dataclasses import dataclass

from examples.common.errors import UserError


@dataclass(frozen=True)
class Task:
    """One task. ``labels`` in the order of GLUE's label ids; empty for regression.

    Attributes:
        folder: name in the official download.
        sentences: columns of the data set on the hub and of CSV or JSON files.
        tsv_sentences: header names in the official TSV files, where they differ.
        tsv_label: header name of the label in train and dev files.
        tsv_values: how the TSV writes the labels; the label names themselves where empty.
    """

    name: str
    folder: str
    sentences: tuple[str, ...]
    labels: tuple[str, ...]
    tsv_label: str = "label"
    tsv_sentences: tuple[str, ...] = ()
    tsv_values: tuple[str, ...] = ()

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def num_labels(self) -> int:
        return len(self.labels) or 1

    @property
    def tsv_columns(self) -> tuple[str, ...]:
        return self.tsv_sentences or self.sentences

    @property
    def validation_splits(self) -> tuple[str, ...]:
        return ("validation_matched", "validation_mismatched") if self.name == "mnli" else ("validation",)

    @property
    def test_splits(self) -> tuple[str, ...]:
        return ("test_matched", "test_mismatched") if self.name == "mnli" else ("test",)


_BINARY = ("0", "1")

TASKS = {
    task.name: task
    for task in (
        Task("cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), tsv_values=_BINARY),
        Task(
            "mnli",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            tsv_label="gold_label",
            tsv_sentences=("sentence1", "sentence2"),
        ),
        Task(
            "mrpc",
            "MRPC",
            ("sentence1", "sentence2"),
            ("not_equivalent", "equivalent"),
            tsv_label="Quality",
            tsv_sentences=("#1 String", "#2 String"),
            tsv_values=_BINARY,
        ),
        Task("qnli", "QNLI", ("question", "sentence"), ("entailment", "not_entailment")),
        Task(
            "qqp",
            "QQP",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            tsv_label="is_duplicate",
            tsv_values=_BINARY,
        ),
        Task("rte", "RTE", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
        Task("sst2", "SST-2", ("sentence",), ("negative", "positive"), tsv_values=_BINARY),
        Task("stsb", "STS-B", ("sentence1", "sentence2"), (), tsv_label="score"),
        Task("wnli", "WNLI", ("sentence1", "sentence2"), ("not_entailment", "entailment"), tsv_values=_BINARY),
    )
}


def find_task(name: str) -> Task:
    """The task of that name, in either case; ``UserError`` lists the ones that exist."""
    task = TASKS.get(name.lower())
    if task is None:
        raise UserError(f"--task_name {name}: unknown task; choose from {', '.join(sorted(TASKS))}")
    return task
