"""``scripts/get_small_models.sh`` and what it leaves; its models are tested where CLM_SMALL_MODELS names them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_models
import torch

from examples.common.errors import UserError
from tests.clm.world import tiny_model
from tests.shared_data import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "get_small_models.sh"


@pytest.fixture
def folder() -> Path:
    path = Path(os.environ.get("CLM_SMALL_MODELS", "nowhere"))
    if not path.is_dir():
        pytest.skip("needs the folder that scripts/get_small_models.sh made (set CLM_SMALL_MODELS)")
    return path


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    options = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, env=options)


@pytest.mark.slow
def test_an_index_out_of_reach_gets_one_clear_line(tmp_path):
    found = run(
        str(tmp_path / "m"), PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0", PIP_CONFIG_FILE="/dev/null"
    )
    assert found.returncode == 2
    assert "cannot be fetched: is the package index reachable?" in found.stderr
    assert not list((tmp_path / "m").iterdir())


def test_wrong_arguments_and_another_file_are_refused(tmp_path, monkeypatch):
    assert run().returncode == 2 and "give one folder" in run("a", "b").stderr
    (tmp_path / "x.zip").write_bytes(b"x")
    words = ["--minilm", str(tmp_path / "x.zip"), "--smollm2", "y", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["small_models.py", *words])
    with pytest.raises(UserError, match="expected the file with sha256 0872f5d7"):
        small_models.main()


def test_every_tensor_is_compared_with_that_of_the_file():
    state = tiny_model("llama", tie_word_embeddings=True).state_dict()
    names = {theirs: ours for ours, theirs in {**small_models.OUTER, **small_models.INNER}.items()}
    expected = {}
    for name, tensor in state.items():
        if name == "lm_head.weight":
            continue
        stem, _, kind = name.rpartition(".")
        prefix, part = "", stem
        if stem.startswith("model.layers."):
            index, _, part = stem.removeprefix("model.layers.").partition(".")
            prefix = f"blk.{index}."
        if part.endswith(("q_proj", "k_proj")):  # as llama.cpp stores them: halves of a head in turn
            heads = 4 if part.endswith("q_proj") else 2
            tensor = tensor.reshape(heads, 2, -1, 16).transpose(1, 2).reshape(tensor.shape)
        expected[f"{prefix}{names[part]}.{kind}"] = tensor.clone()
    small_models.check_tensors(state, expected, 4, 2)
    with pytest.raises(UserError, match=r"model\.norm\.weight is in no tensor"):
        small_models.check_tensors(state, {k: v for k, v in expected.items() if k != "output_norm.weight"}, 4, 2)
    expected["blk.1.attn_k.weight"][0, 0] += 1
    with pytest.raises(UserError, match=r"blk\.1\.attn_k\.weight of the GGUF file is not what"):
        small_models.check_tensors(state, expected, 4, 2)


def test_digits_are_split_one_by_one():
    found = [piece for piece, _ in small_models.digit_splitter().pre_tokenize_str("in 2021, it's 12")]
    assert found == ["in", "Ġ", "2", "0", "2", "1", ",", "Ġit", "'s", "Ġ", "1", "2"]


def test_small_models_open_offline_and_know_language(folder):
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "smollm2")
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    assert tokenizer.tokenize("in 2021") == ["in", "Ġ", "2", "0", "2", "1"]
    model = AutoModelForCausalLM.from_pretrained(folder / "smollm2")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    bert, words = (kind.from_pretrained(folder / "minilm") for kind in (AutoModel, AutoTokenizer))
    texts = ["A man plays a guitar.", "Someone makes music.", "The stock market fell."]
    batch = words(texts, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((bert(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)
    assert means[0] @ means[1] > 0.2 + means[0] @ means[2]
    assert len(words("word " * 300)["input_ids"]) == 302  # neither padded nor cut to 128
