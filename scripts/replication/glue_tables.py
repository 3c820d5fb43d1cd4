"""Tables and plots of the block "glue"."""

from __future__ import annotations

import statistics
from typing import Any

from compare import Result, Results, Table, cpu_seconds, in_words, interval, of_row, shown

TASKS = {"sst2": "accuracy", "cola": "matthews_correlation", "mrpc": "accuracy", "rte": "accuracy"}
TITLES = ("SST-2, accuracy", "CoLA, Matthews correlation", "MRPC, accuracy", "RTE, accuracy")
METHODS = ("head", "bitfit", "adapter", "lora", "full")
RANKS = (1, 2, 4, 8, 16, 64)
PAIRS = (
    ("lora", "full"),
    ("bitfit", "full"),
    ("adapter", "full"),
    ("lora", "adapter"),
    ("lora", "bitfit"),
    ("lora", "head"),
)


def score(result: Result, task: str) -> float:
    return 100 * float(result["scores"][TASKS[task]])


def main_table(results: Results) -> Table:
    """Methods: the score of each task, costs."""
    table = [["method", "trained in the base", "in the head", *TITLES, "seeds", "CPU s", "memory, GB", "result, MB"]]
    for method in METHODS:
        of_tasks = [of_row(results, f"glue/{task}-{method}") for task in TASKS]
        runs = [run for found in of_tasks for run in found]
        if not runs:
            continue
        counts = runs[0]["parameters"]
        seconds = [statistics.fmean(map(cpu_seconds, found)) for found in of_tasks if found]
        table.append(
            [
                method,
                *(f"{counts[name]:,}" for name in ("trained_in_base", "trained_in_head")),
                *(shown([score(run, task) for run in found], 1) for task, found in zip(TASKS, of_tasks)),
                "/".join(str(len(found)) for found in of_tasks),
                f"{sum(seconds):.0f}" if len(seconds) == len(TASKS) else "–",
                f"{max(run['peak_memory_bytes'] for run in runs) / 1e9:.1f}",
                f"{max(run['result_bytes'] for run in runs) / 1e6:.1f}",
            ]
        )
    return table


def ranks(results: Results, r: int) -> list[Result]:
    """Runs on SST-2 of a rank; rank 8 is LoRA's own row."""
    return of_row(results, "glue/sst2-lora" if r == 8 else f"glue/sst2-r{r}")[:1]


def ranks_table(results: Results) -> Table:
    table = [["rank", "trained in the base", "loss on held-out training rows", "SST-2, accuracy"]]
    for r in RANKS:
        for run in ranks(results, r):
            trained, loss = run["parameters"]["trained_in_base"], run["valid_losses"][-1][1]
            table.append([str(r), f"{trained:,}", f"{loss:.3f}", f"{score(run, 'sst2'):.1f}"])
    return table


def comparison_table(results: Results) -> Table:
    """Pairs of methods: by task, and averaged over the tasks."""
    table = [["difference, points of accuracy", *TASKS, "mean of the four"]]
    for a, b in PAIRS:
        pairs = [(f"glue/{task}-{a}", f"glue/{task}-{b}") for task in TASKS]
        found = [*(interval(results, [pair], "correct") for pair in pairs), interval(results, pairs, "correct")]
        if any(found):
            table.append([f"{a} − {b}", *(in_words(part) if part else "–" for part in found)])
    return table


def draw(results: Results, canvas: Any) -> None:
    """Score against trained parameters of the base, against rank, and curves on held-out training rows."""
    left, middle, right = canvas.subplots(1, 3)
    for method in METHODS:
        first = of_row(results, f"glue/sst2-{method}")
        for run in first:
            trained = run["parameters"]
            left.plot(trained["trained_in_base"] + trained["trained_in_head"], score(run, "sst2"), "o", label=method)
        if first:
            right.plot(*zip(*first[0]["valid_accuracy"]), label=method)
    left.set(xscale="log", xlabel="trained parameters, head included", ylabel="SST-2, accuracy of each seed")
    points = [(r, score(run, "sst2")) for r in RANKS for run in ranks(results, r)]
    if points:
        middle.plot(*zip(*points), marker="o")
    middle.set_xscale("log", base=2)
    middle.set(xlabel="rank of query and value, one seed", ylabel="SST-2, accuracy")
    right.set(xlabel="step", ylabel="SST-2, accuracy on held-out training rows (seed 0)")
