"""What all scripts of the project share: help without a start, empty arrays in old bash, sleeping threads, progress."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.shared_data import REPOSITORY

SCRIPTS = sorted([*(REPOSITORY / "scripts").glob("**/*.sh"), *(REPOSITORY / "examples").glob("*/*.sh")])
PROGRAMS = sorted((REPOSITORY / "scripts" / "quickstart").glob("*.py"))


def shell(script: str, text: str = "") -> subprocess.CompletedProcess[str]:
    head = f"set -euo pipefail; source {REPOSITORY}/scripts/lib.sh; source {REPOSITORY}/scripts/steps.sh; "
    return subprocess.run(["bash", "-c", head + script], input=text, capture_output=True, text=True)


def test_help_of_the_tests_starts_none():
    done = subprocess.run(["bash", REPOSITORY / "scripts/test.sh", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "bash scripts/test.sh --fast" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_of_the_quickstart_starts_from_any_folder(program, tmp_path):
    done = subprocess.run([sys.executable, program, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_array_that_may_be_empty_is_expanded_as_old_bash_needs_it(script):
    source = script.read_text(encoding="utf-8")
    for name in re.findall(r"\b(\w+)=\(\)", source):
        assert not re.search(rf'(?<!\+)"\$\{{{name}\[@\]\}}"', source), name  # not: ${a[@]+"${a[@]}"}


def test_waiting_threads_sleep_unless_the_user_says_otherwise():
    assert shell('echo "$OMP_WAIT_POLICY"').stdout == "PASSIVE\n"
    again = f'export OMP_WAIT_POLICY=ACTIVE; source {REPOSITORY}/scripts/lib.sh; echo "$OMP_WAIT_POLICY"'
    assert shell(again).stdout == "ACTIVE\n"


def test_progress_of_a_training_has_total_rate_and_time_left():
    lines = (
        "| epoch   1 step       50 | lr 1 | ms/batch 72.10 | loss  1 | ppl 2\n  step 50 of 200, about 0:00:11 left\nx\n"
    )
    assert shell("show_progress lora", lines).stderr == "lora: step 50 of 200, 72.10 ms a batch, about 0:00:11 left\n"
