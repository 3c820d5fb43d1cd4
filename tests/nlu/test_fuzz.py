"""Damaged files at every reader, a few of them; ``tests/nlu/fuzz.py`` makes as many as one likes."""

from __future__ import annotations

import pytest

from tests.nlu.fuzz import fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_in_one_line():
    assert fuzz(200, seed=1) == []
