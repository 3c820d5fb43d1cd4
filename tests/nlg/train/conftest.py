"""Fixtures of the training tests."""

import random

import pytest
import torch

from tests.nlg.train.helpers import write_tiny_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the tiny files; one thread, so that runs here and in subprocesses agree bit for bit."""
    threads, torch_state, python_state = torch.get_num_threads(), torch.get_rng_state(), random.getstate()
    torch.set_num_threads(1)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PT_OUTPUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    write_tiny_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
