"""The files of the measurements become one, with a plot; what is no such file is refused."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

REPORT = REPOSITORY / "scripts" / "bench" / "report.py"
RESULTS = REPOSITORY / "docs" / "benchmarks" / "results.json"


def report(*words):
    return subprocess.run([PYTHON, REPORT, *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_records_are_joined_and_drawn(tmp_path):
    row = {"case": "a", "quantity": "time, peft / ours", "headline": "a layer", "median": 2, "low": 1.5, "high": 3}
    record = {"bench": "layers", "commit": "0123456789", "machine": {"device": "a CPU"}, "threads": 1}
    for name, rows in (("one", [row]), ("two", [{**row, "headline": ""}])):
        (tmp_path / name).write_text(json.dumps({**record, "rows": rows}), encoding="utf-8")
    done = report(tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [record["rows"][0]["median"] for record in found["records"]] == [2, 2]
    assert (tmp_path / "out" / "speed.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_committed_results_are_as_the_program_writes_them(tmp_path):
    assert report(RESULTS, "--out", tmp_path).returncode == 0
    assert (tmp_path / "results.json").read_text("utf-8") == RESULTS.read_text("utf-8")


@pytest.mark.parametrize("text", ["{", "[]", '{"records": [{}]}', '{"records": 3}'])
def test_what_is_no_file_of_results_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    done = report(tmp_path / "x.json", "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is not a file of results" in done.stderr
    assert not (tmp_path / "out").exists()
