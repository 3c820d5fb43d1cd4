"""Runs the stories of scripts/ at their smallest setting and reads what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

SEEDS = "110 111"
ENVIRONMENT = {**os.environ, "PYTHON": PYTHON, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def command(dataset: str, work: Path, *options: str) -> list[str]:
    script = REPOSITORY / "scripts" / f"reproduce_{dataset}.sh"
    return ["bash", str(script), "--smallest", "--seeds", SEEDS, "--work-dir", str(work), *options]


def run_script(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, encoding="utf-8")


def tell(dataset: str, work: Path, *options: str) -> str:
    """A whole story; its standard output."""
    result = run_script(command(dataset, work, *options))
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def events(work: Path) -> list[str]:
    """Lines of steps.log without their times: "began train.110", "ended train.110", "kept train.110", ..."""
    return [line.split(" ", 1)[1] for line in (work / "steps.log").read_text(encoding="utf-8").splitlines()]


def results(work: Path) -> dict:
    return json.loads((work / "results.json").read_text(encoding="utf-8"))


def wait_for(condition, what: str, seconds: float = 1800) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened: {what}"
        time.sleep(0.02)
