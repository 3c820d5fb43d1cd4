"""Writes the tables and plots of docs/replication.md from the result files alone.

    python scripts/replication/page.py docs/replication/results --page docs/replication.md

What stands between two markers of the page is replaced; the words around it are written by hand.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, make_folder, read_json, read_text
from examples.common.statistics import summarise

Results = dict[str, dict[str, Any]]  # by name, such as e2e/lora-qv.seed0
MAIN = ("zero-shot", "zero-shot-chat", "top2", "lora-qv", "lora-all", "full")
RANKS = (1, 2, 4, 8, 16, 64)
TARGETS = ("q", "k", "v", "o", "qv", "qkvo")
ROUNDS = 2_000  # of a bootstrap
SCALES = {"BLEU": 100, "METEOR": 100, "ROUGE_L": 100, "NIST": 1, "CIDEr": 1}


def read_results(folder: Path) -> Results:
    """All result files of a folder."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        result = read_json(path)
        if "run" not in result:
            raise UserError(f"{path} is no result of replicate.sh")
        found[result["run"]] = result
    return found


def of_row(results: Results, row: str) -> list[dict[str, Any]]:
    """The results of a row's seeds."""
    return [result for name, result in results.items() if re.fullmatch(rf"e2e/{row}\.seed\d+", name)]


def shown(values: Sequence[float], digits: int) -> str:
    """Mean, with the standard deviation where there are several."""
    if not values:
        return "–"
    found = summarise(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.sd:.{digits}f}" if found.sd is not None else "")


def score(result: dict[str, Any], name: str) -> float:
    return SCALES[name] * float(result["scores"][name])


def main_table(results: Results) -> list[list[str]]:
    """Methods: scores, slot errors, costs."""
    header = ["run", "n", "trained", "rate", *SCALES, "slot errors, %", "CPU s", "memory, GB", "result, MB"]
    rows = [header]
    for row in MAIN:
        runs = of_row(results, row)
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
                *(shown([score(run, name) for run in runs], 1 if SCALES[name] == 100 else 2) for name in SCALES),
                shown([100 * run["slots"]["slot_error_rate"] for run in runs], 1),
                f"{statistics.fmean(_cpu(run, 'train') for run in runs):.0f}" if trained else "0",
                f"{max(run['peak_memory_bytes'] for run in runs) / 1e9:.1f}" if trained else "–",
                f"{first['result_bytes'] / 1e6:.1f}" if trained else "0",
            ]
        )
    return rows


def _cpu(result: dict[str, Any], step: str) -> float:
    return sum(part["cpu_seconds"] for part in result["steps"] if part["step"] == step)


def sweep_table(results: Results, rows: Sequence[str], label: str) -> list[list[str]]:
    """Ranks, or targets at one budget: validation loss, BLEU, slot errors."""
    table = [[label, "trained", "validation loss", "BLEU", "ROUGE_L", "slot errors, %"]]
    for row in rows:
        for run in of_row(results, row):
            figures = [f"{score(run, name):.1f}" for name in ("BLEU", "ROUGE_L")]
            errors = f"{100 * run['slots']['slot_error_rate']:.1f}"
            loss = f"{run['valid_losses'][-1][1]:.3f}"
            table.append([row, f"{run['parameters']['trained']:,}", loss, *figures, errors])
    return table


def rates_table(results: Results) -> list[list[str]]:
    """Every candidate's loss on held-out training rows, the chosen one bold."""
    table = [["run", "loss by learning rate, on held-out training rows"]]
    for name, result in results.items():
        if name.endswith(".rates"):
            found = [f"{rate}: {loss:.4f}" for rate, loss in result["losses"].items()]
            bold = [f"**{text}**" if text.startswith(f"{result['chosen']}:") else text for text in found]
            table.append([name.removesuffix(".rates"), ", ".join(bold)])
    return table


def interval(results: Results, a: str, b: str, figure: str = "ROUGE_L") -> tuple[float, float, float] | None:
    """Mean of a - b over texts and its 95 % interval by a paired bootstrap over texts, and over seeds where there are
    several; None where one of them has no result.

    Args:
        figure: of each text: ``ROUGE_L`` (in points), or ``slots``, its number of slot errors.
    """
    sides = [[of_text(run, figure) for run in of_row(results, row)] for row in (a, b)]
    if not all(sides):
        return None
    random = np.random.default_rng(0)
    values = [np.stack(side) for side in sides]  # (seeds, texts)
    n_texts = values[0].shape[1]
    drawn = np.empty(ROUNDS)
    for number in range(ROUNDS):
        texts = random.integers(n_texts, size=n_texts)
        means = [side[random.integers(len(side), size=len(side))][:, texts].mean() for side in values]
        drawn[number] = means[0] - means[1]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(values[0].mean() - values[1].mean()), float(low), float(high)


def of_text(run: dict[str, Any], figure: str) -> np.ndarray:
    """A figure of each text of a run."""
    if figure == "slots":
        return np.sum([np.array(run["items"][kind].split(), float) for kind in ("missing", "wrong", "added")], axis=0)
    return SCALES[figure] * np.array(run["items"][figure].split(), float)


PAIRS = (
    *(("lora-qv", "full"), ("lora-all", "full"), ("lora-qv", "lora-all"), ("lora-qv", "top2"), ("top2", "full")),
    *(("r1", "r8"), ("r4", "r8"), ("r4", "r64"), ("r64", "r8")),
    *(("qv", "q"), ("qv", "k"), ("qv", "v"), ("qv", "o"), ("qkvo", "qv")),
)


