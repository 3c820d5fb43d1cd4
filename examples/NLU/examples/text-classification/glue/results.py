"""Evaluates and predicts split by split, and writes one file for each; MNLI's two halves never share one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.common.files import atomic_write, write_json
from glue.features import Features
from glue.metrics import overall_accuracy, predicted
from glue.trainer import GlueTrainer

# the score of a task that tables print
MAIN_SCORE = {"cola": "matthews_correlation", "stsb": "pearson"}


def evaluate(trainer: GlueTrainer, splits: Mapping[str, Features]) -> dict[str, float]:
    """Scores of all validation splits; also ``eval_results.json``, for MNLI's mismatched half ``eval_mm_results.json``.

    Keys begin with ``eval_``, mismatched ``eval_mm_``; ``eval_overall_accuracy`` is MNLI's over both halves.
    """
    scores: dict[str, float] = {}
    for split, features in splits.items():
        name = "eval_mm" if split.endswith("_mismatched") else "eval"
        found = trainer.evaluate(features, metric_key_prefix=name)
        found[f"{name}_samples"] = len(features)
        trainer.log_metrics(name, found)
        save_scores(trainer, name, found)
        scores |= found
    if "eval_accuracy" in scores and "eval_mm_accuracy" in scores:
        counts = int(scores["eval_samples"]), int(scores["eval_mm_samples"])
        scores["eval_overall_accuracy"] = overall_accuracy(scores, counts)
        save_scores(trainer, None, {"eval_overall_accuracy": scores["eval_overall_accuracy"]})
    return scores


def save_scores(trainer: GlueTrainer, split: str | None, scores: Mapping[str, float]) -> None:
    """Writes ``<split>_results.json`` and adds the scores to ``all_results.json``, from the first process."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(str(trainer.args.output_dir))
    if split:
        write_json(folder / f"{split}_results.json", dict(sorted(scores.items())))
    everything = folder / "all_results.json"
    known = json.loads(everything.read_text(encoding="utf-8")) if everything.is_file() else {}
    write_json(everything, dict(sorted({**known, **scores}.items())))


def predict(
    trainer: GlueTrainer, splits: Mapping[str, Features], task: str | None, labels: Sequence[str]
) -> list[Path]:
    """Writes ``test_results_<task>.txt`` (MNLI mismatched: ``mnli-mm``): index, then label name or number.

    Returns:
        The files, empty in all processes but the first.
    """
    written = []
    for split, features in splits.items():
        output = trainer.predict(features, metric_key_prefix="predict")
        values = predicted(output.predictions, not labels)
        name = "_".join(["test_results", *([task] if task else [])]) + ("-mm" if split.endswith("_mismatched") else "")
        path = Path(str(trainer.args.output_dir)) / f"{name}.txt"
        if trainer.is_world_process_zero():
            with atomic_write(path) as stream:
                stream.write("index\tprediction\n")
                for index, value in enumerate(values):
                    stream.write(f"{index}\t{labels[int(value)] if labels else format(float(value), '.3f')}\n")
            written.append(path)
    return written


def best_evaluation(
    history: Sequence[Mapping[str, Any]], task: str | None, is_regression: bool
) -> dict[str, Any] | None:
    """The evaluation during training with the best main score: step, epoch and all its scores; None without any.

    Reported beside the last one: published GLUE figures are of each run's best epoch. The scores of a step may be
    spread over several entries. MNLI's best epoch is that of both halves together, where both were evaluated.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        if any(key.startswith("eval_") for key in entry):
            by_step.setdefault(int(entry["step"]), {}).update(entry)
    name = "eval_" + main_score(task, is_regression)
    overall = "eval_overall_accuracy"
    name = overall if any(overall in entry for entry in by_step.values()) else name
    sign = -1.0 if name == "eval_mse" else 1.0
    found = [entry for entry in by_step.values() if entry.get(name) == entry.get(name) and name in entry]  # nan is none
    if not found:
        return None
    return dict(max(found, key=lambda entry: (sign * float(entry[name]), -int(entry["step"]))))


def main_score(task: str | None, is_regression: bool) -> str:
    """Name of the score that tables print for a task."""
    return MAIN_SCORE.get(task or "", "mse" if is_regression else "accuracy")
