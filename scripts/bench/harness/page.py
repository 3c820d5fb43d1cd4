"""The Markdown page of the results: targets first, then a table for each program, and how all of it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.results import PROGRAMS, Record
from harness.rows import Row
from harness.timing import Ratio

TITLES = {
    "layers": "Layers",
    "train_step": "Training",
    "beam": "Decoding",
    "inference": "Inference",
    "scoring": "Scoring",
    "checkpoint": "Checkpoints and start-up",
}
METHOD = """\
Alternatives run in one process in turns, and the first place goes round; each round gives one ratio. A row shows the
median of the ratios and in brackets their quartiles with the number of rounds; a row without brackets was counted
(FLOPs, bytes) or measured once. Peak memory is that of a process of its own. Weights are random, equal on both sides,
of GPT-2's sizes; lengths are those of the data set. Seconds belong to this machine, ratios travel better."""


def page(records: Sequence[Record], *, plots: Sequence[tuple[str, str]] = (), notes: str = "") -> str:
    """The whole page.

    Args:
        records: of the programs that ran.
        plots: (file name, what it shows), the headline first.
        notes: discussion written by hand, Markdown.
    """
    parts = ["# Benchmarks", "", f"{summary(records)}", "", "## Targets", "", *targets_table(records), ""]
    parts += [f"![{alt}]({name})\n" for name, alt in plots]
    if notes.strip():
        parts += ["## Discussion", "", notes.strip(), ""]
    present = {record.name: record for record in records}
    for name in PROGRAMS:
        parts += [f"## {TITLES[name]}", ""]
        record = present.get(name)
        parts += [f"`{name}.py` left no results in this run."] if record is None else program_table(record)
        parts.append("")
    return "\n".join([*parts, "## Machine and method", "", *machine_lines(records), "", METHOD, ""])


def summary(records: Sequence[Record]) -> str:
    """One sentence: how many targets were met, on what."""
    verdicts = [row.met for record in records for row in record.rows if row.met is not None]
    first = records[0]
    missing = [f"`{name}.py`" for name in PROGRAMS if name not in {record.name for record in records}]
    text = f"{sum(verdicts)} of {len(verdicts)} targets met on {first.machine['device']}, {first.threads} threads."
    return text + (f" No results from {', '.join(missing)}." if missing else "")


def targets_table(records: Iterable[Record]) -> list[str]:
    """A line for each row that has a target."""
    rows = [row for record in records for row in record.rows if row.target]
    if not rows:
        return ["None of the rows has a target."]
    cells = [
        (row.case, row.quantity, row.target.replace("<=", "≤").replace(">=", "≥"), number(row.ratio), verdict(row))
        for row in rows
    ]
    return table(("case", "quantity", "target", "measured", ""), cells)


def program_table(record: Record) -> list[str]:
    """The command of a program and all its rows, folded up."""
    cells = [(row.case, row.quantity, number(row.ratio), row.note) for row in record.rows]
    rows = table(("case", "quantity", "median (quartiles, rounds)", "note"), cells)
    folded = ["<details>", f"<summary>{len(cells)} rows</summary>", "", *rows, "", "</details>"]
    return ["```bash", record.command, "```", "", *folded]


def machine_lines(records: Sequence[Record]) -> list[str]:
    """Device, versions, measured peak; and when, at which commit and beside what other load each program ran."""
    machine = records[0].machine
    peaks = ", ".join(f"{rate / 1e9:,.0f} in {dtype}" for dtype, rate in machine["matmul_flops_per_second"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version is not None)
    lines = [
        f"- {machine['device']}, {machine['cores']} cores, {records[0].threads} threads used",
        f"- square matrix products: {peaks} GFLOP/s",
        f"- Python {machine['python']}, {versions}",
        "",
    ]
    cells = [
        (f"`{record.name}.py`", record.began, f"`{(record.commit or 'unknown')[:12]}`{dirty(record.commit)}",
         f"{record.load_before:.2f}")
        for record in records
    ]  # fmt: skip
    return [*lines, *table(("program", "began", "commit", "load average before"), cells)]


def dirty(commit: str | None) -> str:
    return " with changes" if commit is not None and commit.endswith("-dirty") else ""


def number(ratio: Ratio) -> str:
    """``1.12 (1.08 to 1.19, n=7)``; a counted value alone."""
    if ratio.rounds == 1:
        return figure(ratio.median)
    return f"{figure(ratio.median)} ({figure(ratio.low)} to {figure(ratio.high)}, n={ratio.rounds})"


def figure(value: float) -> str:
    """Three decimals under 10, fewer above; large values with commas."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size < 0.01:
        return f"{value:.3g}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def verdict(row: Row) -> str:
    return "met" if row.met else "**missed**"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown; a bar in a cell is escaped."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
