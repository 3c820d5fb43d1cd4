"""The block "e2e": SmolLM2 on the E2E challenge, from the official files to its five scores and slot errors.

Rates are chosen on rows of 100 meaning representations that are taken out of the training rows for all runs. The test
inputs are read only when a run's training has ended.
"""

from __future__ import annotations

import csv
import gzip
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trained import training_of

from examples.common.errors import UserError
from examples.common.files import atomic_write, make_folder, read_json, read_jsonl, write_jsonl
from examples.common.record import computes_bfloat16

if TYPE_CHECKING:
    from replicate import Place, Run

ROOT = Path(__file__).resolve().parents[2]
CLM, NLG = ROOT / "examples" / "CLM", ROOT / "examples" / "NLG" / "src"
RATE_STEPS = 100  # of a run that only chooses the learning rate
HELD_OUT = 100  # meaning representations
VALIDATION = 256  # rows of the development set, whose loss is followed and decides nothing
BATCH = 8
SLOTS = ("slots", "missing", "wrong", "added", "slot_error_rate", "texts_without_errors")
FIGURES = ("sentBLEU", "METEOR", "ROUGE_L", "missing", "wrong", "added")  # kept for each text, for paired tests


def converted(place: Place, source: str, name: str) -> Path:
    """JSON lines of one of the official files, made once."""
    folder = make_folder(place.work / "e2e" / "data")
    path = folder / name
    if not path.exists():
        raw = unpacked(place, source)
        place.step(f"convert_{source}", folder, NLG / "format_converting_e2e.py", raw, path)
    return path


def unpacked(place: Place, source: str) -> Path:
    """One of the official files without its packing."""
    packed = place.data / "e2e" / f"{source}.gz"
    path = make_folder(place.work / "e2e" / "data") / source
    if not path.exists():
        if not packed.exists():
            raise UserError(f"{packed} is missing: the E2E challenge's files are expected there")
        with gzip.open(packed, "rb") as stream, atomic_write(path, binary=True) as out:
            shutil.copyfileobj(stream, out)
    return path


def training_files(place: Place) -> tuple[Path, Path]:
    """Training rows, and the first row of each meaning representation that was taken out of them."""
    train, held_out = (place.work / "e2e" / "data" / f"{name}.jsonl" for name in ("train", "held_out"))
    if not (train.exists() and held_out.exists()):
        rows = [row for _, row in read_jsonl(converted(place, "trainset.csv", "all.jsonl"))]
        taken = set(random.Random(0).sample(sorted({row["context"] for row in rows}), HELD_OUT))
        first = {row["context"]: row for row in reversed(rows) if row["context"] in taken}
        write_jsonl(train, (row for row in rows if row["context"] not in taken))
        write_jsonl(held_out, first.values())
    return train, held_out


def train(place: Place, run: Run, folder: Path, rate: str, steps: int, choosing: bool = False) -> dict[str, Any]:
    """Trains one run, or a short one that chooses among the rates; goes on where it was stopped."""
    rows, held_out = training_files(place)
    validation = held_out if choosing else converted(place, "devset.csv", "valid.jsonl")
    return place.step(
        "train",
        folder,
        CLM / "run_clm.py",
        *("--model_name_or_path", place.models / "smollm2", *run.train, "--seed", run.seed),
        *("--train_file", rows, "--validation_file", validation, "--max_eval_samples", VALIDATION),
        *("--do_train", "--do_eval", "--max_steps", steps, "--per_device_train_batch_size", BATCH),
        *(
            "--learning_rate",
            rate,
            "--warmup_steps",
            30,
            "--lr_scheduler_type",
            "linear",
            *(["--bf16"] if computes_bfloat16() else []),
        ),
        *("--eval_strategy", "no" if choosing else "steps", "--eval_steps", 100, "--per_device_eval_batch_size", 16),
        *("--save_strategy", "steps", "--save_steps", 100, "--save_total_limit", 1, "--logging_steps", 10),
        *("--output_dir", folder / "trained"),
    )


def make(place: Place, run: Run, folder: Path, rate: str | None) -> dict[str, Any]:
    """Trains, continues all test inputs, scores; what remains of it."""
    steps, weights = [], ("--model", place.models / "smollm2")
    trained = folder / "trained"
    if rate is not None:
        steps.append(train(place, run, folder, rate, run.steps))
        weights = ("--adapter" if (trained / "adapter_config.json").exists() else "--model", trained)
    inputs, references = test_files(place)
    generated, scores = folder / "generated.jsonl", folder / "scores.json"
    steps.append(
        place.step(
            "generate",
            folder,
            CLM / "generate.py",
            *(*weights, "--input", inputs, "--output", generated, *run.generate),
            *("--max_new_tokens", 96, "--batch_size", 32),
            *("--dtype", "bfloat16" if computes_bfloat16() else "float32"),
        )
    )
    segments = folder / "segments.tsv"
    steps.append(
        place.step(
            "score",
            folder,
            CLM / "score.py",
            *("e2e", "--hypotheses", generated, "--references", references),
            *("--slots", place.data / "e2e" / "testset.csv", "--json", scores, "--seg_level", segments),
        )
    )
    result: dict[str, Any] = {"block": run.block, "seed": run.seed, "rate": rate, "max_steps": run.steps}
    if rate is not None:
        result |= training_of(trained)
    found = read_json(scores)
    texts = [row["generated"] for _, row in read_jsonl(generated)]
    with segments.open(encoding="utf-8", newline="") as stream:
        of_texts = list(csv.DictReader(stream, delimiter="\t"))
    items = {name: " ".join(f"{float(row[name]):.4g}" for row in of_texts) for name in FIGURES}
    return {
        **result,
        "scores": {name: found[name] for name in ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")},
        "slots": {name: found[name] for name in SLOTS},
        "steps": steps,
        "texts": texts[:: max(1, len(texts) // 20)],
        "items": items,
    }


def test_files(place: Place) -> tuple[Path, Path]:
    """Inputs of the test set, one row for each, and the official file of references."""
    references = unpacked(place, "testset_w_refs.csv")
    inputs = place.work / "e2e" / "data" / "test.jsonl"
    if not inputs.exists():
        rows = [row for _, row in read_jsonl(converted(place, "testset_w_refs.csv", "test_all.jsonl"))]
        contexts = dict.fromkeys(row["context"] for row in rows)
        write_jsonl(inputs, ({"context": context} for context in contexts))
    return inputs, references
