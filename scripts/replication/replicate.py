"""Makes the results that docs/replication.md reports, run by run: real weights, real data, one file for each run.

    replicate.py --models DIR [--only 'e2e/lora-*'] [--jobs 2] [--list]

A run is a row of runs.tsv with one of its seeds. It is complete when its file is in --results; stopped and started
again, the queue goes on where it was, and several queues share the work.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import e2e_runs
import glue_runs
import section7_runs
import studies_runs
from torch.backends.cpu import get_cpu_capability

from examples.common.errors import UserError, run_main, warn
from examples.common.files import make_folder, read_json, write_json
from examples.common.help import HelpFormatter
from examples.common.lock import InUseError, locked
from examples.common.record import git_commit
from examples.common.report import processor

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path(__file__).with_name("runs.tsv")
BLOCKS = {"e2e": e2e_runs, "glue": glue_runs, "studies": studies_runs, "section7": section7_runs}


@dataclass(frozen=True)
class Run:
    """A row of the table with one of its seeds. ``rates``: candidates; or of which other row the chosen one is."""

    block: str
    run: str
    seed: int
    rates: tuple[str, ...]
    rates_of: str
    steps: int
    train: tuple[str, ...]
    generate: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.block}/{self.run}.seed{self.seed}"


@dataclass(frozen=True)
class Place:
    """Folders of the queue: where it works, what it leaves, what it reads."""

    work: Path
    results: Path
    models: Path
    data: Path
    commit: bool

    def step(self, name: str, folder: Path, *words: object) -> dict[str, Any]:
        """Runs a program of this repository once, its output in a log of ``folder``; its command and cost in seconds.

        Raises:
            UserError: it failed.
        """
        done, log = folder / f"{name}.done.json", folder / f"{name}.log"
        command = [sys.executable, *map(str, words)]
        shown = self.shown(command[1:])
        found: dict[str, Any] = read_json(done) if done.exists() else {}
        if found.get("command") == shown:
            return found
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        with log.open("ab") as stream:
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if code:
            raise UserError(f"{name} ended with {code}: see {log}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        wall = time.perf_counter() - began
        costs = {"cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1)}
        found = {"step": name, "command": shown, **costs}
        write_json(done, found)
        return found

    def shown(self, words: Sequence[str]) -> str:
        """A command with the folders of a reader instead of ours."""
        text = shlex.join(["python", *words])
        for folder, name in ((self.work, "WORK"), (self.models, "MODELS"), (self.data, "DATA")):
            text = text.replace(str(folder), name)
        return text.replace(f"{ROOT}/", "")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--models", type=Path, default=ROOT / "models", metavar="DIR", help="what get_small_models.sh made")
    shared = Path(os.environ.get("LORA_SHARED", ROOT.parent / "shared"))
    add("--data", type=Path, default=shared / "data", metavar="DIR", help="folder with e2e/ and others")
    add("--runs", type=Path, default=RUNS, metavar="FILE", help="table of runs")
    add("--work", type=Path, default=ROOT / "runs" / "replication", metavar="DIR", help="checkpoints and logs")
    add("--results", type=Path, default=ROOT / "docs" / "replication" / "results", metavar="DIR", help="result files")
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="runs by name, such as 'e2e/r*.seed0'")
    add("--jobs", type=int, default=1, metavar="N", help="runs at once, each with one thread (default: 1)")
    add("--commit", action="store_true", help="commit each result as it comes")
    add("--list", action="store_true", help="only say which runs are complete")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    runs = [run for run in read_runs(args.runs) if any(fnmatch.fnmatch(run.name, pattern) for pattern in args.only)]
    if not runs:
        raise UserError(f"--only {' '.join(args.only)}: no run has such a name; --list shows all")
    work, results, models, data = (path.resolve() for path in (args.work, args.results, args.models, args.data))
    place = Place(work, results, models, data, args.commit)
    if args.list:
        for run in runs:
            print(f"{'complete' if result_path(place, run.name).exists() else 'open':9}{run.name}")
        return
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # subprocess.run then ends its program
    others = [subprocess.Popen([sys.executable, *sys.argv, "--jobs", "1"]) for _ in range(args.jobs - 1)]
    try:
        failed = [run.name for run in runs if not attempt(place, run)]
        codes = [process.wait() for process in others]
    finally:
        for process in others:
            process.terminate()
    if failed or any(codes):
        raise UserError(f"not complete: {', '.join(failed) or 'see above'}")


def read_runs(path: Path) -> list[Run]:
    """All runs of the table, in its order: every row's first seed before the second ones, what compares runs last."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    found = []
    for row in rows:
        rates_of = row["rates"].removeprefix("as ") if row["rates"].startswith("as ") else ""
        rates = () if rates_of or row["rates"] == "-" else tuple(row["rates"].split())
        for seed in row["seeds"].split():
            words = (tuple(shlex.split(row[name])) for name in ("train", "generate"))
            found.append(Run(row["block"], row["run"], int(seed), rates, rates_of, int(row["steps"]), *words))
    return sorted(found, key=lambda run: (run.block == "section7", run.seed))


def result_path(place: Place, name: str) -> Path:
    return place.results / f"{name}.json"


def attempt(place: Place, run: Run) -> bool:
    """Makes the result of a run unless it is there, or another queue is at it; False where it failed."""
    if result_path(place, run.name).exists():
        return True
    folder = make_folder(place.work / run.name)
    try:
        with locked(folder / "queue.lock"):
            print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
            rate = chosen_rate(place, run)
            finish(place, run.name, BLOCKS[run.block].make(place, run, folder, rate))
    except InUseError:
        print(f"{run.name}: another queue is at it", flush=True)
    except UserError as error:
        warn(f"{run.name}: {error}")
        return False
    return True


def chosen_rate(place: Place, run: Run) -> str | None:
    """The candidate with the lowest loss on training rows that no run trains on, after a short run with each.

    Raises:
        UserError: the row whose rate this one takes has none yet.
    """
    row = run.rates_of or run.run
    name = f"{run.block}/{row}.rates"
    if not run.rates and not run.rates_of:
        return None
    if not result_path(place, name).exists():
        if run.rates_of:
            raise UserError(f"the learning rate is that of {row}, which has to run first")
        with locked(make_folder(place.work / name) / "queue.lock"):
            block, steps, losses = BLOCKS[run.block], [], {}
            for rate in run.rates:
                folder = make_folder(place.work / name / rate)
                steps.append(block.train(place, run, folder, rate, min(block.RATE_STEPS, run.steps), choosing=True))
                losses[rate] = read_json(folder / "trained" / "metrics.json")["scores"]["eval_loss"]
                shutil.rmtree(folder)
            finish(place, name, {"losses": losses, "chosen": min(losses, key=losses.__getitem__), "steps": steps})
    chosen: str = read_json(result_path(place, name))["chosen"]
    return chosen


def finish(place: Place, name: str, result: dict[str, Any]) -> None:
    """Writes a result, and commits it where that is wanted."""
    path = result_path(place, name)
    make_folder(path.parent)
    write_json(
        path, {"run": name, **result, "commit": git_commit(), "machine": f"{processor()}, {get_cpu_capability()}"}
    )
    if place.commit:
        for words in (("add", str(path)), ("commit", "-q", "-m", f"Result: {name}", "--", str(path))):
            subprocess.run(["git", "-C", str(ROOT), *words], check=True)


if __name__ == "__main__":
    run_main(main)
