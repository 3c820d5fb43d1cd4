"""Shows what happens now where a row of the findings, N1 to N23, U1 to U13 and X1 to X10, names a fault.

    python -m tests.campaigns.rows [ROW ...]

``rows.txt`` says what that is and which tests show it. They are run (default: those of all rows, some of them slow),
and each row is a line: its name, the outcome, and what happens now.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.shared_data import REPOSITORY


class Row(NamedTuple):
    """``tests``: node ids for pytest in the folder of the repository; a file stands for all of its tests."""

    says: str
    tests: list[str]


def read_rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        name, _, says = line.partition(": ")
        if line.startswith(" "):
            rows[next(reversed(rows))].tests.append(f"tests/{line.strip()}")
        else:
            assert name not in rows, name
            rows[name] = Row(says, [])
    return rows


def run_tests(tests: list[str], *options: str) -> int:
    """Exit code of pytest, whose output goes to stderr."""
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *dict.fromkeys(tests)]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=sys.stderr).returncode


def outcomes(report: Path) -> dict[str, Counter[str]]:
    """How many tests of each file and each function passed, failed or were skipped, from pytest's XML."""
    found: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "skipped" if kinds == {"skipped"} else "failed" if kinds else "passed"
        file = case.attrib["classname"].replace(".", "/") + ".py"
        for test in (file, f"{file}::{case.attrib['name'].partition('[')[0]}"):
            found.setdefault(test, Counter())[outcome] += 1
    return found


def verdict(row: Row, found: dict[str, Counter[str]]) -> str:
    """``skipped`` where none failed but a test of the row did not run, for want of data or packages."""
    counts = [found.get(test, Counter({"failed": 1})) for test in row.tests]
    if any(count["failed"] for count in counts):
        return "failed"
    return "passed" if all(count["passed"] for count in counts) else "skipped"


def main() -> None:
    rows = read_rows()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(rows)}; default: all")
    names = parser.parse_args().rows or list(rows)
    if unknown := sorted(set(names) - set(rows)):
        parser.error(f"no such row: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        run_tests([test for name in names for test in rows[name].tests], f"--junitxml={report}")
        found = outcomes(report)
    verdicts = {name: verdict(rows[name], found) for name in names}
    for name in names:
        print(f"{name:<3} {verdicts[name]:<7} {rows[name].says}")
    sys.exit("failed" in verdicts.values())


if __name__ == "__main__":
    main()
