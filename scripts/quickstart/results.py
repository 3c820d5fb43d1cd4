"""Reads what the quickstart's runs left behind and puts it into one table: as text, as JSON, as Markdown.

Layout of the quickstart folder: ``base/`` (training run of the toy base; absent where ``--base`` gave real weights),
``untuned/``, ``lora/`` and ``full/`` (not with ``--real``). Each of the last three holds ``hypotheses.txt`` and
``scores.json``; ``lora/`` and ``full/`` also what ``gpt2_ft.py`` or, with ``--real``, ``run_clm.py`` leaves.
``commands.txt`` lists the commands in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from examples.common.compare import Points, read_json, read_log, read_run
from examples.common.errors import UserError
from examples.common.files import read_jsonl, read_lines

VARIANTS = {"untuned": "no fine-tuning", "lora": "LoRA", "full": "full fine-tuning"}
SCORES = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
HEADINGS = (
    "",
    "trainable parameters",
    "BLEU",
    "NIST",
    "METEOR",
    "ROUGE-L",
    "CIDEr",
    "training",
    "peak memory",
    "result",
)
SLOT_HEADINGS = ("", "slots", "missing", "wrong", "added", "errors per slot", "texts without errors")
ABSENT = "-"
# settings of run_clm.py by the names of gpt2_ft.py
CLM_SETTINGS = {
    **{"lora_dim": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "lr": "learning_rate"},
    **{"train_batch_size": "per_device_train_batch_size", "random_seed": "seed", "seq_len": "max_seq_length"},
}


@dataclass(frozen=True)
class Variant:
    """One row of the table. ``scores`` as the scorer writes them; seconds; bytes. None: not measured, no such thing."""

    key: str
    title: str
    scores: dict[str, float]
    predictions: list[str]
    trainable_parameters: int = 0
    total_parameters: int | None = None
    train_seconds: float | None = None
    peak_memory_bytes: int | None = None
    checkpoint_bytes: int | None = None
    best_valid_loss: float | None = None
    steps: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)
    slots: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A test input with its references, in the order of the prediction files."""

    context: str
    references: list[str]


@dataclass(frozen=True)
class Results:
    variants: list[Variant]
    examples: list[Example]
    base: Variant | None
    commands: list[str]


def read_training(folder: Path) -> dict[str, Any]:
    """The fields of ``Variant`` that a training run gives; none for a folder without ``metrics.json``."""
    if not (folder / "metrics.json").exists():
        return {}
    metrics = read_json(folder / "metrics.json")
    if "method" in metrics and "parameters" in metrics:
        return read_clm_training(folder, metrics)
    numbers = (
        "trainable_parameters",
        "total_parameters",
        "train_seconds",
        "peak_memory_bytes",
        "checkpoint_bytes",
        "best_valid_loss",
        "steps",
    )
    if missing := [name for name in numbers if name not in metrics]:
        raise UserError(f"{folder / 'metrics.json'}: {', '.join(missing)} missing; it is no result of gpt2_ft.py")
    record = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    curves = read_log(folder / "log.jsonl")
    return {**{name: metrics[name] for name in numbers}, "metrics": metrics, "record": record, "curves": curves}


