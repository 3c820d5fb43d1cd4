"""Vocabularies, read once."""

from __future__ import annotations

from pathlib import Path

import pytest
from text.bpe import BytePairEncoding, load_bpe

from tests.nlg.data.programs import make_toy_vocabulary
from tests.shared_data import shared_path


@pytest.fixture(scope="session")
def toy_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_vocabulary(tmp_path_factory.mktemp("vocabulary") / "toy")


@pytest.fixture(scope="session")
def toy_bpe(toy_vocabulary: Path) -> BytePairEncoding:
    return load_bpe(toy_vocabulary)


@pytest.fixture(scope="session")
def gpt2_vocabulary() -> Path:
    return shared_path("data/gpt2_vocab")


@pytest.fixture(scope="session")
def gpt2_bpe(gpt2_vocabulary: Path) -> BytePairEncoding:
    return load_bpe(gpt2_vocabulary)
