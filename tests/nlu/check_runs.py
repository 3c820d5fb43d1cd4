"""Checks finished GLUE runs without the room's code: own readers, stock RoBERTa with LoRA merged by hand.

    python tests/nlu/check_runs.py RUNS --base FOLDER --data_dir GLUE [--same OTHER_RUNS]

For every run trained with ``--save_full_model`` below RUNS: the frozen tensors are those of the base, bit for bit;
scikit-learn and scipy give the scores that the run wrote, from predictions made here; what the best epoch's figure is.
``--same``: the runs of both folders trained to the very same numbers. Prints a Markdown table; exit code 1 where
something differs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

ROUNDING = 1e-6  # between logits of a merged and of an unmerged model in float32
NLI = ("entailment", "neutral", "contradiction")
TWO_WAY = ("entailment", "not_entailment")
BINARY = ("0", "1")


@dataclass(frozen=True)
class Dev:
    """A dev file: stem, places of text columns and label from the official header, label names in GLUE's order."""

    folder: str
    texts: tuple[int, ...]
    label: int
    labels: tuple[str, ...]
    stem: str = "dev"
    header: bool = True


DEVS = {
    "cola": [("eval_", Dev("CoLA", (3,), 1, BINARY, header=False))],
    "sst2": [("eval_", Dev("SST-2", (0,), 1, BINARY))],
    "mrpc": [("eval_", Dev("MRPC", (3, 4), 0, BINARY))],
    "rte": [("eval_", Dev("RTE", (1, 2), 3, TWO_WAY))],
    "qnli": [("eval_", Dev("QNLI", (1, 2), 3, TWO_WAY))],
    "stsb": [("eval_", Dev("STS-B", (7, 8), 9, ()))],
    "mnli": [
        ("eval_", Dev("MNLI", (8, 9), -1, NLI, "dev_matched")),
        ("eval_mm_", Dev("MNLI", (8, 9), -1, NLI, "dev_mismatched")),
    ],
}
CLASS_SCORES: dict[str, dict[str, Callable[..., float]]] = {
    "cola": {"matthews_correlation": matthews_corrcoef},
    "mrpc": {"accuracy": accuracy_score, "f1": f1_score},
}


def read_dev(data_dir: Path, dev: Dev) -> tuple[list[list[str]], list[str]]:
    """(texts of each example, labels as written)."""
    path = data_dir / dev.folder / f"{dev.stem}.tsv"
    raw = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
    rows = [line.rstrip("\r").split("\t") for line in raw.decode("utf-8-sig").rstrip("\n").split("\n")]
    rows = rows[1:] if dev.header else rows
    return [[row[place] for place in dev.texts] for row in rows], [row[dev.label] for row in rows]


def weights_of(base: Path) -> dict[str, Tensor]:
    """Tensors of a base model as a classifier names them, whether or not its file has a head and ``roberta.``."""
    weights = load_file(base / "model.safetensors")
    if not any(name.startswith("roberta.") for name in weights):
        return {f"roberta.{name}": value for name, value in weights.items()}
    return {name: value for name, value in weights.items() if name.startswith("roberta.")}


def rebuild(run: Path, base: Path, labels: int) -> RobertaForSequenceClassification:
    """Stock RoBERTa: the base's own file, plus ``alpha / r * B @ A`` and the head from the run's file."""
    trained: dict[str, Tensor] = torch.load(run / "pytorch_model_lora.bin", weights_only=True)
    described = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["model"]
    scaling = described["lora_alpha"] / described["r"]
    state = weights_of(base)
    for name, value in trained.items():
        if name.endswith("lora_A"):
            at = name.removesuffix("lora_A") + "weight"
            state[at] = state[at] + scaling * trained[name.removesuffix("A") + "B"] @ value
        elif "lora" not in name:
            state[name] = value
    model = RobertaForSequenceClassification(RobertaConfig.from_pretrained(base, num_labels=labels))
    found = model.load_state_dict(state, strict=False)
    assert not found.missing_keys and not found.unexpected_keys, found
    return model.eval()


