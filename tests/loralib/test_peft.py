"""PEFT reads the folders that we write, and we those that it writes, with equal outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import loralib
from tests.loralib.models import filled
from tests.loralib.test_transformers_models import IDS, Q_V, gpt2, roberta

pytestmark = pytest.mark.slow

# float64: the order of a few additions
CLOSE = {"rtol": 0, "atol": 1e-10}
HEAD = {"trainable": "classifier"}

# base model, targets, further arguments of apply_lora
OURS = {
    "roberta": (roberta, ["query", "value"], HEAD),
    "roberta, one rank for each": (
        roberta,
        ["query", "value", "dense"],
        {"exclude": "classifier.dense", "rank_pattern": {"0.attention.self.query": 1, "dense": 3}} | HEAD,
    ),
    "roberta, alphas": (roberta, ["query"], {"alpha_pattern": {"layer.1.*query": 64}} | HEAD),
    "roberta, lora_only": (roberta, ["query"], {"bias": "lora_only"} | HEAD),
    "roberta, all biases": (roberta, ["query"], {"bias": "all"} | HEAD),
    "gpt2, fused": (gpt2, "attn.c_attn", {"enable_lora": Q_V}),
    "gpt2, one block": (gpt2, "attn.c_attn", {"enable_lora": [False, False, True]}),
    "gpt2, whole": (gpt2, "c_attn", {}),
    "gpt2, embedding": (gpt2, ["wte", "wpe"], {}),
    "gpt2, all kinds": (gpt2, ["c_attn", "c_proj", "wte"], {"enable_lora": {"c_attn": Q_V}}),
    "gpt2, rslora": (gpt2, ["c_attn", "c_proj"], {"enable_lora": {"c_attn": Q_V}, "use_rslora": True}),
    "gpt2, unequal blocks": (gpt2, "attn.c_attn", {"enable_lora": Q_V, "block_sizes": [20, 6, 10]}),
}


def moved(model: nn.Module) -> nn.Module:
    """The model with all that trains changed."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.mark.parametrize("case", OURS)
