"""The GPT-2 of examples/NLG and that of transformers open each other's weights and compute the same logits."""

from __future__ import annotations

import pytest
import torch
from gpt2.checkpoint import load_into
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from transformers import AutoModelForCausalLM

import loralib
from loralib.__main__ import main as loralib_program
from tests.clm.world import LAYERS, POSITIONS, WIDTH, save_base, tiny_model, tiny_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def own_model(r: int = 0) -> GPT2LMModel:
    config = GPT2Config(len(tiny_tokenizer()), POSITIONS, WIDTH, LAYERS, n_head=4)
    return GPT2LMModel(config, LoRAConfig(r=r, alpha=8)).eval()


@pytest.fixture
def base(tmp_path):
    save_base(tmp_path / "base", "gpt2")
    return tmp_path / "base"


def test_a_whole_model_of_this_example_opens_in_the_other(base):
    own = own_model()
    load_into(own, base / "model.safetensors")
    torch.testing.assert_close(own(IDS)[0], tiny_model("gpt2")(IDS).logits, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_the_other_example_opens_in_this_one(base, tmp_path):
    own = own_model(r=2)
    load_into(own, base / "model.safetensors")
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    torch.save(loralib.lora_state_dict(own), tmp_path / "lora.pt")
    words = ["export", str(tmp_path / "lora.pt"), "--base", str(base), "--out", str(tmp_path / "peft")]
    assert loralib_program([*words, "--alpha", "8", "--enable_lora", "1,0,1"]) == 0
    model = loralib.load_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "peft").eval()
    torch.testing.assert_close(own(IDS)[0], model(IDS).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(IDS).logits, tiny_model("gpt2")(IDS).logits, atol=1e-2)
