"""Files that several CLM tests read."""

from __future__ import annotations

import pytest

from tests.clm.world import films, pairs, save_base, write_jsonl


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Bases ``gpt2`` and ``llama``, and rows of each task."""
    folder = tmp_path_factory.mktemp("clm")
    save_base(folder / "gpt2", "gpt2")
    save_base(folder / "llama", "llama")
    write_jsonl(folder / "pairs.jsonl", pairs(16))
    write_jsonl(folder / "pairs_val.jsonl", pairs(5))
    write_jsonl(folder / "films.jsonl", films(16))
    write_jsonl(folder / "texts.jsonl", [{"text": row["prompt"]} for row in pairs(9)])
    return folder
