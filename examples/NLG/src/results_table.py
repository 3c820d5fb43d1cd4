"""Sums up runs of one data set over seeds: mean, standard deviation and 95 % interval beside the paper's row.

Reads ``RUN/metrics.json`` of ``gpt2_ft.py`` and ``RUN/<checkpoint>/scores.json`` of the scorers; the published figures
come from ``published.json`` of the NLG example. Prints the table, and writes it as Markdown and, with all digits, as
JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from text.converting import checked, field, read_json

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, write_json
from examples.common.statistics import CONFIDENCE, Summary, summarise

PUBLISHED = Path(__file__).resolve().parents[1] / "published.json"
DATASETS = ("e2e", "webnlg", "dart")
SIZES = {"sm": "GPT-2 Small", "md": "GPT-2 Medium", "lg": "GPT-2 Large"}
CHECKPOINTS = {"last": "end of training", "best": "epoch with the lowest validation loss"}
ABSENT = "-"


@dataclass(frozen=True)
class Run:
    """One seed: its training metrics and the path of its scores by checkpoint."""

    folder: Path
    metrics: dict[str, Any]
    scores: dict[str, dict[str, Any]]

    @property
    def seed(self) -> int:
        return int(self.metrics["seed"])


def read_run(folder: Path, checkpoints: Sequence[str]) -> Run:
    """A run folder as the stories write it.

    Raises:
        UserError: a file is missing or not of this kind, or training did not end.
    """
    path = folder / "metrics.json"
    metrics = checked(read_json(path), dict, str(path))
    for key in ("seed", "trainable_parameters", "steps"):
        if not isinstance(metrics.get(key), int):
            raise UserError(f"{path}: expected a whole number as {key!r}; it is no result of gpt2_ft.py")
    if not metrics.get("finished", False):
        raise UserError(f"{path}: training stopped early at step {metrics['steps']}; go on with --resume")
    scores = {name: read_json(folder / name / "scores.json") for name in checkpoints}
    return Run(folder, metrics, scores)


def figure(scores: Any, metric: dict[str, Any], path: str) -> float | None:
    """One figure of a ``scores.json`` in the unit of the paper's table; None for a group without items."""
    group = metric.get("group", "all")
    if group != "all":
        groups = field(scores, "groups", dict, path)
        if not groups:
            raise UserError(f"{path}: no groups; score again with --groups and the *_formatted.jsonl of the test")
        if group not in groups:
            return None
        scores = groups[group]
    value = field(scores, "scores", dict, path).get(metric["score"])
    if not isinstance(value, int | float):
        raise UserError(f"{path}: {metric['score']} is missing in the scores of {group}; score again")
    return float(value) * metric.get("times", 1)


def read_published(dataset: str, path: Path = PUBLISHED) -> dict[str, Any]:
    """The paper's table of a data set: ``metrics``, ``rows``, ``source``."""
    return field(read_json(path), dataset, dict, str(path))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders, one per seed")
    parser.add_argument("--size", choices=SIZES, default="md", help="published row to compare with (default: md)")
    parser.add_argument("--recipe", required=True, help="name of the settings, for the heading")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, nargs="+", default=["last"], help="(default: last)")
    parser.add_argument("--output", type=Path, required=True, help="without ending: .md and .json are added")
    parser.add_argument("--toy", action="store_true", help="says that data and base are toys, not comparable")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    published = read_published(args.dataset)
    runs = sorted((read_run(folder, args.checkpoint) for folder in args.runs), key=lambda run: run.seed)
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise UserError(f"{one.folder} and {other.folder} have the same seed {one.seed}: they count once")
    summaries = {name: summaries_of(runs, name, published["metrics"]) for name in args.checkpoint}
    text = markdown(args, published, runs, summaries)
    with atomic_write(args.output.with_name(args.output.name + ".md")) as stream:
        stream.write(text)
    write_json(args.output.with_name(args.output.name + ".json"), as_json(args, published, runs, summaries))
    print(text, end="")


def summaries_of(runs: Sequence[Run], checkpoint: str, metrics: Sequence[dict[str, Any]]) -> dict[str, Summary]:
    """By metric name, values in the order of the runs; without metrics of a group that has no items."""
    found = {}
    for metric in metrics:
        paths = [str(run.folder / checkpoint / "scores.json") for run in runs]
        values = [figure(run.scores[checkpoint], metric, path) for run, path in zip(runs, paths)]
        kept = [value for value in values if value is not None]
        if kept and len(kept) < len(values):
            raise UserError(f"{paths[values.index(None)]}: no items are {metric['group']}, in other runs some are")
        if kept:
            found[metric["name"]] = summarise(kept)
    return found


