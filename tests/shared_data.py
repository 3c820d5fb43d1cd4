"""Finds the folder with real data sets and recorded numbers that tests may read; tests skip, saying so, without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"
SHARED = Path(os.environ.get("LORA_SHARED", REPOSITORY.parent / "shared"))


def shared_path(relative: str) -> Path:
    """Path of a file in the shared folder; skips the calling test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} of the shared data folder (set LORA_SHARED)")
    return path
