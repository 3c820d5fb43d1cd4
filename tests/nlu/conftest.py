"""Files that several NLU tests read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest

from tests.nlu.world import save_base, sentences, write_cola


@dataclass(frozen=True)
class World:
    """A base model and a CoLA that can be learned."""

    base: Path
    glue: Path

    def flags(self, output: Path) -> list[object]:
        return [
            *("--model_name_or_path", self.base, "--task_name", "cola", "--data_dir", self.glue),
            *("--output_dir", output, "--max_seq_length", 32),
        ]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("nlu")
    rows = {"train": sentences(160, 0), "dev": sentences(60, 1)}
    glue = write_cola(folder / "glue", rows)
    return World(save_base(folder / "base", [text for text, _ in rows["train"]]), glue)


@pytest.fixture(scope="session")
def still_base(tmp_path_factory):
    """A base without dropout, whose gradients depend on the batch alone."""
    folder = tmp_path_factory.mktemp("still")
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return save_base(folder, [text for text, _ in sentences(160, 0)], **dropout)


@pytest.fixture(scope="session", autouse=True)
def cache_of_token_ids(tmp_path_factory):
    """Token ids of the tests do not stay in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        yield
