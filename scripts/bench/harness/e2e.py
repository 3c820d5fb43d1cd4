"""Token ids of E2E, whose lengths the measurements follow: the real data where they are, else the generator's."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from examples.common.errors import UserError
from harness import REPOSITORY

SHARED = Path(os.environ.get("LORA_SHARED", REPOSITORY.parent / "shared"))
CACHE = REPOSITORY / "runs" / "bench-data"
RAW = {"train": "train.reconstructed.txt.gz", "valid": "valid.txt.gz", "test": "test.txt.gz"}


@dataclass(frozen=True)
class E2E:
    """Folder with ``{train,valid,test}.jsonl`` of token ids, and where they come from in words."""

    folder: Path
    source: str


def e2e_token_ids() -> E2E:
    """Encodes the data set, once for all programs.

    The real one is read from ``LORA_SHARED`` (default: ``../shared`` beside the checkout). Without it the quickstart's
    generator makes texts of the same form, encoded with a small vocabulary learned from them.

    Raises:
        UserError: the encoding failed.
    """
    real, vocab = SHARED / "data" / "e2e" / "lora_format", SHARED / "data" / "gpt2_vocab"
    if real.is_dir() and vocab.is_dir():
        found = E2E(CACHE / "e2e", "E2E")
    else:
        found = E2E(CACHE / "generated", "texts of the generator")
    if (found.folder / "test.jsonl").exists():
        return found
    raw, unfinished = CACHE / "raw", found.folder.with_name(found.folder.name + ".partial")
    for folder in (raw, unfinished):
        shutil.rmtree(folder, ignore_errors=True)
    if found.source == "E2E":
        raw.mkdir(parents=True)
        for split, name in RAW.items():
            with gzip.open(real / name, "rb") as packed, open(raw / f"{split}.txt", "wb") as file:
                shutil.copyfileobj(packed, file)
    else:
        vocab = CACHE / "vocab"
        _run(sys.executable, "scripts/quickstart/corpus.py", raw)
        _run(
            sys.executable,
            "scripts/quickstart/vocabulary.py",
            vocab,
            raw / "general" / "train.txt",
            "--vocab_size",
            "1024",
        )
        raw = raw / "e2e"
    create = ("bash", "examples/NLG/create_datasets.sh", "--data", raw, "--out", unfinished, "--vocab", vocab, "e2e")
    _run(*create)
    shutil.rmtree(found.folder, ignore_errors=True)
    unfinished.rename(found.folder)
    return found


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise UserError(f"{command[1]} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
