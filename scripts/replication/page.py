"""Writes the tables and plots of docs/replication.md from the result files alone.

    python scripts/replication/page.py docs/replication/results --page docs/replication.md

What stands between two markers of the page is replaced; the words around it are written by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import e2e_tables
import glue_tables
import section7_tables
import studies_tables
from claims import claims_table
from compare import Results, Table, rates_table, read_results

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, make_folder, read_text

TABLES: dict[str, Callable[[Results], Table]] = {
    "claims": claims_table,
    "e2e": e2e_tables.main_table,
    "rates": partial(rates_table, block="e2e"),
    "comparisons": e2e_tables.comparison_table,
    "ranks": partial(e2e_tables.sweep_table, rows=[f"r{r}" for r in e2e_tables.RANKS], label="rank"),
    "targets": partial(e2e_tables.sweep_table, rows=e2e_tables.TARGETS, label="targets"),
    "sentences": e2e_tables.sentences_table,
    "glue": glue_tables.main_table,
    "glue_rates": partial(rates_table, block="glue"),
    "glue_comparisons": glue_tables.comparison_table,
    "glue_ranks": glue_tables.ranks_table,
    "studies": studies_tables.main_table,
    "studies_comparisons": studies_tables.comparison_table,
    "studies_rates": partial(rates_table, block="studies"),
    "similarity": section7_tables.similarity_table,
    "amplification": section7_tables.amplification_table,
}
PLOTS = {"e2e": e2e_tables.draw, "glue": glue_tables.draw, "section7": section7_tables.draw}


def markdown(table: Sequence[Sequence[str]]) -> str:
    header, *rows = table
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
    """One picture for each block that has results."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    for name, draw_on in PLOTS.items():
        if not any(run.startswith(f"{name}/") for run in results):
            continue
        canvas = pyplot.figure(figsize=(13, 4), layout="constrained")
        draw_on(results, canvas)
        for plot in canvas.axes:
            if plot.get_legend_handles_labels()[0]:
                plot.legend(fontsize="small")
        with atomic_write(folder / f"{name}.png", binary=True) as stream:
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