@torch.no_grad()
def logits_of(model: RobertaForSequenceClassification, base: Path, texts: list[list[str]]) -> Tensor:
    """(N, C) logits, 64 examples at once."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    limit = min(512, tokenizer.model_max_length)
    found = []
    for start in range(0, len(texts), 64):
        columns = [list(column) for column in zip(*texts[start : start + 64])]
        inputs = tokenizer(*columns, truncation=True, max_length=limit, padding=True, return_tensors="pt")
        found.append(model(**inputs).logits)
    return torch.cat(found)


def own_scores(task: str, logits: Tensor, labels: list[str], names: tuple[str, ...]) -> dict[str, float]:
    """Scores by scikit-learn and scipy, as fractions."""
    if task == "stsb":
        numbers, predicted = [float(label) for label in labels], logits[:, 0].tolist()
        return {"pearson": pearsonr(predicted, numbers)[0], "spearmanr": spearmanr(predicted, numbers)[0]}
    ids, classes = [names.index(label) for label in labels], logits.argmax(-1).tolist()
    functions = CLASS_SCORES.get(task, {"accuracy": accuracy_score})
    return {name: float(function(ids, classes)) for name, function in functions.items()}


def commonest(task: str, labels: list[str], names: tuple[str, ...]) -> dict[str, float]:
    """Scores of always answering the commonest class of the file; of a regression no correlation."""
    if task == "stsb":
        return {}
    label = Counter(labels).most_common(1)[0][0]
    answer = torch.eye(len(names))[names.index(label)].expand(len(labels), -1)
    return own_scores(task, answer, labels, names)


def changed_frozen(run: Path, base: Path) -> tuple[int, list[str]]:
    """(number of frozen tensors in the complete checkpoint, those that are not the base's bit for bit)."""
    before = weights_of(base)
    after: dict[str, Tensor] = torch.load(run / "pytorch_model.bin", weights_only=True)
    frozen = {name: value for name, value in after.items() if name.startswith("roberta.") and "lora" not in name}
    wrong = sorted(set(before) ^ set(frozen))
    return len(frozen), wrong + [name for name in set(before) & set(frozen) if not same(frozen[name], before[name])]


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def same_trained(run: Path, other: Path) -> bool:
    """Whether two runs saved the same numbers."""
    one, two = (torch.load(path / "pytorch_model_lora.bin", weights_only=True) for path in (run, other))
    return list(one) == list(two) and all(same(one[name], two[name]) for name in one)


def check(run: Path, base: Path, data_dir: Path) -> tuple[list[str], list[list[str]]]:
    """(what is wrong with a run, rows of the table)."""
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    task = metrics["model"]["task"]
    seconds = json.loads((run / "run.json").read_text(encoding="utf-8"))["wall_seconds"]
    count, changed = changed_frozen(run, base)
    wrong = [f"{run}: {name} is not the base's" for name in changed]
    trained: dict[str, Tensor] = torch.load(run / "pytorch_model_lora.bin", weights_only=True)
    if not any(bool(value.any()) for name, value in trained.items() if name.endswith("lora_B")):
        wrong.append(f"{run}: LoRA was not trained")
    rows = []
    for prefix, dev in DEVS[task]:
        texts, labels = read_dev(data_dir, dev)
        logits = logits_of(rebuild(run, base, len(dev.labels) or 1), base, texts)
        baseline = commonest(task, labels, dev.labels)
        # classes are exact; a correlation moves by the rounding of the predictions relative to their spread
        tolerance = ROUNDING * max(1.0, 1 / float(logits.std())) if task == "stsb" else 0.0
        for name, value in own_scores(task, logits, labels, dev.labels).items():
            written = metrics["scores"][prefix + name]
            if abs(written - value) > tolerance:
                wrong.append(f"{run}: {prefix}{name} is {value!r} here, {written!r} in metrics.json")
            best = (metrics["best"] or {}).get(prefix + name)
            figures = [written, best, baseline.get(name)]
            rows.append(
                [
                    *(f"{dev.folder} {dev.stem}", str(len(labels)), name.replace("_", " ")),
                    *("-" if figure is None else f"{100 * figure:.1f}" for figure in figures),
                    *(str(count), f"{seconds:.0f}"),
                ]
            )
    return wrong, rows


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--data_dir", type=Path, required=True, help="official GLUE files")
    parser.add_argument("--same", type=Path, help="runs that should be equal to those of the same name in RUNS")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    wrong: list[str] = []
    print("| file | examples | score | last epoch | best epoch | commonest class | frozen tensors | seconds |")
    print("|---|" + "---:|" * 7)
    for path in sorted(args.runs.glob("*/*/seed*/model/metrics.json")):
        found, rows = check(path.parent, args.base, args.data_dir)
        wrong += found
        for row in rows:
            print(f"| {' | '.join(row)} |", flush=True)
    if args.same:
        for path in sorted(args.same.glob("*/*/seed*/model/metrics.json")):
            if not same_trained(args.runs / path.parent.relative_to(args.same), path.parent):
                wrong.append(f"{path.parent}: trained to other numbers")
    print("\n".join(wrong) or "\nAll frozen tensors are the base's; all scores are scikit-learn's and scipy's.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
