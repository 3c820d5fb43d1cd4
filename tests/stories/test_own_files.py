"""A story on the user's own files: raw data in XML, weights, vocabulary and model card from anywhere."""

from __future__ import annotations

import json

import pytest
import torch
from gpt2.config import GPT2Config
from gpt2.model import GPT2LMModel
from safetensors.torch import save_file

from scripts.quickstart.vocabulary import train_bpe, write_vocabulary
from tests.nlg.data.xml_twins import benchmark, entry_xml
from tests.shared_data import REPOSITORY
from tests.stories.stories import events, results, run_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WORDS = ["the", "blue", "cat", "sat", "on", "a", "mat", "and", "the", "red", "dog", "is", "not", "there", "."]


@pytest.fixture
def own(tmp_path):
    """Folder with raw/, vocab/, model.json and base.safetensors, and the story's words for them."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for split, count in (("train", 40), ("dev", 4), ("test", 6)):
        entries = [
            entry_xml(i, "X", [(WORDS[i % 7], "IS", f"{split} {i}")], [("own", " ".join(WORDS[i % 5 :]))])
            for i in range(1, count + 1)
        ]
        (raw / f"dart-v1.1.1-full-{split}.xml").write_text(benchmark(entries), encoding="utf-8")
    encoder, merges = train_bpe((f"{i} {' '.join(WORDS)} {i}" for i in range(2000)), vocab_size=700)
    write_vocabulary(tmp_path / "vocab", encoder, merges)
    card = {"vocab_size": len(encoder), "n_positions": 512, "n_embd": 16, "n_layer": 2, "n_head": 2}
    (tmp_path / "model.json").write_text(json.dumps(card))
    torch.manual_seed(0)
    tensors = GPT2LMModel(GPT2Config(**card)).state_dict()
    save_file({name: t.clone() for name, t in tensors.items() if "lm_head" not in name}, tmp_path / "base.safetensors")
    return tmp_path


def tell(own, *more):
    words = ["bash", str(REPOSITORY / "scripts" / "reproduce.sh"), "dart", "--seeds", "5", "--work-dir", own / "work"]
    words += ["--data-dir", own / "raw", "--base", own / "base.safetensors", "--vocab", own / "vocab"]
    return run_script([str(word) for word in [*words, "--model-card", own / "model.json", *more]])


def test_a_story_on_own_files_and_what_repeats_it(own):
    first = tell(own, "--", "--max_step", "4")
    assert first.returncode == 0, first.stderr[-1500:]
    commands = (own / "work" / "commands.txt").read_text(encoding="utf-8")
    assert "--weight_decay 0.0 " in commands and "--lora_dropout 0.0 " in commands and "--label_smooth 0.0 " in commands
    assert "--beam 10 " in commands and "--eos_token_id 628" in commands and "--max_step 4" in commands
    found = results(own / "work")
    assert [run["metrics"]["steps"] for run in found["runs"]] == [4]
    assert found["checkpoints"]["last"]["TER"]["half_width"] is None  # one seed
    assert not found["toy"]

    (own / "raw" / "notes.txt").write_text("unrelated")
    before = events(own / "work")
    assert tell(own, "--", "--max_step", "4").returncode == 0
    again = events(own / "work")[len(before) :]
    assert [line for line in again if line.startswith("began")] == ["began data"]  # equal token ids keep the rest

    before = events(own / "work")
    changed = (own / "raw" / "dart-v1.1.1-full-train.xml").read_text(encoding="utf-8").replace("blue", "red")
    (own / "raw" / "dart-v1.1.1-full-train.xml").write_text(changed, encoding="utf-8")
    assert tell(own, "--", "--max_step", "4").returncode == 0
    again = events(own / "work")[len(before) :]
    names = ["data", "train.5", "decode.5.last", "score.5.last", "table"]
    assert [line for line in again if line.startswith("began")] == [f"began {name}" for name in names]


def test_a_missing_split_is_named(own):
    (own / "raw" / "dart-v1.1.1-full-dev.xml").unlink()
    result = tell(own)
    assert result.returncode == 2
    message = result.stderr.splitlines()[-1]
    assert message.startswith("error: skipped dart valid: ") and "dart-v1.1.1-full-dev.json is absent" in message


def test_a_broken_raw_file_ends_the_story_with_its_line(own):
    (own / "raw" / "dart-v1.1.1-full-dev.xml").write_text("<benchmark>\n<entries>", encoding="utf-8")
    result = tell(own)
    assert result.returncode == 2
    assert "dart-v1.1.1-full-dev.xml line 2: not XML" in result.stderr.splitlines()[-1]
