"""A sample of the damaged files of ``fuzz_readers.py``; more by running that file."""

from __future__ import annotations

import os

import pytest

from tests.nlg.data.fuzz_readers import READERS, fuzz, make_valid, run


@pytest.fixture(autouse=True)
def long_limit(monkeypatch):
    """No limit that a busy machine can break."""
    monkeypatch.setattr("tests.nlg.data.fuzz_readers.LIMIT_S", 250)


@pytest.mark.parametrize("reader", READERS)
def test_undamaged_files_are_read(reader, tmp_path, monkeypatch):
    make_valid(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(READERS[reader][1]) == ("ok", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes named pipes")
def test_damaged_files_end_in_one_line_and_change_nothing():
    outcomes, faults = fuzz(10 * len(READERS), seed=1)
    assert not faults, faults[0]
    assert min(outcomes["ok"], outcomes["refused"]) > len(READERS)
