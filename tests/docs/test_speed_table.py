"""The figures of docs/benchmarks/README.md and of the README are those of docs/benchmarks/results.json, rounded."""

from __future__ import annotations

import json
import re

import pytest

from tests.shared_data import REPOSITORY

RESULTS = json.loads((REPOSITORY / "docs" / "benchmarks" / "results.json").read_text(encoding="utf-8"))
ROWS = {
    (record["version"], row["case"], row["quantity"]): row for record in RESULTS["records"] for row in record["rows"]
}
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGE = (REPOSITORY / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
NOW, OLD = (re.split(r"^## ", PAGE, flags=re.MULTILINE)[part] for part in (1, 2))

LAYER, STEP = "sm q-k-v 8x128, r 4, dropout 0.1, fp32", "sm, batch 8 of E2E, fp32"
EPOCH = "sm, E2E epoch of 42061 rows, bucketed, fp32"
PEFT = "transformers + peft"
BEAM = [f"sm fp32, beam 10, batch {batch}, 64 tokens, ends come" for batch in (1, 4, 16)]
FIGURES = [
    ("LoRA layer", "4.4", ["sm q-k-v 8x512, r 4, dropout 0.1, fp32"], "time, released loralib / ours"),
    ("LoRA layer", "4.04", [LAYER], "FLOPs / (rows * in * out), ours"),
    ("LoRA layer", "10.0", [LAYER], "FLOPs / (rows * in * out), released loralib"),
    ("LoRA layer", "1.26", [LAYER], "kept for backward / size of x, ours"),
    ("LoRA layer", "4.25", [LAYER], "kept for backward / size of x, released loralib"),
    ("training step, batch 8", "2.6", [STEP], f"time, {PEFT} on the longest row / ours"),
    ("training step, batch 8", "1.33", [STEP], f"FLOPs of matrix products, {PEFT} on the longest row / ours"),
    ("training step, batch 8", "0.34", [f"{STEP}, dropout 0.1"], f"bytes saved for backward, ours / {PEFT}"),
    ("epoch of E2E", "5.4", [EPOCH], f"time, {PEFT} on 128 / ours"),
    ("epoch of E2E", "3.0", [EPOCH], f"FLOPs of matrix products, {PEFT} on 128 / ours"),
    ("training step with LoRA", "1.9", [STEP], "time, full fine-tuning / ours"),
    ("beam search", "4.3, 3.7, 4.2", BEAM, "time a prompt, generate / ours"),
    ("merged inference", "1.0", ["sm fp32, forward 1 x 128"], "time, ours merged / ours without LoRA"),
    (
        "WebNLG: BLEU",
        "33",
        ["WebNLG, 1,862 items: BLEU, METEOR, TER"],
        "time, pyter3 + METEOR's jar + sacrebleu + nltk / ours",
    ),
]


def measured(case: str, quantity: str) -> float:
    return ROWS["0.2.0", case, quantity]["median"]


@pytest.mark.parametrize(("start", "written", "cases", "quantity"), FIGURES)
def test_a_figure_of_the_old_table_is_the_measured_one(start, written, cases, quantity):
    line = next(line for line in OLD.splitlines() if line.startswith(f"| {start}"))
    assert re.search(rf"(?<![\d.]){re.escape(written)}(?![\d.])", line)
    for figure, case in zip(written.split(", "), cases, strict=True):
        digits = len(figure.partition(".")[2])
        assert f"{measured(case, quantity):.{digits}f}" == figure


def test_the_figures_of_the_version_of_now_are_the_measured_ones():
    found = re.findall(r"\| ([\d.]+) \(([\d.]+) to ([\d.]+), n=(\d+)\) \|", NOW)
    rows = [(row["median"], row["low"], row["high"], row["rounds"]) for (of, *_), row in ROWS.items() if of == "0.3.0"]
    assert len(found) == 6 and {tuple(map(float, figures)) for figures in found} <= set(rows)


def test_the_front_page_quotes_the_page():
    for figure in ("3.7 to 4.3 times", "2.6 times transformers + peft", "4.4 times the released", "33\ntimes pyter3"):
        assert figure in README
    assert "1.4 to 1.7 times as fast as\ntransformers + peft" in README
