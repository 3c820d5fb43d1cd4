"""A grid of settings in one TSV or YAML file, its runs side by side, and what came of them as a table and a plot."""

from __future__ import annotations

import csv
import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clm.sources import read_rows
from examples.common.errors import UserError
from examples.common.files import atomic_write, read_json, read_lines

Setting = Mapping[str, str]  # flag without its dashes to value; an empty value leaves the flag out


def read_grid(path: str | Path) -> list[Setting]:
    """Settings of a ``.tsv``, whose columns are flags and whose lines are runs, or of a ``.yaml`` or ``.yml``, which
    has a list of values for each flag, of which every combination is a run.

    Raises:
        UserError: another kind of file or content, a flag of the sweep's own, or a run that comes twice.
    """
    path = Path(path)
    if path.suffix.lower() == ".tsv":
        found: list[Setting] = [{name: value.strip() for name, value in row.fields.items()} for row in read_rows(path)]
    elif path.suffix.lower() in (".yaml", ".yml"):
        found = _combinations(path)
    else:
        raise UserError(f"{path}: expected a grid that ends in .tsv, .yaml or .yml")
    if not found:
        raise UserError(f"{path}: a flag has an empty list of values; there is no run")
    if re.search("[\ud800-\udfff]", " ".join(text for setting in found for pair in setting.items() for text in pair)):
        raise UserError(f"{path}: has half of a surrogate pair, which is no text")
    for name in found[0]:
        if not re.fullmatch(r"[a-z]\w*", name) or name in ("output_dir", "overwrite_output_dir"):
            raise UserError(
                f"{path}: {name!r} cannot be a column; columns are flags without dashes, but not --output_dir"
            )
    names = [name_of(setting) for setting in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: two runs are called {twice}")
    return found


def name_of(setting: Setting) -> str:
    """Folder of a run: ``lora_r=8,seed=1``."""
    text = ",".join(f"{name}={value}" for name, value in setting.items() if value)
    return re.sub(r"[^\w=,.+-]+", "_", text)[:200] or "defaults"


def flags_of(setting: Setting) -> list[str]:
    """Words for a command line; a value with blanks gives several."""
    return [word for name, value in setting.items() if value for word in (f"--{name}", *value.split())]


def table(settings: Sequence[Setting], scores: Sequence[Mapping[str, Any] | None], figure: str) -> list[dict[str, Any]]:
    """A row for each setting, seeds put together: its columns, n, mean and standard deviation of the figure.

    Args:
        scores: of ``metrics.json`` of each run; None for one that has not ended.
    """
    groups: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for setting, found in zip(settings, scores, strict=True):
        key = tuple((name, value) for name, value in setting.items() if name != "seed")
        values = groups.setdefault(key, [])
        value = None if found is None else found.get(figure)
        if found is not None and figure not in found:
            raise UserError(f"--figure {figure}: the runs have {', '.join(sorted(found))}")
        if value is not None and not isinstance(value, int | float):
            raise UserError(f"--figure {figure}: a run of {name_of(setting)} has {value!r}; a number was expected")
        values += [float(value)] if value is not None else []
    return [
        {
            **dict(key),
            "n": len(values),
            figure: statistics.fmean(values) if values else math.nan,
            "sd": statistics.stdev(values) if len(values) > 1 else math.nan,
        }
        for key, values in groups.items()
    ]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``path`` as TSV, and the same as a table of Markdown beside it."""
    cells = [["" if isinstance(x, float) and math.isnan(x) else _text(x) for x in row.values()] for row in rows]
    with atomic_write(path) as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows([list(rows[0]), *cells])
    with atomic_write(path.with_suffix(".md")) as stream:
        lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
        stream.write("".join(f"| {' | '.join(line)} |\n" for line in lines))


def plot(path: Path, rows: Sequence[Mapping[str, Any]], figure: str) -> None:
    """Draws the figure over the first setting that is a number and differs, a line for each of the other settings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in rows[0] if name not in ("n", figure, "sd")]
    along = next((x for x in names if _is_number([r[x] for r in rows]) and len({r[x] for r in rows}) > 1), None)
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for number, row in enumerate(rows):
        label = ", ".join(f"{name} {row[name]}" for name in names if name != along)
        x = float(row[along]) if along is not None else float(number)
        if not math.isnan(row[figure]):
            lines.setdefault(label, []).append((x, row[figure], 0.0 if math.isnan(row["sd"]) else row["sd"]))
    canvas, axes = pyplot.subplots(figsize=(7, 4.5))
    for label, points in lines.items():
        places, means, deviations = zip(*sorted(points))
        axes.errorbar(places, means, yerr=deviations, marker="o", capsize=3, label=label)
    values = [x for points in lines.values() for x, _, _ in points]
    if along is not None and values and min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log", base=2)
    axes.set_xlabel(along or "run")
    axes.set_ylabel(figure)
    if any(lines):
        axes.legend(fontsize="small")
    canvas.tight_layout()
    with atomic_write(path, binary=True) as stream:
        canvas.savefig(stream, format="png", dpi=120)
    pyplot.close(canvas)


def read_scores(folder: Path) -> dict[str, Any] | None:
    """Scores of a run that is complete, else None."""
    try:
        content: dict[str, Any] = read_json(folder / "metrics.json")["scores"]
    except (UserError, OSError, KeyError, TypeError):
        return None
    return content if isinstance(content, dict) else None


def _combinations(path: Path) -> list[Setting]:
    import yaml

    try:
        content = yaml.safe_load("\n".join(line for _, line in read_lines(path)))
        if not isinstance(content, dict) or not content:
            raise UserError(f"{path}: expected flags with lists of values")
        lists = {str(name): value if isinstance(value, list) else [value] for name, value in content.items()}
        for name, values in lists.items():
            if any(isinstance(value, list | dict | set) for value in values):
                raise UserError(f"{path}: {name} has a list inside its list, or something else that is no single value")
        return [dict(zip(lists, map(_text, values))) for values in itertools.product(*lists.values())]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of dates and of very long integers
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None


def _is_number(values: Sequence[str]) -> bool:
    return all(re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", str(value)) for value in values)


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
