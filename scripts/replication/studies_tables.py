"""Table of the block "studies"."""

from __future__ import annotations

from compare import Results, Table, cpu_seconds, in_words, interval

FIGURES = {"accuracy": 100, "f1_macro": 100, "chrF": 1, "ROUGE_L": 1}


def main_table(results: Results) -> Table:
    """Tasks and methods: figures, trained parameters, costs."""
    table = [["run", "trained", "in the head", "rate", "figures", "CPU s", "result, MB"]]
    for name, result in results.items():
        if not name.startswith("studies/") or name.endswith(".rates"):
            continue
        counts = result.get("parameters")
        figures = [
            f"{figure} {scale * result['scores'][figure]:.1f}"
            for figure, scale in FIGURES.items()
            if figure in result["scores"]
        ]
        table.append(
            [
                name.removeprefix("studies/").partition(".")[0],
                *((f"{counts['trained']:,}", f"{counts['trained_in_head']:,}") if counts else ("0", "0")),
                result["rate"] or "–",
                ", ".join(figures),
                f"{cpu_seconds(result):.0f}",
                f"{result['result_bytes'] / 1e6:.1f}" if counts else "0",
            ]
        )
    return table


def comparison_table(results: Results) -> Table:
    """LoRA against all weights and against the head alone, item by item."""
    table = [["difference, points", "mean and interval"]]
    pairs = [
        (f"{task}-lora", f"{task}-{other}", "correct")
        for task in ("sst", "cfimdb", "sms", "imdb")
        for other in ("full", "head")
    ]
    pairs += [("quora-lora", "quora-full", "correct"), ("alpaca-lora", "alpaca-zero-shot", "chrF")]
    pairs += [("sonnets-r16", "sonnets-full", "chrF"), ("sonnets-r16", "sonnets-r64", "chrF")]
    for a, b, figure in pairs:
        found = interval(results, [(f"studies/{a}", f"studies/{b}")], figure)
        if found:
            table.append([f"{a} − {b}, {'accuracy' if figure == 'correct' else figure}", in_words(found)])
    return table
