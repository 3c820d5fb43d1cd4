"""The figures of docs/benchmarks/README.md and of the README are those of docs/benchmarks/results.json, rounded."""

from __future__ import annotations

import json
import re

from tests.shared_data import REPOSITORY

RECORDS = json.loads((REPOSITORY / "docs" / "benchmarks" / "results.json").read_text(encoding="utf-8"))["records"]
ROWS = [row for record in RECORDS for row in record["rows"]]
PAGE = (REPOSITORY / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8").partition("## What full size")[0]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
RATIO = re.compile(r"([\d.]+) \(([\d.]+) to ([\d.]+), n=(\d+)\)")


def test_every_record_names_its_command_and_the_page_says_where_a_commit_is_not_known():
    assert all(record["command"] for record in RECORDS)
    unknown = [record["bench"] for record in RECORDS if not record["commit"]]
    assert unknown == ["adapters"] and "| `adapters.py` | 0.3.0, commit not recorded" in PAGE


def test_every_ratio_of_the_page_is_a_measured_one():
    found = RATIO.findall(PAGE)
    assert len(found) > 30
    measured = {(*(f"{row[name]:.2f}" for name in ("median", "low", "high")), str(row["rounds"])) for row in ROWS}
    assert set(found) <= measured


def test_every_figure_of_a_table_without_quartiles_is_a_measured_one():
    cells = [cell.strip() for line in PAGE.splitlines() if line.startswith("| ") for cell in line.split("|")]
    plain = {cell for cell in cells if re.fullmatch(r"\d+\.\d\d", cell)}
    assert plain and plain <= {f"{row['median']:.2f}" for row in ROWS}


def test_the_front_page_quotes_the_page():
    speed = re.search(r"\*\*Speed\*\*.*?\n\n", README, flags=re.DOTALL)
    assert speed is not None
    quoted = re.findall(r"\d+\.\d\d", speed.group())
    medians = {f"{row['median']:.2f}" for row in ROWS}
    assert len(quoted) >= 5 and set(quoted) <= medians & set(re.findall(r"\d+\.\d\d", PAGE))
