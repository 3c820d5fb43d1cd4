"""Result files, what they say of a row of runs, and the difference of two rows with its interval."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.common.errors import UserError
from examples.common.files import read_json
from examples.common.statistics import summarise

Result = dict[str, Any]
Results = dict[str, Result]  # by name, such as e2e/lora-qv.seed0
Table = list[list[str]]
Interval = tuple[float, float, float]  # mean, low, high
ROUNDS = 2_000  # of a bootstrap
SCALES = {"BLEU": 100, "METEOR": 100, "ROUGE_L": 100, "NIST": 1, "CIDEr": 1, "correct": 100, "chrF": 1}


def read_results(folder: Path) -> Results:
    """All result files of a folder.

    Raises:
        UserError: another file is among them.
    """
    found = {}
    for path in sorted(folder.rglob("*.json")):
        result = read_json(path)
        if "run" not in result:
            raise UserError(f"{path} is no result of replicate.sh")
        found[result["run"]] = result
    return found


def of_row(results: Results, row: str) -> list[Result]:
    """The results of a row's seeds; ``row``: block and run, such as ``e2e/full``."""
    return [result for name, result in results.items() if re.fullmatch(rf"{row}\.seed\d+", name)]


def shown(values: Sequence[float], digits: int) -> str:
    """Mean, with the standard deviation where there are several."""
    if not values:
        return "–"
    found = summarise(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.sd:.{digits}f}" if found.sd is not None else "")


def cpu_seconds(result: Result, step: str = "train") -> float:
    return sum(part["cpu_seconds"] for part in result["steps"] if part["step"] == step)


def ratio(results: Results, a: str, b: str, figure: str) -> float | None:
    """A cost of row a over that of b, means over seeds: ``cpu_seconds``, or a number of the results."""
    sides = [
        [cpu_seconds(run) if figure == "cpu_seconds" else float(run[figure]) for run in of_row(results, row)]
        for row in (a, b)
    ]
    return statistics.fmean(sides[0]) / statistics.fmean(sides[1]) if all(sides) else None


def interval(results: Results, pairs: Sequence[tuple[str, str]], figure: str) -> Interval | None:
    """Mean of a - b over items, averaged over the pairs, and its 95 % interval by a paired bootstrap over the items of
    each pair, and over seeds where there are several; None where a row has no result.

    Args:
        pairs: rows a and b, one pair for each task.
        figure: of each item: ``ROUGE_L`` and ``correct`` (in points), or ``slots``, its number of slot errors.
    """
    sides = [[[of_items(run, figure) for run in of_row(results, row)] for row in pair] for pair in pairs]
    if not all(runs for pair in sides for runs in pair):
        return None
    random = np.random.default_rng(0)
    drawn, mean = np.zeros(ROUNDS), 0.0
    for pair in sides:
        values = [np.stack(runs) for runs in pair]  # (seeds, items)
        n_items = values[0].shape[1]
        for number in range(ROUNDS):
            items = random.integers(n_items, size=n_items)
            a, b = (side[random.integers(len(side), size=len(side))][:, items].mean() for side in values)
            drawn[number] += (a - b) / len(sides)
        mean += float(values[0].mean() - values[1].mean()) / len(sides)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return mean, float(low), float(high)


def of_items(run: Result, figure: str) -> np.ndarray:
    """A figure of each item of a run, in the order of the test set."""
    if figure == "slots":
        return np.sum([np.array(run["items"][kind].split(), float) for kind in ("missing", "wrong", "added")], axis=0)
    return SCALES[figure] * np.array(run["items"][figure].split(), float)


def in_words(found: Interval) -> str:
    mean, low, high = found
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def rates_table(results: Results, block: str) -> Table:
    """Every candidate's loss on held-out training rows, the chosen one bold."""
    table = [["run", "loss by learning rate, on held-out training rows"]]
    for name, result in results.items():
        if name.startswith(f"{block}/") and name.endswith(".rates"):
            found = [f"{rate}: {loss:.4f}" for rate, loss in result["losses"].items()]
            bold = [f"**{text}**" if text.startswith(f"{result['chosen']}:") else text for text in found]
            table.append([name.removesuffix(".rates"), ", ".join(bold)])
    return table
