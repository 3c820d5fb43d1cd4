"""Sums up GLUE runs over seeds: median and intervals of the last and of the best epoch beside the paper's figures.

Reads ``RUNS/<script>/<recipe>/seed<k>/model/metrics.json`` of ``run_glue.py`` and the published figures of
``hparams.tsv``; prints the table, and writes it as Markdown and as JSON with all digits.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, make_folder, read_json, write_json
from examples.common.statistics import CONFIDENCE, Summary, median_coverage, summarise

TABLE = Path(__file__).resolve().parents[1] / "hparams.tsv"
ABSENT = "-"
COUNTED = ("trained_in_base", "trained_in_head")
SOURCE = "Hu et al. 2021, Table 2: median over 5 seeds of each run's best epoch, with a ± that it does not define"
# Table 2's LoRA rows, without the head
QUOTED_PARAMETERS = {"roberta_base": "0.3M", "roberta_large": "0.8M", "deberta_v2_xxlarge": "4.7M"}
EPOCHS = {"last": "Last epoch", "best": "Best epoch of each run"}

HparamsRow = Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """One row of a task: its name, the metric in words, the key in ``metrics.json``, whether the paper prints it."""

    name: str
    metric: str
    key: str
    is_published: bool = True


MNLI = (
    Score("MNLI", "accuracy, both halves", "eval_overall_accuracy"),
    Score("MNLI matched", "accuracy", "eval_accuracy", False),
    Score("MNLI mismatched", "accuracy", "eval_mm_accuracy", False),
)
SCORES = {
    "mnli": MNLI,
    "sst2": (Score("SST-2", "accuracy", "eval_accuracy"),),
    "mrpc": (Score("MRPC", "accuracy", "eval_accuracy"), Score("MRPC F1", "F1", "eval_f1", False)),
    "cola": (Score("CoLA", "Matthews correlation", "eval_matthews_correlation"),),
    "qnli": (Score("QNLI", "accuracy", "eval_accuracy"),),
    "qqp": (Score("QQP", "accuracy", "eval_accuracy"), Score("QQP F1", "F1", "eval_f1", False)),
    "rte": (Score("RTE", "accuracy", "eval_accuracy"),),
    "stsb": (Score("STS-B", "Pearson", "eval_pearson"), Score("STS-B Spearman", "Spearman", "eval_spearmanr", False)),
}


@dataclass(frozen=True)
class TaskRuns:
    """All runs of one row of ``hparams.tsv``: ``metrics.json`` by seed."""

    row: HparamsRow
    metrics: dict[int, dict[str, Any]]

    def summaries(self, epoch: str) -> Iterator[tuple[Score, Summary | None]]:
        """Each score of the task over the seeds; None where no run has it. ``epoch``: last or best."""
        for score in SCORES[self.row["task_name"]]:
            values = [value_of(metrics, score.key, epoch) for metrics in self.metrics.values()]
            found = [value for value in values if value is not None]
            if found and len(found) < len(values):
                raise UserError(
                    f"{self.row['script']}: some runs have {score.key} of the {epoch} epoch, others have not"
                )
            yield score, summarise(found) if found else None

    def parameters(self) -> str:
        """Counted numbers that are trained, in the base model and in the head."""
        found = {tuple(metrics["parameters"][kind] for kind in COUNTED) for metrics in self.metrics.values()}
        return " or ".join(f"{base:,} + {head:,}" for base, head in sorted(found))


def value_of(metrics: Mapping[str, Any], key: str, epoch: str) -> float | None:
    """A score times 100; None where it is absent or no number. A run without evaluations has no best epoch."""
    value = (metrics["scores"] if epoch == "last" else metrics["best"] or {}).get(key)
    return None if value is None else 100 * float(value)


def read_runs(row: HparamsRow, runs: Path, seeds: Sequence[int]) -> TaskRuns:
    """The runs of a row of ``hparams.tsv``; a ``UserError`` where one is absent, incomplete or of another seed."""
    metrics = {}
    for seed in seeds:
        path = runs / row["script"] / row["recipe"] / f"seed{seed}" / "model" / "metrics.json"
        if not path.exists():
            raise UserError(f"{path} does not exist: that run is not complete")
        found = read_json(path)
        if not _is_result(found):
            raise UserError(f"{path}: expected best, parameters, scores and seed; it is no result of run_glue.py")
        if found["seed"] != seed:
            raise UserError(f"{path}: a run with seed {found['seed']} lies in the folder of seed {seed}")
        metrics[seed] = found
    return TaskRuns(row, metrics)


def _is_result(found: Any) -> bool:
    """Whether JSON has what the table reads of a ``metrics.json``."""
    if not isinstance(found, dict) or not {"scores", "best", "seed", "parameters"} <= {*found}:
        return False
    counts = found["parameters"]
    return (
        all(isinstance(part, dict) for part in (found["scores"], found["best"] or {}, counts))
        and all(isinstance(counts.get(kind), int) for kind in COUNTED)
        and all(
            isinstance(value, int | float | None)
            for part in (found["scores"], found["best"] or {})
            for value in part.values()
        )
    )


def read_hparams(path: Path = TABLE) -> dict[tuple[str, str], HparamsRow]:
    """Rows of ``hparams.tsv`` by (script, recipe)."""
    with path.open(encoding="utf-8", newline="") as stream:
        return {(row["script"], row["recipe"]): row for row in csv.DictReader(stream, delimiter="\t")}


def published(row: HparamsRow, score: Score) -> str:
    """The paper's figure with its ±, for the score that it prints."""
    if not score.is_published or row["published"] == ABSENT:
        return ABSENT
    return f"{row['published']} ± {row['published_plus_minus']}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, numbers to the right."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---", "---", *["---:"] * (len(head) - 2)], *rows)]


