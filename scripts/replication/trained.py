"""What a run of run_clm.py or run_glue.py leaves of its training."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.common.files import read_json

WEIGHTS = ("*.safetensors", "pytorch_model_*.bin")


def training_of(folder: Path) -> dict[str, Any]:
    """Method, numbers of parameters, curves, size of the result, peak memory, record of the run in ``folder``."""
    metrics, record = read_json(folder / "metrics.json"), read_json(folder / "run.json")
    history = read_json(folder / "trainer_state.json")["log_history"]
    curves = {"train_losses": "loss", "valid_losses": "eval_loss"}
    curves |= {f"valid_{name}": f"eval_{name}" for name in ("accuracy", "matthews_correlation")}
    found = {
        curve: [(entry["step"], entry[name]) for entry in history if name in entry] for curve, name in curves.items()
    }
    return {
        "method": metrics["method"] if "method" in metrics else metrics["model"]["method"],
        "parameters": metrics["parameters"],
        "result_bytes": sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern)),
        **{curve: points for curve, points in found.items() if points or curve.endswith("losses")},
        "peak_memory_bytes": record["peak_memory_bytes"],
        "versions": record["versions"],
        "device": record["device"],
    }


def correct_items(predictions: Path, labels: Sequence[str]) -> str:
    """1 or 0 for each label: whether the file of predictions has the same, in the same order."""
    with predictions.open(encoding="utf-8", newline="") as stream:
        found = [row["prediction"] for row in csv.DictReader(stream, delimiter="\t")]
    return " ".join(str(int(ours == label)) for ours, label in zip(found, labels, strict=True))
