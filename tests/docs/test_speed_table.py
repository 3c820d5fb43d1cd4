"""The figures of the README's speed table are those of docs/benchmarks/results.json, rounded."""

from __future__ import annotations

import json
import re

import pytest

from tests.shared_data import REPOSITORY

RESULTS = json.loads((REPOSITORY / "docs" / "benchmarks" / "results.json").read_text(encoding="utf-8"))
ROWS = [row for program in RESULTS["programs"] for row in program["rows"]]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TABLE = {line.split("|")[1].strip(): line for line in README.splitlines() if line.startswith("| ")}

LAYER, STEP = "sm q-k-v 8x128, r 4, dropout 0.1, fp32", "sm, batch 8 of E2E, fp32"
EPOCH = "sm, E2E epoch of 42061 rows, bucketed, fp32"
PEFT = "transformers + peft"
BEAM = [f"sm fp32, beam 10, batch {batch}, 64 tokens, ends come" for batch in (1, 4, 16)]
FIGURES = [
    ("LoRA on query and value", "4.4", ["sm q-k-v 8x512, r 4, dropout 0.1, fp32"], "time, released loralib / ours"),
    ("LoRA on query and value", "4.04", [LAYER], "FLOPs / (rows * in * out), ours"),
    ("LoRA on query and value", "10.0", [LAYER], "FLOPs / (rows * in * out), released loralib"),
    ("LoRA on query and value", "1.26", [LAYER], "kept for backward / size of x, ours"),
    ("LoRA on query and value", "4.25", [LAYER], "kept for backward / size of x, released loralib"),
    ("training step, batch 8", "2.6", [STEP], f"time, {PEFT} on the longest row / ours"),
    ("training step, batch 8", "1.33", [STEP], f"FLOPs of matrix products, {PEFT} on the longest row / ours"),
    ("training step, batch 8", "0.34", [f"{STEP}, dropout 0.1"], f"bytes saved for backward, ours / {PEFT}"),
    ("a whole epoch", "5.4", [EPOCH], f"time, {PEFT} on 128 / ours"),
    ("a whole epoch", "3.0", [EPOCH], f"FLOPs of matrix products, {PEFT} on 128 / ours"),
    ("training step with LoRA", "1.9", [STEP], "time, full fine-tuning / ours"),
    ("beam search", "4.3, 3.7, 4.2", BEAM, "time a prompt, generate / ours"),
    ("merged inference, Small", "1.0", ["sm fp32, forward 1 x 128"], "time, ours merged / ours without LoRA"),
    (
        "WebNLG scores",
        "33",
        ["WebNLG, 1,862 items: BLEU, METEOR, TER"],
        "time, pyter3 + METEOR's jar + sacrebleu + nltk / ours",
    ),
]


def measured(case: str, quantity: str) -> float:
    (row,) = [row for row in ROWS if row["case"] == case and row["quantity"] == quantity]
    return row["ratio"]["median"]


@pytest.mark.parametrize(("start", "written", "cases", "quantity"), FIGURES)
def test_a_figure_of_the_table_is_the_measured_one(start, written, cases, quantity):
    line = next(line for name, line in TABLE.items() if name.startswith(start))
    assert re.search(rf"(?<![\d.]){re.escape(written)}(?![\d.])", line)
    for figure, case in zip(written.split(", "), cases, strict=True):
        digits = len(figure.partition(".")[2])
        assert f"{measured(case, quantity):.{digits}f}" == figure


def test_the_figure_for_ter_is_the_measured_one():
    value = measured("WebNLG, 1,862 items: TER", "time of TER, pyter3 / ours (1 process each)")
    assert f"TER with the same doubles {value:.0f} times faster than pyter3" in README
