"""Runs the stories of scripts/ at their smallest setting and reads what they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.shared_data import REPOSITORY
from tests.warm_java import java_home
from tests.warm_python import PYTHON

SEEDS = "110 111"


def environment(**more: str) -> dict[str, str]:
    """Of a script that a test starts."""
    return {**os.environ, "PYTHON": PYTHON, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **more}


def command(dataset: str, work: Path, *options: str) -> list[str]:
    script = REPOSITORY / "scripts" / f"reproduce_{dataset}.sh"
    return ["bash", str(script), "--smallest", "--seeds", SEEDS, "--work-dir", str(work), *options]


def copy_prepared(told: Path, work: Path) -> Path:
    """Copies the folder of a told story as it was before its first training, with an empty steps.log."""
    steps = [f"{name}.*done" for name in ("train", "decode", "score", "table")]
    shutil.copytree(
        told, work, symlinks=True, ignore=shutil.ignore_patterns("seed*", "*.seed*", "runs", "results.*", *steps)
    )
    (work / "steps.log").write_text("")
    return work


def run_script(words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(**more), capture_output=True, encoding="utf-8")


def tell(dataset: str, work: Path, *options: str) -> str:
    """A whole story; its standard output."""
    result = run_script(command(dataset, work, *options), JAVA_HOME=java_home())
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
