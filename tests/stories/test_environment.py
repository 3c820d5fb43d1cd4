"""Which Python the scripts take: what PYTHON names, the active environment, or .venv of the checkout; one rule."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.shared_data import REPOSITORY

FAKE = '#!/bin/sh\nprintf "%s\\n" "$0 $*" >> "{log}"\n'


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout whose scripts can be run, with an environment in .venv and one elsewhere, all of them fakes."""
    for name in ("scripts/lib.sh", "examples/NLU/run_task.sh", "requirement.txt", "setup.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for folder in (".venv", "active", "given"):
        python = tmp_path / folder / "bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(FAKE.format(log=tmp_path / "log"))
        python.chmod(0o755)
    return tmp_path


def taken(checkout, words, **environment) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What a script said, and the calls of an interpreter, as paths in the checkout and words."""
    names = ("PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX")
    env = {name: value for name, value in os.environ.items() if name not in names} | environment
    result = subprocess.run(words, cwd=checkout, env=env, capture_output=True, text=True)
    log = checkout / "log"
    calls = log.read_text().replace(f"{checkout}/", "").splitlines() if log.exists() else []
    return result, calls


def activated(checkout):
    path = os.pathsep.join([str(checkout / "active/bin"), os.environ["PATH"]])
    return {"VIRTUAL_ENV": str(checkout / "active"), "PATH": path}


ENSURE = ["bash", "-c", 'set -euo pipefail; source scripts/lib.sh; ensure_environment; cd /; "$PYTHON" it']
TASK = ["bash", "examples/NLU/run_task.sh", "roberta_base_cola", "--dry-run"]


@pytest.mark.parametrize("given", ["given/bin/python", "absolute"])
@pytest.mark.parametrize("words", [ENSURE, TASK], ids=["ensure", "task"])
def test_an_interpreter_that_is_given_is_used_and_nothing_installed(words, given, checkout):
    python = str(checkout / "given/bin/python") if given == "absolute" else given
    result, calls = taken(checkout, words, PYTHON=python, **activated(checkout))
    assert result.returncode == 0, result.stderr
    assert len(calls) == 1 and calls[0].startswith("given/bin/python ")


def test_a_task_takes_the_active_environment_else_that_of_the_checkout_and_installs_nothing(checkout):
    arguments = "examples/NLU/utils/recipes.py roberta_base_cola --dry-run"
    for environment, folder in ((activated(checkout), "active"), ({}, ".venv")):
        result, calls = taken(checkout, TASK, **environment)
        assert result.returncode == 0, result.stderr
        call = calls[-1].split()
        assert call[0] == f"{folder}/bin/python" and " ".join(call[1:]).endswith(arguments)
    assert not any("pip" in call for call in calls)


def test_without_any_environment_a_task_says_so_in_one_line(checkout):
    shutil.rmtree(checkout / ".venv")
    result, calls = taken(checkout, TASK)
    assert (result.returncode, calls, result.stderr.count("\n")) == (2, [], 1)
    assert result.stderr.startswith("error: no Python environment: activate one, name one with PYTHON")


def test_an_interpreter_that_is_not_there_is_named(checkout):
    for words in (ENSURE, TASK):
        result, _ = taken(checkout, words, PYTHON="none/python")
        assert (result.returncode, result.stderr) == (2, "error: PYTHON=none/python: no such program\n")


def test_the_stories_make_or_update_the_environment_only_where_none_is_given(checkout):
    result, calls = taken(checkout, ENSURE)
    assert result.returncode == 0, result.stderr
    assert any("-m pip install" in call for call in calls) and {call.split()[0] for call in calls} == {
        ".venv/bin/python"
    }
