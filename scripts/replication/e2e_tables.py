"""Tables and plots of the block "e2e"."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from compare import SCALES, Result, Results, Table, cpu_seconds, in_words, interval, of_row, shown

MAIN = ("zero-shot", "zero-shot-chat", "top2", "lora-qv", "lora-all", "full")
RANKS = (1, 2, 4, 8, 16, 64)
TARGETS = ("q", "k", "v", "o", "qv", "qkvo")
SCORES = ("BLEU", "METEOR", "ROUGE_L", "NIST", "CIDEr")
PAIRS = (
    *(("lora-qv", "full"), ("lora-all", "full"), ("lora-qv", "lora-all"), ("lora-qv", "top2"), ("top2", "full")),
    *(("r1", "r8"), ("r4", "r8"), ("r4", "r64"), ("r64", "r8")),
    *(("qv", "q"), ("qv", "k"), ("qv", "v"), ("qv", "o"), ("qkvo", "qv")),
)


def score(result: Result, name: str) -> float:
    return SCALES[name] * float(result["scores"][name])


def main_table(results: Results) -> Table:
    """Methods: scores, slot errors, costs."""
    header = ["run", "n", "trained", "rate", *SCORES, "slot errors, %", "CPU s", "memory, GB", "result, MB"]
    rows = [header]
    for row in MAIN:
        runs = of_row(results, f"e2e/{row}")
        if not runs:
            continue
        first = runs[0]
        trained = first.get("parameters")
        rows.append(
            [
                row,
                str(len(runs)),
                f"{trained['trained']:,}" if trained else "0",
                first["rate"] or "–",
                *(shown([score(run, name) for run in runs], 1 if SCALES[name] == 100 else 2) for name in SCORES),
                shown([100 * run["slots"]["slot_error_rate"] for run in runs], 1),
                f"{statistics.fmean(cpu_seconds(run) for run in runs):.0f}" if trained else "0",
                f"{max(run['peak_memory_bytes'] for run in runs) / 1e9:.1f}" if trained else "–",
                f"{first['result_bytes'] / 1e6:.1f}" if trained else "0",
            ]
        )
    return rows


def sweep_table(results: Results, rows: Sequence[str], label: str) -> Table:
    """Ranks, or targets at one budget: validation loss, BLEU, slot errors."""
    table = [[label, "trained", "validation loss", "BLEU", "ROUGE_L", "slot errors, %"]]
    for row in rows:
        for run in of_row(results, f"e2e/{row}"):
            figures = [f"{score(run, name):.1f}" for name in ("BLEU", "ROUGE_L")]
            errors = f"{100 * run['slots']['slot_error_rate']:.1f}"
            loss = f"{run['valid_losses'][-1][1]:.3f}"
            table.append([row, f"{run['parameters']['trained']:,}", loss, *figures, errors])
    return table


def comparison_table(results: Results) -> Table:
    """Pairs that the claims rest on."""
    table = [["difference", "ROUGE-L, points", "slot errors a text"]]
    for a, b in PAIRS:
        found = [interval(results, [(f"e2e/{a}", f"e2e/{b}")], figure) for figure in ("ROUGE_L", "slots")]
        if found[0] is not None and found[1] is not None:
            table.append([f"{a} − {b}", *(in_words(part) for part in found if part)])
    return table


def sentences_table(results: Results, shown_texts: int = 4) -> Table:
    """The same inputs, written by each method."""
    table = [["run", *(f"text {number + 1}" for number in range(shown_texts))]]
    for row in MAIN:
        for run in of_row(results, f"e2e/{row}")[:1]:
            texts = [" ".join(text.split()).replace("|", "/")[:240] for text in run["texts"][2::5][:shown_texts]]
            table.append([row, *texts])
    return table


def draw(results: Results, canvas: Any) -> None:
    """Score against trained parameters, score against rank, and validation losses."""
    left, middle, right = canvas.subplots(1, 3)
    for row in MAIN:
        runs = [run for run in of_row(results, f"e2e/{row}") if "parameters" in run]
        if runs:
            values = [score(run, "BLEU") for run in runs]
            left.errorbar(
                runs[0]["parameters"]["trained"],
                statistics.fmean(values),
                yerr=[[statistics.fmean(values) - min(values)], [max(values) - statistics.fmean(values)]],
                marker="o",
                capsize=3,
                label=row,
            )
            right.plot(*zip(*runs[0]["valid_losses"]), label=row)
    left.set(xscale="log", xlabel="trained parameters", ylabel="BLEU (mean; lowest to highest seed)")
    points = [(r, score(run, "BLEU")) for r in RANKS for run in of_row(results, f"e2e/r{r}")]
    if points:
        middle.plot(*zip(*points), marker="o")
    middle.set_xscale("log", base=2)
    middle.set(xlabel="rank of q and v, 300 steps, one seed", ylabel="BLEU")
    right.set(xlabel="step", ylabel="validation loss, nats a token (seed 0)")
