"""Runs run_clm.py for every setting of a grid, several at once, and makes a table and a plot of one figure.

    sweep.py grid.tsv --runs runs/ranks --figure eval_loss --train_file train.jsonl --do_train ...

Flags that sweep.py does not know go to every run. Started again, it keeps the runs that are complete.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clm.flags import build_parser as run_parser
from clm.grid import Setting, flags_of, name_of, plot, read_grid, read_scores, table, write_table

from examples.common.errors import UserError, run_main, warn
from examples.common.files import make_folder, read_json, write_json
from examples.common.help import Parser

PROGRAM = Path(__file__).with_name("run_clm.py")


class SweepParser(Parser):
    """Leaves in ``common`` the flags that it does not know, which must be those of run_clm.py."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, common = self.parse_known_args(args, namespace)
        run_parser().parse_args(common)
        found.common = common
        return found


def build_parser() -> SweepParser:
    """Parser of the sweep's own flags."""
    parser = SweepParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("grid", help="TSV: columns are flags, lines are runs; YAML: lists of values by flag")
    parser.add_argument("--runs", required=True, metavar="DIR", help="a folder for each run, table.tsv, .md, .png")
    parser.add_argument("--figure", default="eval_loss", metavar="NAME", help="score of metrics.json (eval_loss)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    common = args.common
    if args.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {args.jobs}")
    if taken := next((flag for flag in common if flag.partition("=")[0] == "--output_dir"), None):
        raise UserError(f"{taken}: every run has its folder in --runs")
    settings = read_grid(args.grid)
    for setting in settings:
        run_parser().parse_args(flags_of(setting))  # a wrong flag is better said before the first run than after it
    folder = make_folder(args.runs)
    check_same_flags(folder / "sweep.json", common)
    started: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, _interrupt)  # else the runs would outlive us, and a second start meet them
    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            codes = list(pool.map(lambda setting: run(setting, folder, common, started), settings))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.terminate()
            raise
    rows = table(settings, [read_scores(folder / name_of(setting)) for setting in settings], args.figure)
    write_table(folder / "table.tsv", rows)
    plot(folder / "table.png", rows, args.figure)
    print((folder / "table.md").read_text(encoding="utf-8"), end="", flush=True)
    failed = [name_of(setting) for setting, code in zip(settings, codes) if code]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(settings)} runs failed, first {failed[0]}: see {folder}/{failed[0]}.log"
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def check_same_flags(path: Path, common: Sequence[str]) -> None:
    """Refuses to add runs with other common flags to those that are there."""
    if path.is_file():
        before = read_json(path)
        if before != list(common):
            said = " ".join(map(str, before)) if isinstance(before, list) else "no list of flags"
            raise UserError(f"{path} says that the runs had {said}; give the same flags, or another --runs")
    write_json(path, list(common))


def run(setting: Setting, folder: Path, common: Sequence[str], started: list[subprocess.Popen[bytes]]) -> int:
    """Runs one setting, unless it is complete; returns the exit code. What it prints is in a log beside its folder."""
    name = name_of(setting)
    if read_scores(folder / name) is not None:
        print(f"{name}: complete", flush=True)
        return 0
    command = [sys.executable, str(PROGRAM), *common, *flags_of(setting), "--output_dir", str(folder / name)]
    print(f"{name}: started", flush=True)
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([*command, "--disable_tqdm", "true"], stdout=log, stderr=subprocess.STDOUT)
        started.append(process)
        code = process.wait()
    if code:
        lines = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        warn(f"{name}: {lines[-1] if lines else f'exit code {code}'}")
    return code


if __name__ == "__main__":
    run_main(main)