def read_clm_training(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """The same of ``run_clm.py``."""
    record, run = read_json(folder / "run.json"), read_run(folder)
    losses = [loss for _, loss in run.curves["valid_loss"]]
    settings = {name: float(run.settings[theirs]) for name, theirs in CLM_SETTINGS.items() if theirs in run.settings}
    return {
        "trainable_parameters": metrics["parameters"]["trained"],
        "total_parameters": metrics["parameters"]["all"],
        "train_seconds": metrics["scores"]["train_runtime"],
        "peak_memory_bytes": record["peak_memory_bytes"],
        "checkpoint_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "best_valid_loss": min(losses),
        "steps": read_json(folder / "trainer_state.json")["global_step"],
        "metrics": {"settings": settings, "device": record["device"], "versions": record["versions"]},
        "record": record,
        "curves": {name: run.curves[name] for name in ("train_loss", "valid_loss") if name in run.curves},
    }


def read_variant(folder: Path, key: str) -> Variant:
    found = read_json(folder / "scores.json")
    scores = found.get("scores")
    if not isinstance(scores, dict):
        raise UserError(
            f"{folder / 'scores.json'}: the key 'scores' is missing; write it with measure_scores.py --json"
        )
    predictions = [line for _, line in read_lines(folder / "hypotheses.txt")]
    training = read_training(folder)
    if key != "untuned" and not training:
        raise UserError(f"{folder / 'metrics.json'} does not exist; the training run did not finish")
    return Variant(key, VARIANTS[key], scores, predictions, slots=found.get("slots", {}), **training)


def read_examples(path: Path) -> list[Example]:
    """Distinct contexts of a ``*_formatted.jsonl`` in order of first appearance, as ``gpt2_decode.py`` groups them."""
    groups: dict[str, list[str]] = {}
    for _, row in read_jsonl(path, keys=("context", "completion")):
        groups.setdefault(row["context"], []).append(row["completion"])
    return [Example(context, references) for context, references in groups.items()]


def read_results(folder: Path, test_data: Path) -> Results:
    """Everything that the report shows.

    Raises:
        UserError: a run is missing or incomplete, or predictions and test inputs differ in number.
    """
    examples = read_examples(test_data)
    variants = [read_variant(folder / key, key) for key in VARIANTS if key != "full" or (folder / key).exists()]
    for variant in variants:
        if len(variant.predictions) != len(examples):
            raise UserError(
                f"{folder / variant.key / 'hypotheses.txt'}: {len(variant.predictions)} predictions for "
                f"{len(examples)} inputs of {test_data}; they belong to different runs"
            )
    training = read_training(folder / "base")
    base = Variant("base", "base model", {}, [], **training) if training else None
    commands = folder / "commands.txt"
    return Results(variants, examples, base, [line for _, line in read_lines(commands)] if commands.exists() else [])


def size_text(count: float | None) -> str:
    """Bytes in the unit that gives up to three digits, powers of 1024."""
    if count is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def row_of(variant: Variant) -> list[str]:
    """One row of the table; the scores as the paper prints them: BLEU, METEOR and ROUGE-L times 100."""

    def score(name: str) -> str:
        if name not in variant.scores:
            return ABSENT
        return f"{variant.scores[name]:.2f}" if name in ("NIST", "CIDEr") else f"{100 * variant.scores[name]:.1f}"

    seconds = ABSENT if variant.train_seconds is None else f"{variant.train_seconds:.0f} s"
    return [
        variant.title,
        f"{variant.trainable_parameters:,}",
        *(score(name) for name in SCORES),
        seconds,
        size_text(variant.peak_memory_bytes),
        size_text(variant.checkpoint_bytes),
    ]


def slot_row(variant: Variant) -> list[str]:
    """Values of the inputs that the texts leave out, get wrong or add."""
    slots = variant.slots
    counts = [f"{slots[name]:,}" for name in SLOT_HEADINGS[1:5]]
    return [variant.title, *counts, f"{slots['slot_error_rate']:.1%}", f"{slots['texts_without_errors']}"]


def text_table(rows: Iterable[Sequence[str]], headings: Sequence[str] = HEADINGS) -> str:
    """Columns for a terminal: the first flush left, the others flush right."""
    table = [headings, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    lines = [
        "  ".join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) for row in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: Iterable[Sequence[str]], headings: Sequence[str] = HEADINGS) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def as_json(results: Results) -> dict[str, Any]:
    """All numbers, without the texts and the curves, which lie in the runs' own files."""
    rows = {}
    for variant in [*results.variants, *([results.base] if results.base else [])]:
        rows[variant.key] = {k: v for k, v in asdict(variant).items() if k not in ("predictions", "curves", "key")}
    return {"variants": rows, "test_inputs": len(results.examples), "commands": results.commands}
