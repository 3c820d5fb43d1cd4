"""Puts several runs of the examples side by side: the settings that differ, their curves and their scores, in one page.

    python -m examples.common.compare runs/mine/seed110 runs/mine/seed111 --out compare.html

RUN is a folder that ``gpt2_ft.py`` or ``run_glue.py`` worked in, finished or not. Scores are those of its
``metrics.json`` and of every ``scores.json`` of the scorers (``--json``) in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, read_jsonl, read_lines
from examples.common.report import Line, escape, line_chart, page, series_colour, table

ABSENT = "-"
OUTPUTS = {"work_dir", "output_dir", "logging_dir", "overwrite_output_dir", "resume", "resume_from_checkpoint"}
RECORDED = ("began", "commit", "device", "finished", "peak_memory_bytes", "wall_seconds")
COUNTED = ("trainable_parameters", "total_parameters", "steps", "train_seconds", "best_valid_loss", "final_valid_loss")
CURVES = re.compile(r"(train|valid)_loss|eval_(?!loss|runtime|.*per_second|.*samples).*")
Points = list[tuple[float, float]]


@dataclass
class RunFolder:
    """What a run left.

    Attributes:
        settings: flags by name, as written in a table.
        facts: when, on what and how long it ran.
        curves: (step, value) by quantity.
        scores: by name; those of a folder inside the run begin with its path.
    """

    path: Path
    settings: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that one of our programs wrote.

    Raises:
        UserError: no JSON, or no object.
    """
    try:
        value = json.loads("\n".join(line for _, line in read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); was it written by hand?") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_log(path: Path) -> dict[str, Points]:
    """Curves of a ``log.jsonl`` of ``gpt2_ft.py``: ``train_loss`` and ``valid_loss`` in nats per token.

    Raises:
        UserError: names the line that is no row of a log.
    """
    if not path.exists() or path.stat().st_size == 0:
        return {}
    return curves_of(read_jsonl(path, keys=("step",)), path)


def curves_of(rows: Any, path: Path) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for number, row in rows:
        try:
            step = int(row["step"])
            for name in sorted(row.keys() - {"step", "epoch"}):
                curves.setdefault(name, []).append((step, float(row[name])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} line {number}: not a row of a log ({error})") from None
    return curves


def read_run(path: Path) -> RunFolder:
    """Everything of one run.

    Raises:
        UserError: no such folder, no run in it, or a damaged file.
    """
    if not path.is_dir():
        raise UserError(
            f"{path} is no folder; expected the work folder of gpt2_ft.py or the output folder of run_glue.py"
        )
    if not any((path / name).exists() for name in ("run.json", "metrics.json", "log.jsonl", "trainer_state.json")):
        raise UserError(f"{path} holds no run (none of run.json, metrics.json, log.jsonl, trainer_state.json)")
    run = RunFolder(path, curves=read_log(path / "log.jsonl"))
    record, metrics, state = (
        read_json(file) if (file := path / name).exists() else {}
        for name in ("run.json", "metrics.json", "trainer_state.json")
    )
    settings = metrics.get("settings") or flags_of(str(record.get("command", "")))
    run.settings = {name: str(value) for name, value in settings.items() if name not in OUTPUTS}
    run.settings |= {name: str(version) for name, version in (record.get("versions") or {}).items()}
    facts = {name: record[name] for name in RECORDED if name in record}
    facts |= {name: metrics[name] for name in COUNTED if metrics.get(name) is not None}
    run.facts = {name.removesuffix("_bytes"): written(name, value) for name, value in facts.items()}
    history = [row for row in state.get("log_history") or [] if isinstance(row, dict)]
    for name, points in curves_of(enumerate(numbers_only(history), start=1), path / "trainer_state.json").items():
        run.curves[{"loss": "train_loss", "eval_loss": "valid_loss"}.get(name, name)] = points
    run.scores = numbers(metrics.get("scores"))
    for file in sorted(path.rglob("scores.json")):
        inside = file.parent.relative_to(path)
        found = numbers(read_json(file).get("scores"))
        run.scores |= {str(inside / name): value for name, value in found.items()}
    return run


def numbers(values: Any) -> dict[str, float]:
    """The numbers of a JSON object, but for those that say how long an evaluation took."""
    costs = ("runtime", "per_second", "samples", "flos")
    pairs = values.items() if isinstance(values, dict) else ()
    return {n: v for n, v in pairs if isinstance(v, int | float) and not any(word in n for word in costs)}


def numbers_only(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the Trainer as rows of a log; the last, of the whole training, is no point of a curve."""
    return [{"step": row.get("step"), **numbers(row)} for row in history if "train_runtime" not in row]


def flags_of(command: str) -> dict[str, str]:
    """``--name value`` pairs of a command line; a flag without a value is ``yes``."""
    words, found = shlex.split(command), {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            after = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else "yes"
            found[name] = value if given else after
    return found


def written(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if name.endswith("seconds"):
        return f"{value:,.0f} s"
    if isinstance(value, float):
        return f"{value:.4g}"
    if name == "began":
        return f"{str(value)[:16].replace('T', ' ')} UTC"
    if name == "commit" and value:
        return f"{value[:12]}{' with changes' * value.endswith('-dirty')}"
    return f"{value:,}" if type(value) is int else str(value)


def shared_folder(paths: Sequence[Path]) -> Path:
    """The folder that all runs lie in."""
    return Path(os.path.commonpath([path.resolve().parent for path in paths]))


def differing(runs: Sequence[RunFolder]) -> list[str]:
    """Names of settings that are not the same in all runs, sorted."""
    every = {name for run in runs for name in run.settings}
    return sorted(name for name in every if len({run.settings.get(name) for run in runs}) > 1)


def compare_html(runs: Sequence[RunFolder]) -> str:
    """The page: scores, settings that differ, curves, facts."""
    folder = shared_folder([run.path for run in runs])
    names = [str(run.path.resolve().relative_to(folder)) for run in runs]
    colours = [series_colour(i) for i in range(len(runs))]

    def by_run(of_runs: Sequence[dict[str, str]], keys: Sequence[str], none: str) -> str:
        rows = [[key.replace("_", " "), *(values.get(key, ABSENT) for values in of_runs)] for key in keys]
        return table(["", *names], rows) if rows else f'<p class="note">{escape(none)}</p>'

    names_of_scores = list(dict.fromkeys(key for run in runs for key in run.scores))
    scores = [[name, *(score_text(run, key) for key in names_of_scores)] for name, run in zip(names, runs)]
    charts = "".join(compare_charts(runs, names))
    same = "None: all flags and versions are the same." if len(runs) > 1 else "One run: nothing to compare with."
    facts = list(dict.fromkeys(key for run in runs for key in run.facts))
    body = f"""<h1>{len(runs)} run{"s" * (len(runs) > 1)} side by side</h1>
<p class="lead">{escape(folder)}</p>
<h2>Scores</h2>{table(["", *names_of_scores], scores, colours) if names_of_scores else '<p class="note">None yet.</p>'}
<h2>Settings that differ</h2>{by_run([run.settings for run in runs], differing(runs), same)}
<h2>Curves</h2><div class="charts">{charts or '<p class="note">Nothing was logged.</p>'}</div>
<p class="note">A step is one batch. Losses with other label smoothing or masks are other quantities.</p>
<h2>Runs</h2>{by_run([run.facts for run in runs], facts, "No record.")}
<p class="note">Peak memory: on a CPU of the whole process, with its libraries; on a GPU of tensors alone.</p>"""
    return page("Runs side by side", body)


def compare_charts(runs: Sequence[RunFolder], names: Sequence[str]) -> list[str]:
    """A chart for each quantity that the runs logged, with a line for each run, as SVG."""
    quantities = [key for key in dict.fromkeys(key for run in runs for key in run.curves) if CURVES.fullmatch(key)]
    return [
        line_chart(
            key.replace("_", " "),
            [Line(name, series_colour(i), run.curves.get(key, [])) for i, (name, run) in enumerate(zip(names, runs))],
            "step",
            "loss in nats" if key.endswith("loss") else key,
        )
        for key in quantities
    ]


def score_text(run: RunFolder, key: str) -> str:
    return f"{run.scores[key]:.4g}" if key in run.scores else ABSENT


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.common.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("compare.html"), help="(default: compare.html)"
    )
    return parser


def main() -> None:
    """Reads the runs and writes the page."""
    args = build_parser().parse_args()
    text = compare_html([read_run(path) for path in args.runs])
    with atomic_write(args.out) as stream:
        stream.write(text)
    print(f"wrote {args.out.resolve()}")


if __name__ == "__main__":
    run_main(main)
