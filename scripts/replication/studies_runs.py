"""The block "studies": the tasks of the three later studies with SmolLM2, one seed, rows and lengths cut.

scripts/studies/data.py makes their files, as for the studies' own scripts. Where test labels are not public, the
official development set is tested on. Rates are chosen on rows that are taken out of the training rows; what is tested
on is named to no command before the last ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trained import correct_items, training_of

from examples.common.files import make_folder, read_json, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from replicate import Place, Run

ROOT = Path(__file__).resolve().parents[2]
CLM, STUDIES = ROOT / "examples" / "CLM", ROOT / "scripts" / "studies"
RATE_STEPS = 60
BATCH = 8
MOST_TESTED = 1_000
HELD_OUT = 200


@dataclass(frozen=True)
class Task:
    """``raw``: folder of the raw files below the data; ``tested``: which part; ``writes``: flags of generate.py."""

    raw: str
    kind: str
    flags: tuple[str, ...] = ()
    tested: str = "test"
    max_length: int = 128
    writes: tuple[str, ...] = ()


CLASSES = ("--cls_bias", "true")
TASKS = {
    "sst": Task("cs224n", "cls", (*CLASSES, "--lowercase", "true"), "valid"),
    "cfimdb": Task("cs224n", "cls", (*CLASSES, "--lowercase", "true"), "valid"),
    "quora": Task("cs224n", "cloze", ("--template", "{text} "), "valid"),
    "sonnets": Task(
        "cs224n", "lm", max_length=256, writes=("--max_new_tokens", "128", "--temperature", "1.2", "--top_p", "0.9")
    ),
    "sms": Task("sms_spam", "cls", CLASSES),
    "imdb": Task("imdb", "cls", CLASSES),
    "alpaca": Task("alpaca", "sft", max_length=256, writes=("--max_new_tokens", "128")),
}


def data_files(place: Place, name: str) -> tuple[Path, Path, Path]:
    """Rows to train on, rows that were taken out of them, rows to test on."""
    task, folder = TASKS[name], make_folder(place.work / "studies" / "data") / name
    left, held_out = folder / "left.jsonl", folder / "held_out.jsonl"
    if not (left.exists() and held_out.exists()):
        program = (STUDIES / "data.py", place.data / task.raw, folder.parent, name, "--rows", MOST_TESTED)
        place.step(f"data_{name}", folder.parent, *program)
        rows = [row for _, row in read_jsonl(folder / "train.jsonl")]
        random.Random(0).shuffle(rows)
        count = min(HELD_OUT, len(rows) // 10)
        write_jsonl(held_out, rows[:count])
        write_jsonl(left, rows[count:])
    return left, held_out, folder / f"{task.tested}.jsonl"


def train(place: Place, run: Run, folder: Path, rate: str, steps: int, choosing: bool = False) -> dict[str, Any]:
    """Trains one run, or a short one that chooses among the rates; goes on where it was stopped."""
    name, *_ = run.run.split("-")
    task = TASKS[name]
    rows, held_out, _ = data_files(place, name)
    return place.step(
        "train",
        folder,
        CLM / "run_clm.py",
        *("--model_name_or_path", place.models / "smollm2", "--task", task.kind, *task.flags, *run.train),
        *("--train_file", rows, "--validation_file", held_out, "--max_seq_length", task.max_length),
        *("--do_train", "--do_eval", "--max_steps", steps, "--per_device_train_batch_size", BATCH, "--seed", run.seed),
        *("--learning_rate", rate, "--warmup_steps", 0.1, "--lr_scheduler_type", "linear"),
        *("--eval_strategy", "no" if choosing else "steps", "--eval_steps", 50, "--per_device_eval_batch_size", 16),
        *("--train_sampling_strategy", "group_by_length", "--disable_tqdm", "true"),
        *("--save_strategy", "steps", "--save_steps", 100, "--save_total_limit", 1, "--logging_steps", 10),
        *("--output_dir", folder / "trained"),
    )


def make(place: Place, run: Run, folder: Path, rate: str | None) -> dict[str, Any]:
    """Trains, then labels or continues what is tested on; what remains of it."""
    name, *_ = run.run.split("-")
    steps, trained = [], folder / "trained"
    if rate is not None:
        steps.append(train(place, run, folder, rate, run.steps))
    tested = data_files(place, name)[2]
    finish = write_texts if TASKS[name].writes else label
    found = finish(place, run, folder, tested, steps)
    facts = training_of(trained) if rate is not None else {}
    return {
        "block": run.block,
        "seed": run.seed,
        "rate": rate,
        "max_steps": run.steps,
        **facts,
        **found,
        "steps": steps,
    }


def label(place: Place, run: Run, folder: Path, tested: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Labels of a trained model, their figures and which are correct."""
    name, *_ = run.run.split("-")
    task, trained, out = TASKS[name], folder / "trained", folder / "tested"
    adapter = (trained / "adapter_config.json").exists()
    base = place.models / "smollm2" if adapter else trained
    steps.append(
        place.step(
            "score",
            folder,
            CLM / "run_clm.py",
            *("--model_name_or_path", base, *(("--lora_path", trained) if adapter else ("--method", "full"))),
            *("--task", task.kind, *task.flags, "--max_seq_length", task.max_length, "--do_eval", "--do_predict"),
            *("--validation_file", tested, "--test_file", tested, "--per_device_eval_batch_size", 16),
            *("--disable_tqdm", "true", "--output_dir", out),
        )
    )
    scores = read_json(out / "metrics.json")["scores"]
    labels = [str(row["label"]) for _, row in read_jsonl(tested)]
    return {
        "scores": {key: scores[f"eval_{key}"] for key in ("accuracy", "f1_macro", "loss")},
        "items": {"correct": correct_items(out / "test_results.txt", labels)},
    }


def write_texts(place: Place, run: Run, folder: Path, tested: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Texts of a trained model, or of the untrained one, and their figures."""
    from sacrebleu import sentence_chrf

    name, *_ = run.run.split("-")
    trained, written, scores = folder / "trained", folder / "generated.jsonl", folder / "scores.json"
    model = ("--model", place.models / "smollm2")
    if trained.exists():
        model = ("--adapter" if (trained / "adapter_config.json").exists() else "--model", trained)
    flags = (*TASKS[name].writes, "--batch_size", 16, "--seed", run.seed)
    steps.append(
        place.step("generate", folder, CLM / "generate.py", *model, "--input", tested, "--output", written, *flags)
    )
    if name == "sonnets":  # the lines that were given count too
        whole = folder / "whole.jsonl"
        steps.append(
            place.step("join", folder, STUDIES / "course_files.py", "sonnets", written, whole, folder / "sonnets.txt")
        )
        written = whole
    program = (CLM / "score.py", "texts", "--hypotheses", written, "--references", tested, "--json", scores)
    steps.append(place.step("score", folder, *program))
    rows = [row for _, row in read_jsonl(written)]
    truths = [str(row.get("reference", row.get("output"))) for row in rows]
    each = (sentence_chrf(row["generated"], [truth]).score for row, truth in zip(rows, truths))
    return {"scores": read_json(scores), "items": {"chrF": " ".join(f"{value:.4g}" for value in each)}}
