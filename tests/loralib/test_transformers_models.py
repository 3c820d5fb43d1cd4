"""LoRA on transformers' own GPT-2 and RoBERTa: the released keys, logits and gradients, no model class changed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import loralib
from loralib.inject import lora_layers
from tests.loralib.models import filled
from tests.shared_data import GOLDEN

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
Q_V = [True, False, True]


def gpt2(seed: int = 0):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 12, "vocab_size": 31, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def roberta(**kwargs):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    config = json.loads((GOLDEN / "loralib" / "roberta_lora_tiny.json").read_text())["config"]
    return RobertaForSequenceClassification(RobertaConfig(**config, **kwargs)).eval()


def fused_gpt2(**kwargs):
    return loralib.apply_lora(gpt2(), "attn.c_attn", 4, 32, enable_lora=Q_V, **kwargs)


@pytest.mark.slow
def test_the_counts_of_the_published_models():
    """RoBERTa-base, 3 labels: 294,912 + 592,899 as in the published MNLI file. GPT-2 Medium: 393,216 (r=4)."""
    from transformers import GPT2Config, GPT2Model, RobertaConfig, RobertaForSequenceClassification

    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "num_labels": 3}
    with torch.device("meta"):
        roberta_base = RobertaForSequenceClassification(RobertaConfig(**sizes))
        gpt2_medium = GPT2Model(GPT2Config(n_layer=24, n_head=16, n_embd=1024))
    loralib.apply_lora(roberta_base, ["query", "value"], 8, 16, trainable="classifier")
    loralib.apply_lora(gpt2_medium, "c_attn", 4, 32, enable_lora=Q_V)
    summary = loralib.trainable_summary(roberta_base)
    assert (summary.adapter, summary.bias, summary.head, summary.total) == (294_912, 0, 592_899, 124_942_851)
    assert loralib.trainable_summary(gpt2_medium).trainable == 393_216


def test_gpt2_gets_the_released_keys_and_computes_as_before():
    plain, model = gpt2(), fused_gpt2()
    expected = []
    for key in plain.state_dict():
        expected.append(key)
        if key.endswith("attn.c_attn.bias"):
            expected += [key.replace("bias", name) for name in ("lora_A", "lora_B")]
    assert list(model.state_dict()) == expected
    assert {key: tuple(p.shape) for key, p in model.named_parameters() if "h.0" in key and "lora_" in key} == {
        "transformer.h.0.attn.c_attn.lora_A": (8, 12),
        "transformer.h.0.attn.c_attn.lora_B": (24, 4),
    }
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, rtol=0, atol=1e-6)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_gpt2_trains_generates_and_gives_its_own_layers_back():
    from transformers.pytorch_utils import Conv1D

    model = filled(fused_gpt2())
    y = model(IDS).logits
    model.train()(IDS, labels=IDS).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(loralib.lora_state_dict(model))
    tokens = model.eval().generate(IDS[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0)
    loralib.remove_lora(model)
    assert [type(block.attn.c_attn) for block in model.transformer.h] == [Conv1D, Conv1D]
    assert list(model.state_dict()) == list(gpt2().state_dict())
    torch.testing.assert_close(model(IDS).logits, y, rtol=0, atol=1e-6)
    assert torch.equal(model.generate(IDS[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0), tokens)


def test_gpt2_with_lora_on_a_tied_embedding_keeps_its_head():
    model = filled(loralib.apply_lora(gpt2(), ["wte", "mlp.c_fc"], 2, 4))
    assert model.lm_head.weight is model.transformer.wte.weight
    hidden = model.transformer(IDS).last_hidden_state
    assert torch.equal(model(IDS).logits, hidden @ gpt2().lm_head.weight.T)


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = filled(fused_gpt2()).train()
        model.transformer.drop = nn.Identity()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_roberta_gives_the_logits_and_lora_gradients_of_the_released_code(attention):
    recorded = load_file(GOLDEN / "loralib" / "roberta_lora_tiny.safetensors")
    case = json.loads((GOLDEN / "loralib" / "roberta_lora_tiny.json").read_text())
    model = loralib.apply_lora(
        roberta(attn_implementation=attention),
        ["query", "value"],
        case["lora_r"],
        case["lora_alpha"],
        trainable="classifier",
        merge_weights=False,
    )
    assert [name for name, p in model.named_parameters() if p.requires_grad] == case["trainable"]
    prefix = "roberta_lora|weight|"
    weights = {key.removeprefix(prefix): value for key, value in recorded.items() if key.startswith(prefix)}
    model.load_state_dict(weights)
    output = model(recorded["roberta|input_ids"], recorded["attention_mask"], labels=recorded["labels"])
    output.loss.backward()
    torch.testing.assert_close(output.logits, recorded["roberta_lora|logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(output.loss, recorded["roberta_lora|loss"][0], rtol=0, atol=1e-5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(parameter.grad, recorded[f"roberta_lora|grad|{name}"], rtol=0, atol=1e-5)
    for layer in lora_layers(model).values():
        layer.merge()
    merged = model(recorded["roberta|input_ids"], recorded["attention_mask"]).logits
    torch.testing.assert_close(merged, recorded["roberta_lora|logits"], rtol=0, atol=1e-5)


def test_saving_a_whole_model_in_eval_mode_and_loading_it_loses_nothing(tmp_path):
    model = filled(loralib.apply_lora(roberta(), ["query", "value"], 4, 8, trainable="classifier"))
    y = model(IDS).logits
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    again = loralib.apply_lora(roberta(), ["query", "value"], 4, 8)
    assert not again.load_state_dict(weights, strict=False).unexpected_keys
    assert torch.equal(again(IDS).logits, y)
