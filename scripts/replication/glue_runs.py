"""The block "glue": MiniLM on SST-2, CoLA, MRPC and RTE, from the official files to the scores on the development set.

The development set, which the paper's tables report, stands for a test set here: it is read only when a run's training
has ended. Rates are chosen, and curves drawn, on rows that are taken out of the training rows for all runs.
"""

from __future__ import annotations

import csv
import gzip
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trained import correct_items, training_of

from examples.common.errors import UserError
from examples.common.files import make_folder, read_json, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from replicate import Place, Run

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "NLU" / "examples" / "text-classification" / "run_glue.py"
RATE_STEPS = 250
HELD_OUT = 300  # first sentences whose rows no run trains on
BATCH = 32


@dataclass(frozen=True)
class Task:
    """Official files of a task.

    ``names``: labels that the files number; ``rows``: how many to train on; ``header``: of files that have none.
    """

    folder: str
    sentences: tuple[str, ...]
    names: tuple[str, ...] = ()
    label: str = "label"
    dev: str = "dev.tsv.gz"
    rows: int | None = None
    header: tuple[str, ...] | None = None


TASKS = {
    "sst2": Task("SST-2", ("sentence",), ("negative", "positive"), rows=8_000),
    "cola": Task(
        "CoLA",
        ("sentence",),
        ("unacceptable", "acceptable"),
        dev="dev_in_domain.tsv",
        header=("source", "label", "star", "sentence"),
    ),
    "mrpc": Task("MRPC", ("#1 String", "#2 String"), ("not_equivalent", "equivalent"), "Quality"),
    "rte": Task("RTE", ("sentence1", "sentence2")),
}


def read_rows(place: Place, task: Task, name: str) -> list[dict[str, str]]:
    """Rows of an official file: ``sentence``, or ``sentence1`` and ``sentence2``, and ``label``."""
    path = place.data / "glue" / task.folder / name
    if not path.exists():
        raise UserError(f"{path} is missing: the official GLUE files are expected there")
    names = ("sentence",) if len(task.sentences) == 1 else ("sentence1", "sentence2")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, task.header, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            {ours: row[theirs] for ours, theirs in zip(names, task.sentences)}
            | {"label": task.names[int(row[task.label])] if task.names else row[task.label]}
            for row in reader
        ]


def training_files(place: Place, name: str) -> tuple[Path, Path]:
    """Rows to train on, and the rows that were taken out of them: all of some first sentences."""
    task, folder = TASKS[name], make_folder(place.work / "glue" / "data")
    train, held_out = (folder / f"{name}.{part}.jsonl" for part in ("train", "held_out"))
    if not (train.exists() and held_out.exists()):
        rows = read_rows(place, task, "train.tsv.gz")
        first = next(iter(rows[0]))
        drawn = random.Random(0)
        distinct = sorted({row[first] for row in rows})
        taken = set(drawn.sample(distinct, min(HELD_OUT, len(distinct) // 4)))
        left = [row for row in rows if row[first] not in taken]
        write_jsonl(held_out, (row for row in rows if row[first] in taken))
        write_jsonl(train, drawn.sample(left, min(task.rows or len(left), len(left))))
    return train, held_out


def train(place: Place, run: Run, folder: Path, rate: str, steps: int, choosing: bool = False) -> dict[str, Any]:
    """Trains one run, or a short one that chooses among the rates; goes on where it was stopped."""
    name, *_ = run.run.split("-")
    rows, held_out = training_files(place, name)
    return place.step(
        "train",
        folder,
        PROGRAM,
        *("--model_name_or_path", place.models / "minilm", *run.train, "--seed", run.seed),
        *("--task_name", name, "--train_file", rows, "--validation_file", held_out, "--max_seq_length", 128),
        *("--do_train", "--do_eval", "--max_steps", steps, "--per_device_train_batch_size", BATCH),
        *("--learning_rate", rate, "--warmup_steps", 0.06, "--lr_scheduler_type", "linear", "--weight_decay", 0.1),
        *("--eval_strategy", "no" if choosing else "steps", "--eval_steps", 125, "--per_device_eval_batch_size", 64),
        *("--train_sampling_strategy", "group_by_length"),  # little padding
        *("--save_strategy", "steps", "--save_steps", 250, "--save_total_limit", 1, "--logging_steps", 25),
        *("--disable_tqdm", "true", "--output_dir", folder / "trained"),
    )


def make(place: Place, run: Run, folder: Path, rate: str | None) -> dict[str, Any]:
    """Trains, then scores and predicts the development set; what remains of it."""
    assert rate is not None, "every row of this block trains"
    steps = [train(place, run, folder, rate, run.steps)]
    name, *_ = run.run.split("-")
    trained, out = folder / "trained", folder / "tested"
    dev = place.work / "glue" / "data" / f"{name}.dev.jsonl"
    if not dev.exists():
        write_jsonl(dev, read_rows(place, TASKS[name], TASKS[name].dev))
    start = {"--apply_lora": "--lora_path", "--apply_adapter": "--adapter_path", "--apply_bitfit": "--adapter_path"}
    start["--train_head_only"] = "--adapter_path"
    weights = next((flag for method, flag in start.items() if method in run.train), None)
    base = place.models / "minilm" if weights else trained
    steps.append(
        place.step(
            "score",
            folder,
            PROGRAM,
            *("--model_name_or_path", base, *run.train, *((weights, trained) if weights else ())),
            *("--task_name", name, "--validation_file", dev, "--test_file", dev, "--max_seq_length", 128),
            *("--do_eval", "--do_predict", "--per_device_eval_batch_size", 64, "--disable_tqdm", "true"),
            *("--output_dir", out),
        )
    )
    found = read_json(out / "metrics.json")["scores"]
    labels = [row["label"] for _, row in read_jsonl(dev)]
    return {
        "block": run.block,
        "seed": run.seed,
        "rate": rate,
        "max_steps": run.steps,
        **training_of(trained),
        "scores": {key.removeprefix("eval_"): found[key] for key in KEPT if key in found},
        "steps": steps,
        "items": {"correct": correct_items(out / f"test_results_{name}.txt", labels)},
    }


KEPT = ("eval_accuracy", "eval_matthews_correlation", "eval_f1", "eval_loss")