def test_peft_computes_the_same_from_our_folder_and_its_copy_comes_back(case, tmp_path):
    import peft

    build, targets, arguments = OURS[case]
    model = moved(loralib.apply_lora(build().double(), targets, 2, 8, **arguments))
    logits = model(IDS).logits
    assert (logits - build().double()(IDS).logits).abs().max() > 1e-3
    loralib.save_adapter(model, tmp_path / "ours", bias=arguments.get("bias", "none"))
    theirs = peft.PeftModel.from_pretrained(build().double(), tmp_path / "ours", autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(theirs(IDS).logits, logits, **CLOSE)

    theirs.save_pretrained(tmp_path / "theirs")
    for target in (build().double(), loralib.apply_lora(build().double(), targets, 2, 8, **arguments)):
        torch.testing.assert_close(loralib.load_adapter(target, tmp_path / "theirs")(IDS).logits, logits, **CLOSE)


# base model, arguments of peft.LoraConfig
THEIRS = {
    "roberta": (roberta, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    "roberta, expression": (roberta, {"target_modules": r".*\.layer\.1\..*query", "modules_to_save": ["classifier"]}),
    "roberta, patterns": (
        roberta,
        {"target_modules": ["query", "key"], "rank_pattern": {"key": 7}, "alpha_pattern": {"0.attention.self.key": 3}},
    ),
    "roberta, rslora": (roberta, {"target_modules": ["query"], "use_rslora": True}),
    "roberta, lora_only": (roberta, {"target_modules": ["query"], "bias": "lora_only"}),
    "gpt2": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "gpt2, embedding": (gpt2, {"target_modules": ["wte", "c_fc"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("case", THEIRS)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_folder_that_peft_wrote_computes_the_same_here(case, safe, tmp_path):
    import peft

    build, config = THEIRS[case]
    base = build().double()
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=3, lora_alpha=5, **config))
    moved(theirs.double().eval())
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    ours = loralib.load_adapter(base, tmp_path)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, **CLOSE)


def test_a_convolution_adapter_of_peft_is_refused(tmp_path):
    import peft

    net = nn.Sequential(nn.Conv2d(2, 3, 3))
    peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(r=2, target_modules=["0"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="0: is a convolution, whose factors have another meaning in PEFT's format"):
        loralib.load_adapter(net, tmp_path)
    assert type(net[0]) is nn.Conv2d


@pytest.mark.parametrize("feature", ["use_dora", "lora_bias"])
def test_features_of_peft_that_we_lack_are_refused(feature, tmp_path):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["query"], **{feature: True})
    peft.get_peft_model(roberta(), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"uses {feature}, which these layers do not have"):
        loralib.load_adapter(roberta(), tmp_path)


def test_our_update_and_that_of_peft_are_the_same_weights_once_merged(tmp_path):
    import peft

    model = filled(loralib.apply_lora(gpt2().double(), "c_attn", 2, 8, enable_lora=Q_V))
    loralib.save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(gpt2().double(), tmp_path).merge_and_unload().state_dict()
    ours = loralib.remove_lora(model).state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], **CLOSE)


# --- nn.MultiheadAttention -------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """nn.MultiheadAttention beside a linear layer and, like some encoders of images, in a list."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.lin = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x, x, x, need_weights=False)[0]
        return self.lin(x)


def attention() -> nn.Module:
    torch.manual_seed(0)
    return Attention().double().eval()


X = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ATTENTIONS = {
    "whole": {},
    "query and value": {"enable_lora": {r"blocks\.\d": Q_V}},
    "one block": {"enable_lora": {r"blocks\.\d": [False, True, False]}},
    "larger rank of the output": {"rank_pattern": {"out_proj": 5}, "alpha_pattern": {"out_proj": 20}},
    "smaller rank of the output": {"rank_pattern": {"1.out_proj": 1}, "alpha_pattern": {"1.out_proj": 4}},
    "rslora": {"enable_lora": {r"blocks\.\d": Q_V}, "use_rslora": True},
    "biases": {"bias": "all"},
    "biases of LoRA layers": {"bias": "lora_only"},
}


@pytest.mark.parametrize("case", ATTENTIONS)
def test_peft_computes_the_same_from_an_attention_and_its_copy_comes_back(case, tmp_path):
    import peft

    arguments = ATTENTIONS[case]
    targets = [r"blocks\.\d", "lin"]
    model = moved(loralib.apply_lora(attention(), targets, 2, 8, **arguments))
    y = model(X)
    assert (y - attention()(X)).abs().max() > 1e-3
    loralib.save_adapter(model, tmp_path / "ours", bias=arguments.get("bias", "none"))
    again = loralib.load_adapter(attention(), tmp_path / "ours")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())

    theirs = peft.PeftModel.from_pretrained(attention(), tmp_path / "ours", autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(theirs(X), y, **CLOSE)
    theirs.save_pretrained(tmp_path / "theirs")
    for target in (attention(), loralib.apply_lora(attention(), targets, 2, 8, **arguments)):
        if arguments.get("bias") == "all":  # PEFT saves no in_proj_bias
            continue
        torch.testing.assert_close(loralib.load_adapter(target, tmp_path / "theirs")(X), y, **CLOSE)


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_an_attention_adapter_of_peft_computes_the_same_here(bias, tmp_path):
    import peft

    config = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, target_modules=["blocks.0", "lin"], bias=bias)
    theirs = peft.get_peft_model(attention(), config, autocast_adapter_dtype=False).eval()
    for name, parameter in theirs.named_parameters():
        if "in_proj" not in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.3 * parameter.requires_grad)
    theirs.save_pretrained(tmp_path)
    ours = loralib.load_adapter(attention(), tmp_path)
    torch.testing.assert_close(ours(X), theirs(X), **CLOSE)
    assert ours.lin.lora_dropout.p == 0.1  # an attention has none, in PEFT neither


def test_what_peft_has_no_form_for_in_an_attention_is_refused(tmp_path):
    model = loralib.apply_lora(attention(), "blocks.0", 2, 8, alpha_pattern={"out_proj": 1})
    message = "blocks.0.out_proj has scale 0.5 and blocks.0 4; PEFT has one scale for both"
    with pytest.raises(ValueError, match=message):
        loralib.save_adapter(model, tmp_path)
    model = loralib.apply_lora(attention(), "blocks.0.out_proj", 2, 8)
    with pytest.raises(ValueError, match=r"blocks.0.out_proj .*without the attention"):
        loralib.save_adapter(model, tmp_path)
