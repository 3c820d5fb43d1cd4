"""Puts the files of the measurements into one, and draws the comparisons with other implementations.

    python scripts/bench/report.py runs/bench/parts/cpu-full/*.json --out runs/bench

FILE is what a program wrote with ``--json``, or a results.json of this program. The page of docs/benchmarks is written
by hand around the figures of its results.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import harness  # noqa: F401  (first: it makes the other folders importable)

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, make_folder

INK, QUIET, RULE, BAR, OLD = "#1c2024", "#565d67", "#d9dce0", "#b4400c", "#8a8f98"
KEYS = {"bench", "commit", "machine", "threads", "rows"}


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results.json and speed.png go")
    return parser


def main() -> None:
    """Reads, writes, draws."""
    args = build_parser().parse_args()
    records = [record for path in args.files for record in read_records(path)]
    folder = make_folder(args.out)
    with atomic_write(folder / "results.json") as stream:
        stream.write(as_text(records))
    draw(
        [
            row | {"of": record.get("version") or str(record["commit"])[:7]}
            for record in records
            for row in record["rows"]
        ],
        folder / "speed.png",
    )
    print(f"wrote {folder.resolve() / 'results.json'} and speed.png")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file.

    Raises:
        UserError: it is not one of ours.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        records = found.get("records", [found])
        for record in records:
            if missing := KEYS - record.keys():
                raise KeyError(", ".join(sorted(missing)))
            for row in record["rows"]:
                row["case"], row["quantity"], row["median"] * 1.0, row["low"] * 1.0, row["high"] * 1.0
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a file of results ({type(error).__name__}: {error})") from None
    return records


def as_text(records: list[dict[str, Any]]) -> str:
    """JSON with a line for each row."""
    parts = []
    for record in records:
        head = json.dumps({name: value for name, value in record.items() if name != "rows"}, ensure_ascii=False)
        rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in record["rows"])
        parts.append(f'{head[:-1]}, "rows": [\n{rows}\n ]}}')
    return '{"records": [\n ' + ",\n ".join(parts) + "\n]}\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the rows with a headline: how many times longer the other side takes; grey: older versions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = sorted((row for row in rows if row.get("headline")), key=lambda row: row["median"])
    if not shown:
        return
    newest = max(row["of"] for row in shown)
    figure, axes = plt.subplots(figsize=(10, 0.6 * len(shown) + 1.3), layout="constrained")
    for i, row in enumerate(shown):
        axes.barh(i, row["median"] - 1, left=1, color=BAR if row["of"] == newest else OLD, height=0.56, zorder=2)
        axes.plot([row["low"], row["high"]], [i, i], color=INK, linewidth=1.4, zorder=3)
        axes.text(row["high"] * 1.05, i, f"{row['median']:.3g}", va="center", color=INK, fontsize=11, weight="bold")
    peers = [row["quantity"].partition(", ")[2].partition(" / ")[0] for row in shown]
    labels = [f"{row['headline']}\nagainst {peer} (version {row['of']})" for row, peer in zip(shown, peers)]
    axes.set_yticks(range(len(shown)), labels, fontsize=9.5, color=INK)
    axes.set_xscale("log")
    axes.set_xlim(1, 1.9 * max(row["high"] for row in shown))
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= 1.5 * max(row["high"] for row in shown)]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks], color=QUIET)
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color=RULE, zorder=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    title = "Seconds of the other implementation / seconds of this one\n"
    title += "1: equally fast; black line: quartiles; grey: measured on an older version"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    with atomic_write(path, binary=True) as stream:
        figure.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    run_main(main)
