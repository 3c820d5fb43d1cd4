"""A GPT-2 trained in examples/NLG or in examples/CLM, full or with LoRA, opens in the other with equal logits."""

from __future__ import annotations

import json
from pathlib import Path

import gpt2_ft
import pytest
import torch
from clm.opening import open_model
from gpt2.checkpoint import load_into
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from torch import Tensor

from loralib.__main__ import main as loralib_program
from tests.clm.world import LAYERS, POSITIONS, WIDTH, run, tiny_model, tiny_tokenizer
from tests.nlg.train.helpers import TINY_TRAIN, tiny_flags

IDS = torch.tensor([[5, 6, 7, 8, 9]])
SIZES = {"vocab_size": len(tiny_tokenizer()), "n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4}
LORA_DIM = {"full": 0, "lora": 4}


@torch.no_grad()
def logits_here(base: Path | None, adapter: Path | None = None) -> Tensor:
    """(T, V) as ``generate.py`` would have them."""
    opened = open_model(base and str(base), [str(adapter)] if adapter else [], torch.float32)
    return opened.model(IDS).logits[0].cpu()


@torch.no_grad()
def logits_there(weights: Path, r: int = 0) -> Tensor:
    """(T, V) of the model of examples/NLG."""
    own = GPT2LMModel(GPT2Config(**SIZES), LoRAConfig(r=r, alpha=32))
    load_into(own, weights)
    return own.eval()(IDS)[0][0]


def loralib_makes(*words: object) -> Path:
    assert loralib_program([str(word) for word in words]) == 0
    return Path(str(words[-1]))


def assert_equal_and_trained(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, tiny_model("gpt2")(IDS).logits[0], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_was_trained_here_opens_there(method, world, tmp_path, monkeypatch):
    run(world, monkeypatch, "--method", method, "--learning_rate", 0.1, "--output_dir", tmp_path / "run")
    whole = tmp_path / "run"
    if method == "lora":
        whole = loralib_makes("merge", world / "gpt2", tmp_path / "run", "--out", tmp_path / "whole")
        assert_equal_and_trained(logits_here(None, tmp_path / "run"), logits_there(whole / "model.safetensors"))
    assert_equal_and_trained(logits_here(whole), logits_there(whole / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_was_trained_there_opens_here(method, world, tmp_path):
    (tmp_path / "card.json").write_text(json.dumps(SIZES))
    base, r = world / "gpt2", LORA_DIM[method]
    files = {"valid_data": TINY_TRAIN, "model_card": tmp_path / "card.json", "work_dir": tmp_path / "run"}
    steps = {"lora_dim": r, "max_step": 4, "save_interval": 4, "eval_interval": 4, "lr": 0.1}
    gpt2_ft.main(tiny_flags(**files, init_checkpoint=base / "model.safetensors", **steps))
    weights = tmp_path / "run" / "model.4.pt"
    there = logits_there(weights, r)
    whole = loralib_makes("merge", base, weights, "--out", tmp_path / "whole")
    assert_equal_and_trained(logits_here(whole), there)
    if method == "lora":
        adapter = loralib_makes("export", weights, "--base", base, "--out", tmp_path / "adapter")
        assert_equal_and_trained(logits_here(None, adapter), there)
