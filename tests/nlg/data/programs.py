"""Runs the programs of the NLG room as a user does, and makes a vocabulary small enough for a test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from tests.shared_data import GOLDEN, REPOSITORY
from tests.warm_python import PYTHON

NLG = REPOSITORY / "examples" / "NLG"
SRC = NLG / "src"
DATA = GOLDEN / "nlg" / "data"
TOY_TEXT = "the blue cat sat on the mat ; the red dog's bone isn't there . 12 cats , 34 dogs and a café"


def run(program: str, *args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs ``src/<program>``, or a shell script of the NLG folder."""
    command = ["bash", str(NLG / program)] if program.endswith(".sh") else [PYTHON, str(SRC / program)]
    environment = {**os.environ, "PYTHON": PYTHON, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [*command, *map(str, args)], cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=120
    )


def assert_one_error_line(result: subprocess.CompletedProcess[str], words: str) -> None:
    """Exit code 2 and exactly one line on stderr, which holds ``words``."""
    lines = result.stderr.splitlines()
    assert result.returncode == 2, result
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], result.stderr


def make_toy_vocabulary(folder: Path) -> Path:
    """Trains about 300 byte-level tokens; ``<|endoftext|>`` gets the last id, as in GPT-2."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator([TOY_TEXT] * 3, trainer)
    folder.mkdir()
    tokenizer.model.save(str(folder))  # vocab.json, merges.txt
    vocabulary = (folder / "vocab.json").read_text(encoding="utf-8")
    size = tokenizer.get_vocab_size()
    (folder / "vocab.json").write_text(f'{vocabulary.rstrip()[:-1]}, "<|endoftext|>": {size}}}', encoding="utf-8")
    return folder