def published_text(figures: dict[str, Any] | None, metric: dict[str, Any]) -> str:
    """A published figure with the digits and the ± of the paper."""
    if figures is None:
        return ABSENT
    found = figures[metric["name"]]
    text = f"{found['value']:.{metric['digits']}f}"
    return f"{text} ± {found['spread']:.{metric['digits']}f}" if "spread" in found else text


def lora_row(published: dict[str, Any], size: str) -> dict[str, Any] | None:
    return next((row for row in published["rows"] if (row["size"], row["method"]) == (size, "LoRA")), None)


def model_name(args: argparse.Namespace, runs: Sequence[Run]) -> str:
    """What was trained; another model card than that of the published row is named."""
    if args.toy:
        return "a toy base"
    cards = sorted({str(run.metrics.get("settings", {}).get("model_card")) for run in runs})
    return SIZES[args.size] if cards == [f"gpt2.{args.size}"] else f"model card {' and '.join(cards)}"


def markdown(
    args: argparse.Namespace, published: dict[str, Any], runs: Sequence[Run], summaries: dict[str, dict[str, Summary]]
) -> str:
    """The page: our table beside the paper's LoRA row, one for each checkpoint, then the paper's other rows."""
    row = lora_row(published, args.size)
    seeds = ", ".join(str(run.seed) for run in runs)
    counted = " or ".join(f"{count:,}" for count in sorted({run.metrics["trainable_parameters"] for run in runs}))
    lines = [f"# {args.dataset}, {model_name(args, runs)} with LoRA, recipe {args.recipe}", ""]
    if args.toy:
        lines += ["Generated data and a toy base: our figures show that the steps work; they compare with nothing.", ""]
    parameters = f"{row['parameters']} parameters" if row else "no row of this size"
    lines += [
        f"Published: {published['source']}, {published['settings']}; {parameters}.",
        "",
        f"Ours: seeds {seeds}; {counted} trainable parameters, counted. sd: standard deviation over seeds (n - 1); "
        "95 % interval of the mean: Student t, n - 1 degrees of freedom.",
        "",
    ]
    for checkpoint, found in summaries.items():
        head = ["metric", "published", "our mean", "sd", "95 % interval", "n", *(f"seed {run.seed}" for run in runs)]
        lines += [f"## Checkpoint: {checkpoint} ({CHECKPOINTS[checkpoint]})", ""]
        rows = [
            summary_row(metric, published_text(row and row["figures"], metric), found.get(metric["name"]), len(runs))
            for metric in published["metrics"]
        ]
        lines += [*table(head, rows), ""]
    lines += [f"## Published, {SIZES[args.size]}", ""]
    names = [metric["name"] for metric in published["metrics"]]
    others = [
        [r["method"], r["parameters"], *(published_text(r["figures"], metric) for metric in published["metrics"])]
        for r in published["rows"]
        if r["size"] == args.size
    ]
    lines += table(["method", "parameters", *names], others) if others else ["The paper has no row of this size."]
    for rerun in published.get("reruns", []):
        if rerun["size"] == args.size:
            values = ", ".join(map(str, rerun["values"]))
            lines += ["", f"Independent runs, {rerun['metric']}: {values} ({rerun['source']})."]
    return "\n".join(lines) + "\n"


def summary_row(metric: dict[str, Any], published: str, summary: Summary | None, n_runs: int) -> list[str]:
    if summary is None:
        return [metric["name"], published, ABSENT, ABSENT, ABSENT, "0", *[ABSENT] * n_runs]
    digits = metric["digits"] + 1  # one more than the paper prints, so that the interval is not lost in rounding
    interval = ABSENT
    if summary.half_width is not None:
        low, high = summary.mean - summary.half_width, summary.mean + summary.half_width
        interval = f"{low:.{digits}f} to {high:.{digits}f} (± {summary.half_width:.{digits}f})"
    sd = ABSENT if summary.sd is None else f"{summary.sd:.{digits}f}"
    values = [f"{value:.{digits}f}" for value in summary.values]
    return [metric["name"], published, f"{summary.mean:.{digits}f}", sd, interval, str(summary.n), *values]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def as_json(
    args: argparse.Namespace, published: dict[str, Any], runs: Sequence[Run], summaries: dict[str, dict[str, Summary]]
) -> dict[str, Any]:
    """All digits, and what the runs were."""
    row = lora_row(published, args.size)
    return {
        "dataset": args.dataset,
        "size": args.size,
        "recipe": args.recipe,
        "toy": args.toy,
        "confidence": CONFIDENCE,
        "published": {"source": published["source"], "settings": published["settings"], "row": row},
        "runs": [{"folder": str(run.folder), "metrics": run.metrics} for run in runs],
        "checkpoints": {
            checkpoint: {name: {**asdict(summary), "n": summary.n} for name, summary in found.items()}
            for checkpoint, found in summaries.items()
        },
    }


if __name__ == "__main__":
    run_main(main)