def epoch_rows(tasks: Sequence[TaskRuns], epoch: str) -> list[list[str]]:
    """Rows of the table of the last or of the best epochs."""
    rows = []
    for task in tasks:
        for score, summary in task.summaries(epoch):
            compared = published(task.row, score) if epoch == "best" else ABSENT
            head = [score.name, score.metric, compared]
            if summary is None:
                rows.append([*head, *[ABSENT] * 4, "0", *[ABSENT] * len(task.metrics)])
                continue
            sd = ABSENT if summary.sd is None else f"{summary.sd:.2f}"
            mean = ABSENT if summary.half_width is None else f"{summary.mean:.2f} ± {summary.half_width:.2f}"
            middle = [f"{summary.median:.2f}", f"{summary.low:.2f} to {summary.high:.2f}", sd, mean, str(summary.n)]
            rows.append([*head, *middle, *(f"{value:.2f}" for value in summary.values)])
    return rows


def markdown(tasks: Sequence[TaskRuns], title: str, notes: Sequence[str]) -> str:
    """The page: best epochs beside the paper's figures, last epochs, counted parameters."""
    seeds = list(tasks[0].metrics)
    coverage = f"{100 * median_coverage(len(seeds)):.4g} %"
    lines = [f"# {title}", "", *(line for note in notes for line in (note, ""))]
    lines += [
        f"Published: {SOURCE}. Ours: seeds {', '.join(map(str, seeds))}, in percent, on the validation files given. "
        f"Interval: smallest to largest run; it holds the median of such runs with probability {coverage}, whatever "
        "their distribution. sd: standard deviation over seeds (n - 1); mean ± its 95 % interval by Student's t, n - 1 "
        "degrees of freedom. MNLI's best epoch is that of both halves together.",
        "",
    ]
    head = ["task", "metric", "published", "our median", "interval", "sd", "mean ± 95 %", "n"]
    for epoch in ("best", "last"):
        lines += [f"## {EPOCHS[epoch]}", ""]
        lines += [*table([*head, *(f"seed {seed}" for seed in seeds)], epoch_rows(tasks, epoch)), ""]
    lines += ["## Trained parameters", ""]
    rows = []
    for task in tasks:
        row = task.row
        family = row["script"].removesuffix(f"_{row['task_name']}")
        quoted = QUOTED_PARAMETERS.get(family, ABSENT)
        batches = sorted({str(metrics.get("total_train_batch_size", ABSENT)) for metrics in task.metrics.values()})
        rows.append([row["script"], row["recipe"], quoted, task.parameters(), " or ".join(batches)])
    head = ["script", "recipe", "published, without head", "counted: in the base + in the head", "batch"]
    return "\n".join([*lines, *table(head, rows)]) + "\n"


def as_json(tasks: Sequence[TaskRuns], title: str, notes: Sequence[str]) -> dict[str, Any]:
    """All digits, and what the runs were."""
    return {
        "title": title,
        "notes": list(notes),
        "source": SOURCE,
        "confidence": CONFIDENCE,
        "tasks": {
            task.row["script"]: {
                "recipe": task.row["recipe"],
                "published": {name: task.row[name] for name in ("published", "published_plus_minus")},
                "seeds": list(task.metrics),
                "parameters": next(iter(task.metrics.values()))["parameters"],
                **{
                    epoch: {
                        score.name: {**asdict(summary), "n": summary.n}
                        for score, summary in task.summaries(epoch)
                        if summary is not None
                    }
                    for epoch in EPOCHS
                },
            }
            for task in tasks
        },
    }


def write(output: Path, tasks: Sequence[TaskRuns], title: str, notes: Sequence[str]) -> str:
    """Writes ``output`` with ``.md`` and ``.json`` added. Returns the Markdown."""
    text = markdown(tasks, title, notes)
    make_folder(output.parent)
    with atomic_write(output.with_name(output.name + ".md")) as stream:
        stream.write(text)
    write_json(output.with_name(output.name + ".json"), as_json(tasks, title, notes))
    return text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scripts", nargs="+", metavar="SCRIPT", help="rows of hparams.tsv, as roberta_base_cola")
    parser.add_argument("--recipe", default="scripts", help="scripts or paper (default: scripts)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="(default: 0 1 2 3 4)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of results (default: runs)")
    parser.add_argument("--title", default="GLUE", help="heading")
    parser.add_argument("--note", action="append", default=[], help="a paragraph below it; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="without ending: .md and .json are added")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError(f"--seeds {' '.join(map(str, args.seeds))}: each seed counts once")
    hparams = read_hparams()
    for script in args.scripts:
        if (script, args.recipe) not in hparams:
            raise UserError(f"hparams.tsv has no row {script} with recipe {args.recipe}")
    tasks = [read_runs(hparams[script, args.recipe], args.runs, args.seeds) for script in args.scripts]
    print(write(args.output, tasks, args.title, args.note), end="")


if __name__ == "__main__":
    run_main(main)
