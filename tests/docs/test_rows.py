"""The rows of ``tests/campaigns/rows.txt``: none is missing, and every test that they name exists."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.campaigns.rows import Row, outcomes, read_rows, run_tests, verdict
from tests.shared_data import shared_path

ROWS = read_rows()


def test_every_row_of_the_findings_is_there():
    text = shared_path("findings.md").read_text(encoding="utf-8")
    assert list(ROWS) == re.findall(r"^\| ([NUX]\d+)\b", text, flags=re.MULTILINE)


def test_every_row_says_something_and_names_tests():
    assert all(row.says.endswith(".") and row.tests for row in ROWS.values())


@pytest.mark.slow
def test_every_test_of_a_row_is_collected(capfd):
    tests = [test for row in ROWS.values() for test in row.tests]
    assert run_tests(tests, "--collect-only", "-q") == 0, capfd.readouterr().err[-2000:]
    assert run_tests([f"{tests[0]}_of_another_name"], "--collect-only", "-q") != 0


def test_a_row_fails_with_any_of_its_tests_and_one_that_did_not_run_is_not_passed(tmp_path):
    report = tmp_path / "report.xml"
    cases = {"a[1]": "", "a[2]": "<skipped/>", "b": "<skipped/>", "c[1]": "<failure/>", "c[2]": ""}
    lines = [f'<testcase classname="tests.x.test_y" name="{name}">{said}</testcase>' for name, said in cases.items()]
    report.write_text(f"<testsuite>{''.join(lines)}</testsuite>")
    found = outcomes(report)
    assert found["tests/x/test_y.py"] == Counter(passed=2, skipped=2, failed=1)

    def said(*names: str) -> str:
        return verdict(Row("", [f"tests/x/test_y.py::{name}" for name in names]), found)

    assert (said("a"), said("a", "b"), said("a", "c"), said("a", "d")) == ("passed", "skipped", "failed", "failed")