def comparison_table(results: Results) -> list[list[str]]:
    """Pairs that the claims rest on."""
    table = [["difference", "ROUGE-L, points", "slot errors a text"]]
    for a, b in PAIRS:
        found = [interval(results, a, b, figure) for figure in ("ROUGE_L", "slots")]
        if found[0] is not None and found[1] is not None:
            cells = [f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" for mean, low, high in filter(None, found)]
            table.append([f"{a} − {b}", *cells])
    return table


NEAR = 1.0  # points of ROUGE-L that do not count as worse
CLAIMS = (
    ("LoRA performs on par with or better than full fine-tuning", "Hu et al., section 5", "near", "lora-qv", "full"),
    ("the same with LoRA on all linear layers", "Swift; CS7643", "near", "lora-all", "full"),
    ("LoRA beats fine-tuning of the last layers alone", "Hu et al., Table 3", "above", "lora-qv", "top2"),
    ("a rank of 1 is nearly enough on query and value", "Hu et al., Table 6", "near", "r1", "r8"),
    ("a rank of 4 is as good as 64", "Hu et al., Table 6", "near", "r4", "r64"),
    ("larger ranks do not help", "CS224N", "near", "r8", "r64"),
    ("query and value beat query alone at one budget", "Hu et al., Table 5", "above", "qv", "q"),
    ("query and value beat key alone at one budget", "Hu et al., Table 5", "above", "qv", "k"),
    ("query and value are as good as all four at one budget", "Hu et al., Table 5", "near", "qv", "qkvo"),
    ("wider LoRA (all linear layers) is better than query and value", "Swift, Table 3", "above", "lora-all", "lora-qv"),
)


def claims_table(results: Results) -> list[list[str]]:
    """Each claim with its verdict: ``near`` is held where the interval lies above -NEAR, ``above`` where above 0."""
    table = [["claim", "from", "here: ROUGE-L, points", "verdict"]]
    for text, source, kind, a, b in CLAIMS:
        found = interval(results, a, b)
        if found is None:
            table.append([text, source, f"{a} − {b}", "not run yet"])
            continue
        mean, low, high = found
        margin = -NEAR if kind == "near" else 0.0
        verdict = "held" if low > margin else "not held" if high < margin else "undecided"
        table.append([text, source, f"{a} − {b}: {mean:+.2f} ({low:+.2f} to {high:+.2f})", f"**{verdict}**"])
    full, lora = of_row(results, "full"), of_row(results, "lora-qv")
    if full and lora:
        for text, source, ratio in (
            ("less memory in training", "Hu et al., section 4.2", lambda run: run["peak_memory_bytes"]),
            ("a result of a small part of the size", "Hu et al., section 4.2", lambda run: run["result_bytes"]),
            ("faster training", "Hu et al., section 4.2", lambda run: _cpu(run, "train")),
        ):
            share = statistics.fmean(map(ratio, lora)) / statistics.fmean(map(ratio, full))
            verdict = "held" if share < 0.95 else "not held"
            table.append([text, source, f"lora-qv / full: {share:.3g}", f"**{verdict}**"])
    return table


def sentences_table(results: Results, shown_texts: int = 4) -> list[list[str]]:
    """The same inputs, written by each method."""
    table = [["run", *(f"text {number + 1}" for number in range(shown_texts))]]
    for row in MAIN:
        for run in of_row(results, row)[:1]:
            texts = [" ".join(text.split()).replace("|", "/")[:240] for text in run["texts"][2::5][:shown_texts]]
            table.append([row, *texts])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    header, *rows = table
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, Callable[[Results], list[list[str]]]] = {
    "e2e": main_table,
    "ranks": lambda results: sweep_table(results, [f"r{r}" for r in RANKS], "rank"),
    "targets": lambda results: sweep_table(results, TARGETS, "targets"),
    "rates": rates_table,
    "comparisons": comparison_table,
    "claims": claims_table,
    "sentences": sentences_table,
}


def fill(page: str, results: Results) -> str:
    """The page with its tables made anew.

    Raises:
        UserError: it lacks the place of one.
    """
    for name, make in TABLES.items():
        pattern = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", flags=re.DOTALL)
        if not pattern.search(page):
            raise UserError(f"the page has no <!-- {name} --> and <!-- /{name} -->")
        table = make(results)
        text = markdown(table) if len(table) > 1 else "Not run yet.\n"
        page = pattern.sub(lambda _: text, page)  # noqa: B023
    return page


def draw(results: Results, folder: Path) -> None:
    """Score against trained parameters, score against rank, and validation losses."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    canvas, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4))
    for row in MAIN:
        runs = [run for run in of_row(results, row) if "parameters" in run]
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
            steps, losses = zip(*runs[0]["valid_losses"])
            right.plot(steps, losses, label=row)
    left.set(xscale="log", xlabel="trained parameters", ylabel="BLEU (mean; lowest to highest seed)")
    points = [(r, score(run, "BLEU")) for r in RANKS for run in of_row(results, f"r{r}")]
    if points:
        middle.plot(*zip(*points), marker="o")
    middle.set_xscale("log", base=2)
    middle.set(xlabel="rank of q and v, 300 steps, one seed", ylabel="BLEU")
    right.set(xlabel="step", ylabel="validation loss, nats a token (seed 0)")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    canvas.tight_layout()
    with atomic_write(folder / "e2e.png", binary=True) as stream:
        canvas.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(canvas)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="DIR", help="what replicate.sh left")
    parser.add_argument("--page", type=Path, required=True, metavar="FILE", help="page whose tables are made anew")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    results = read_results(args.results)
    page = fill(read_text(args.page), results)
    with atomic_write(args.page) as stream:
        stream.write(page)
    draw(results, make_folder(args.page.parent / "replication"))
    print(f"wrote {args.page.resolve()} from {len(results)} results", flush=True)


if __name__ == "__main__":
    run_main(main)
