"""A folder says itself of which model it is: PEFT's Auto classes open it by that, and people read it in the card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import loralib
from loralib.files.folder import CARD_MARK
from tests.loralib.models import filled, net
from tests.loralib.test_adapter_folder import adapted, config_of, saved
from tests.loralib.test_transformers_models import IDS, Q_V

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 31}


def bert(kind: str, **kwargs):
    import transformers

    return getattr(transformers, kind)(transformers.BertConfig(**SIZES, **kwargs))


def gpt2(kind: str = "GPT2LMHeadModel"):
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=31, bos_token_id=0, eos_token_id=0)
    config.pad_token_id = 0
    return getattr(transformers, kind)(config)


def llama(kind: str):
    import transformers

    return getattr(transformers, kind)(transformers.LlamaConfig(**SIZES, num_key_value_heads=1, pad_token_id=0))


def t5():
    import transformers

    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "vocab_size": 31}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))


# model, targets, arguments of apply_lora, PEFT's class, task in the config
MODELS = {
    "gpt2": (gpt2, "c_attn", {"enable_lora": Q_V}, "AutoPeftModelForCausalLM", "CAUSAL_LM"),
    "llama": (lambda: llama("LlamaForCausalLM"), "q_proj", {}, "AutoPeftModelForCausalLM", "CAUSAL_LM"),
    "t5": (t5, ["q", "v"], {}, "AutoPeftModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
    "bert, classes": (
        lambda: bert("BertForSequenceClassification", num_labels=3),
        "query",
        {"trainable": "classifier"},
        "AutoPeftModelForSequenceClassification",
        "SEQ_CLS",
    ),
    "llama, classes": (
        lambda: llama("LlamaForSequenceClassification"),
        "q_proj",
        {"trainable": "score"},
        "AutoPeftModelForSequenceClassification",
        "SEQ_CLS",
    ),
    "bert, tokens": (
        lambda: bert("BertForTokenClassification"),
        "query",
        {"trainable": "classifier"},
        "AutoPeftModelForTokenClassification",
        "TOKEN_CLS",
    ),
    "bert, answers": (
        lambda: bert("BertForQuestionAnswering"),
        "query",
        {"trainable": "qa_outputs"},
        "AutoPeftModelForQuestionAnswering",
        "QUESTION_ANS",
    ),
    # PEFT's class for the task wants the head in the file, which a frozen one, or one with LoRA in it, is not.
    "frozen head": (lambda: bert("BertForSequenceClassification"), "query", {}, "AutoPeftModel", None),
    "LoRA on head": (lambda: bert("BertForTokenClassification"), ["query", "classifier"], {}, "AutoPeftModel", None),
    "no task": (lambda: bert("BertForMaskedLM"), "query", {}, "AutoPeftModel", None),
    "no head": (lambda: bert("BertModel"), "query", {}, "AutoPeftModel", None),
}


@pytest.fixture(params=MODELS)
def case(request, tmp_path, monkeypatch):
    """A base model saved in ``base`` and the folder of an adapter for it; the model with the adapter."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    build, targets, arguments, auto, task = MODELS[request.param]
    torch.manual_seed(0)
    build().save_pretrained(tmp_path / "base")
    model = type(build()).from_pretrained(tmp_path / "base").eval()
    filled(loralib.apply_lora(model, targets, 2, 8, **arguments))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(1)
    loralib.save_adapter(model, tmp_path / "adapter")
    return model, tmp_path, auto, task


def output(model: nn.Module) -> torch.Tensor:
    inputs = {"decoder_input_ids": IDS} if getattr(model.config, "is_encoder_decoder", False) else {}
    return model(input_ids=IDS, **inputs)[0]


@pytest.mark.slow
def test_the_auto_class_of_peft_opens_a_folder_by_itself(case):
    import peft

    model, folder, auto, task = case
    config = config_of(folder / "adapter")
    assert config["task_type"] == task and config["base_model_name_or_path"] == str(folder / "base")
    theirs = getattr(peft, auto).from_pretrained(folder / "adapter").eval()
    torch.testing.assert_close(output(theirs), output(model), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_code_of_the_card_loads_the_adapter_with_loralib_and_with_peft(case):
    model, folder, _, _ = case
    for block in re.findall(r"```python\n(.*?)```", (folder / "adapter" / "README.md").read_text(), flags=re.DOTALL):
        names: dict = {}
        exec(block.replace("path/to/this/folder", str(folder / "adapter")), names)
        torch.testing.assert_close(output(names["model"].eval()), output(model), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_models_that_do_not_read_text_get_no_task(tmp_path):
    import transformers

    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 31}
    config = transformers.WhisperConfig(**sizes, decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8)
    config.pad_token_id = config.bos_token_id = config.eos_token_id = config.decoder_start_token_id = 0
    model = loralib.apply_lora(transformers.WhisperForConditionalGeneration(config), "q_proj", 1, 1)
    assert config_of(saved(tmp_path, model))["auto_mapping"]["base_model_class"] == "WhisperForConditionalGeneration"


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_has_the_front_matter_of_the_hub_and_the_numbers_of_the_adapter(tmp_path):
    import yaml

    model = adapted(trainable="classifier", rank_pattern={"h.1.query": 1})
    model.name_or_path = 'a "base": #1'
    text = (saved(tmp_path, model) / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    tags = ["lora", 'base_model:adapter:a "base": #1']
    assert front == {"base_model": 'a "base": #1', "library_name": "peft", "tags": tags}
    count = loralib.trainable_summary(model)
    rows = dict(re.findall(r"^\| (.*?) \| (.*) \|$", text, flags=re.MULTILINE))
    assert rows["base model"] == 'Net, `a "base": #1`'
    assert rows["adapted modules"] == "`c_attn`, `query`, `wte`"
    assert (rows["rank"], rows["alpha"], rows["scale"]) == ("1, 2, 4", "4, 8", "alpha / rank")
    assert rows["parameters"] == f"{count.adapter:,}"
    assert rows["saved with it"] == f"`classifier`; biases: none; {count.head:,} parameters"


def test_a_card_of_ones_own_is_left_alone_and_ours_is_replaced(tmp_path):
    model = adapted()
    card = saved(tmp_path, model) / "README.md"
    first = card.read_text()
    model.name_or_path = "other"
    assert saved(tmp_path, model) and "other" in card.read_text() != first
    card.write_text(card.read_text().replace(CARD_MARK, "").replace("# LoRA adapter", "# My adapter"))
    own = card.read_text()
    saved(tmp_path, adapted())
    assert card.read_text() == own


def test_a_model_without_a_name_has_a_card_that_names_its_class(tmp_path):
    text = (saved(tmp_path, loralib.apply_lora(net(), ["query"], 2, 4)) / "README.md").read_text()
    assert "| base model | Net |" in text and "base_model" not in text and "base = ...\n" in text
    assert json.loads((Path(tmp_path) / "adapter_config.json").read_text())["base_model_name_or_path"] is None
