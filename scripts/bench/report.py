"""Turns the files of the programs into one page: results.json, README.md and plots.

    python scripts/bench/report.py PARTS --out DIR

PARTS holds ``layers.json``, ``beam.json`` and so on, as ``bench.sh`` leaves them. A ``notes.md`` in DIR, written by
hand, becomes the discussion of the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import harness  # noqa: F401  (makes gpt2 importable)
from harness.page import page
from harness.plots import growth_plot, plot_name, speed_plot
from harness.results import Growth, Record, growths, read_records, speeds

from examples.common.errors import run_main
from examples.common.files import atomic_write, make_folder, write_json

HEADLINE = "speed.png"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", type=Path, help="folder with the programs' JSON files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    records = read_records(args.parts)
    write_report(records, make_folder(args.out))
    print(f"wrote {args.out / 'README.md'}", flush=True)


def write_report(records: Sequence[Record], folder: Path) -> None:
    """Writes the three kinds of file; plots of an earlier run that have no rows any more are removed."""
    for old in [folder / HEADLINE, *folder.glob("growth_*.png")]:
        old.unlink(missing_ok=True)
    plots = draw(records, folder)
    notes = folder / "notes.md"
    discussion = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    programs = [
        asdict(record) | {"rows": [asdict(row) | {"met": row.met} for row in record.rows]} for record in records
    ]
    write_json(folder / "results.json", {"machine": records[0].machine, "programs": programs})
    with atomic_write(folder / "README.md") as stream:
        stream.write(page(records, plots=plots, notes=discussion))


def draw(records: Sequence[Record], folder: Path) -> list[tuple[str, str]]:
    """Draws what there are rows for; (file name, what it shows) of each plot."""
    drawn = []
    compared = speeds(records)
    if compared:
        first = records[0]
        subtitle = f"{first.machine['device']}, {first.threads} threads; medians"
        speed_plot(compared, folder / HEADLINE, subtitle=subtitle)
        drawn.append((HEADLINE, "How many times faster this code is than each other implementation"))
    by_file: dict[str, list[Growth]] = {}
    for growth in growths(records):
        by_file.setdefault(plot_name(growth), []).append(growth)
    for name, group in by_file.items():
        growth_plot(group, folder / name)
        drawn.append((name, f"{group[0].program}: cost over {group[0].axis}"))
    return drawn


if __name__ == "__main__":
    run_main(main)
