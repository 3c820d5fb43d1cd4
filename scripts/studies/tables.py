"""Puts the published figures of a study beside ours: results.md, results.json and report.html.

    python scripts/studies/tables.py swift runs/baseline/seed44 runs/improved/seed44 --output runs

RUN is a folder RECIPE/seedN; rows of which no run is given say "not run here".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.common.compare import compare_charts, read_json, read_run
from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, read_jsonl, read_lines, write_json
from examples.common.report import escape, page, table
from examples.common.statistics import Summary
from scripts.studies import swift
from scripts.studies.runs import (
    TEST_PROMPT,
    Recipe,
    by_recipe,
    check_swift_counts,
    first_command,
    other_base,
    read_study_run,
)

PUBLISHED = Path(__file__).with_name("published.json")
STUDIES = ("swift", "cs224n", "cs7643")
NOT_RUN = "not run here"
SAMPLES = 8
EMPTY = "(nothing)"
ABSENT = "-"
TRIAL = "A trial ({why}); no row that needs the whole data and GPT-2's weights was run."


@dataclass(frozen=True)
class Table:
    """A heading, columns, rows of texts, and a sentence below."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders RECIPE/seedN")
    parser.add_argument("--size", choices=["sm", "md", "lg"], default="sm", help="GPT-2 that ran (default: sm)")
    parser.add_argument("--options", default="", metavar="WORDS", help="of the study's script, for the commands")
    parser.add_argument(
        "--apart", default="", metavar="WHY", help="why our figures compare with nothing, such as generated data"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the files go (default: print alone)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    published = read_json(PUBLISHED)[args.study]
    recipes = by_recipe([read_study_run(folder) for folder in args.runs])
    if args.study == "swift":
        check_swift_counts(recipes, args.output or Path())
    if base := other_base(recipes, args.size):
        args.apart = ", ".join(filter(None, (args.apart, f"base {base}")))
    known = {row["recipe"]: row for found in published["tables"] for row in found["rows"] if "recipe" in row}
    for name, recipe in recipes.items():
        if name not in known:
            raise UserError(f"{recipe.runs[0].folder}: {name} is no recipe of {args.study}: {', '.join(known)}")
        trained = known[name].get("trained")
        if trained not in (None, recipe.trained) and not args.apart:
            raise UserError(
                f"{name}: {recipe.trained:,} parameters were trained, published are {trained:,}: another base?"
            )
    comparable = {} if args.apart else recipes
    tables = [published_table(found, comparable, args) for found in published["tables"]]
    if args.study == "swift":
        tables += swift_tables(published, comparable)
    if args.apart:
        tables += trial_tables(published["tables"], recipes, args.apart)
    text = markdown(published, tables, args.apart)
    print(text, end="")
    if args.output:
        with atomic_write(args.output / "results.md") as stream:
            stream.write(text)
        write_json(args.output / "results.json", as_json(args, recipes))
        with atomic_write(args.output / "report.html") as stream:
            stream.write(html(published, tables, recipes, args))


def published_table(found: dict[str, Any], recipes: dict[str, Recipe], args: argparse.Namespace) -> Table:
    """A published table, with a line of ours below each row that a recipe belongs to."""
    figures, rows = figures_of(found, recipes), []
    for row in found["rows"]:
        numbers = [figure_text(row["figures"].get(name), found["digits"]) for name in figures]
        rows.append([row["name"], "published", row.get("parameters") or ABSENT, *numbers, ""])
        if "recipe" not in row:
            continue
        recipe = recipes.get(row["recipe"]) if row["size"] == args.size else None
        of_size = "" if args.study == "swift" else f" --size {row['size']}"
        options = f" {args.options}" if args.options else ""
        command = f"`bash scripts/study_{args.study}.sh{options}{of_size} --recipes {row['recipe']}`"
        if recipe is None:
            rows.append(["", NOT_RUN, ABSENT, *[ABSENT] * len(figures), command])
        else:
            rows.append(["", *our_cells(recipe, figures, found["digits"]), command])
    note = "Ours: mean ± standard deviation over n seeds (n - 1). The commands take --data-dir and --base."
    note += judge_note(figures, recipes)
    return Table(found["title"], ["", "", "trained", *figures, "command"], rows, note)


def our_cells(recipe: Recipe, figures: Sequence[str], digits: int) -> list[str]:
    seeds = ", ".join(str(run.seed) for run in recipe.runs)
    cells = [summary_text(recipe.summaries.get(name), digits) for name in figures]
    return [f"ours, n = {len(recipe.runs)} (seed {seeds})", f"{recipe.trained:,}", *cells]


def figure_text(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def summary_text(summary: Summary | None, digits: int) -> str:
    if summary is None:
        return ABSENT
    sd = "" if summary.sd is None else f" ± {summary.sd:.{digits}f}"
    return f"{summary.mean:.{digits}f}{sd}"


def figures_of(found: dict[str, Any], recipes: dict[str, Recipe]) -> list[str]:
    """Columns of a table: the published ones, and the accuracy with the other prompt of Quora where a run has it."""
    names = {row.get("recipe") for row in found["rows"]}
    with_other = any(TEST_PROMPT in recipe.summaries for name, recipe in recipes.items() if name in names)
    return [*found["figures"], *([TEST_PROMPT] if with_other else [])]


def judge_note(figures: Sequence[str], recipes: dict[str, Recipe]) -> str:
    """Who judged, behind a table with such scores of ours; else nothing."""
    judges = sorted({run.judge for recipe in recipes.values() for run in recipe.runs if run.judge})
    if "judge" not in figures or not judges:
        return ""
    return f" Our judge: {', '.join(judges)}; scores of different judges, or days, do not compare."


def trial_tables(published: Sequence[dict[str, Any]], recipes: dict[str, Recipe], why: str) -> list[Table]:
    """Our runs where they compare with nothing, apart from the published figures."""
    tables = []
    for found in published:
        figures = figures_of(found, recipes)
        names = dict.fromkeys(row["recipe"] for row in found["rows"] if row.get("recipe") in recipes)
        rows = [[name, *our_cells(recipes[name], figures, found["digits"])] for name in names]
        if rows:
            title = f"Trial: {found['title'].partition(':')[0]}"
            note = f"These figures show that the steps work and compare with nothing: {why}."
            note += judge_note(figures, recipes)
            tables.append(Table(title, ["recipe", "", "trained", *figures], rows, note))
    return tables


def swift_tables(published: dict[str, Any], recipes: dict[str, Recipe]) -> list[Table]:
    """Table 4 and the claim, of the published figures and of ours where they are there."""
    figures = {row["name"]: row["figures"] for row in published["tables"][0]["rows"]}
    low, high, improved = (figures[name] for name in (swift.TGEN, swift.GOAL_MODEL, swift.IMPROVED))
    printed = published["relative_improvement"]
    others = {row["over"]: next(v for k, v in figures.items() if k.startswith(row["over"])) for row in printed}
    metrics = list(low)
    rows = swift.improvement_rows(improved, others, printed)
    claim = swift.claim_rows("published", improved, low, high)
    ours = recipes.get("improved")
    if ours is not None:
        means = {name: ours.summaries[name].mean for name in metrics}
        rows += swift.improvement_rows(means, others)
        claim += swift.claim_rows("ours", means, low, high)
    else:
        claim.append(["ours", NOT_RUN, *[ABSENT] * len(metrics)])
    asked = [f"{value:.4g}" for value in swift.goal(low, high).values()]
    return [
        Table(
            "Table 4: relative improvement of GPT-2 S improved, in %",
            ["over", "", *metrics, "average"],
            rows,
            "Recomputed: from the figures of Table 3 as printed.",
        ),
        Table(
            'The claim "80 % of the difference" between TGen and GPT-2 M: share reached (80 % or more?)',
            ["", *metrics, "mean"],
            [["needed for 80 %", *asked, ABSENT], *claim],
        ),
    ]


def markdown(published: dict[str, Any], tables: Sequence[Table], why: str) -> str:
    lines = [f"# {published['title']}", "", f"Published: {published['source']}.", ""]
    if why:
        lines += [TRIAL.format(why=why), ""]
    for one in tables:
        rule = ["---", *["---:"] * (len(one.head) - 1)]
        lines += [f"## {one.title}", "", *(f"| {' | '.join(row)} |" for row in (one.head, rule, *one.rows)), ""]
        lines += [one.note, ""] if one.note else []
    return "\n".join(lines)


def html(
    published: dict[str, Any], tables: Sequence[Table], recipes: dict[str, Recipe], args: argparse.Namespace
) -> str:
    """The page: tables, curves, samples, commands; it stands alone."""
    runs = [run for recipe in recipes.values() for run in recipe.runs]
    body = [f"<h1>{escape(published['title'])}</h1>", f'<p class="lead">Published: {escape(published["source"])}.</p>']
    if args.apart:
        body.append(f'<p class="lead">{escape(TRIAL.format(why=args.apart))}</p>')
    for one in tables:
        rows: list[list[str]] = []
        for name, *cells in one.rows:  # each row has its name: on a narrow screen it stands alone
            rows.append([name or rows[-1][0].partition(":")[0], *(cell.replace("`", "") for cell in cells)])
        body.append(f"<h2>{escape(one.title)}</h2>{table(one.head, rows)}")
        body.append(f'<p class="note">{escape(one.note)}</p>' if one.note else "")
    if runs:
        names = [f"{run.recipe}, seed {run.seed}" for run in runs]
        if charts := compare_charts([read_run(run.folder) for run in runs], names):
            body.append(f'<h2>Curves</h2><div class="charts">{"".join(charts)}</div>')
        for recipe in recipes.values():
            body.append(samples_html(recipe))
        commands = "\n".join(first_command(recipe) for recipe in recipes.values())
        body.append(f"<h2>Commands of the first runs</h2><pre>{escape(commands)}</pre>")
    return page(published["title"], "\n".join(body))


def samples_html(recipe: Recipe) -> str:
    """Texts of the first run, evenly spaced over the test set, so that nobody chose them by their result."""
    run = recipe.runs[0]
    texts: list[str] = []
    if (path := run.folder / "last" / "hypotheses.txt").exists():
        texts = [line for _, line in read_lines(path)]
    elif (path := run.folder / "generated.jsonl").exists():
        texts = [str(row["generated"]) for _, row in read_jsonl(path, keys=("generated",))]
    if not texts:
        return ""
    count = min(SAMPLES, len(texts))
    items = "".join(f"<li>{escape(texts[i * len(texts) // count].strip() or EMPTY)}</li>" for i in range(count))
    return f"<h2>Texts of {escape(run.recipe)}, seed {run.seed}</h2><ul>{items}</ul>"


def as_json(args: argparse.Namespace, recipes: dict[str, Recipe]) -> dict[str, Any]:
    """All digits."""
    return {
        "study": args.study,
        "apart": args.apart,
        "options": args.options,
        "size": args.size,
        "recipes": {
            name: {
                "trained": recipe.trained,
                "runs": [{"folder": str(run.folder), "seed": run.seed, "command": run.command} for run in recipe.runs],
                "figures": {
                    figure: {**asdict(summary), "n": summary.n} for figure, summary in recipe.summaries.items()
                },
            }
            for name, recipe in recipes.items()
        },
    }


if __name__ == "__main__":
    run_main(main)
