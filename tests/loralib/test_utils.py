"""Which parameters are trained and saved: the recorded lists, and where we depart from them on purpose."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import loralib
from tests.loralib.toys import randomize
from tests.shared_data import GOLDEN

RECORDED = json.loads((GOLDEN / "loralib" / "utils.json").read_text())
MODES = ["none", "all", "lora_only"]
NOT_A_BIAS = "v_nobias.weight"  # taken for a bias by the released code, because the name of its module contains "bias"


class Clean(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = loralib.Embedding(5, 4, r=2)
        self.q = loralib.Linear(4, 4, r=2)
        self.k = nn.Linear(4, 4)
        self.v_nobias = loralib.Linear(4, 4, r=2, bias=False)
        self.qkv = loralib.MergedLinear(4, 12, r=2, enable_lora=[True, False, True])
        self.ln = nn.LayerNorm(4)
        self.conv = loralib.Conv2d(4, 4, 3, r=1)
        self.head = nn.Linear(4, 2)


class Quirky(nn.Module):
    """Names that a search for substrings in the whole path gets wrong."""

    def __init__(self):
        super().__init__()
        self.r0 = loralib.Linear(4, 4)
        self.bias_proj = nn.Linear(4, 4, bias=False)
        self.lora_head = nn.Linear(4, 4)
        self.lora_block = nn.Sequential(loralib.Linear(4, 4, r=1))
        self.conv_nobias = loralib.Conv2d(4, 4, 3, r=1, bias=False)
        self.register_buffer("bias_table", torch.zeros(2))


def trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("bias", MODES)
def test_trainable_parameters_of_a_clean_model_are_the_recorded_ones(bias):
    model = Clean()
    assert loralib.mark_only_lora_as_trainable(model, bias) is None
    recorded = [name for name in RECORDED[f"Clean|{bias}"]["trainable"] if name != NOT_A_BIAS]
    assert trainable(model) == recorded


@pytest.mark.parametrize("bias", MODES)
def test_adapter_keys_of_a_clean_model_are_the_recorded_ones_in_order(bias):
    # conv.conv.*: second registration of the convolution's parameters in the released package, dropped here.
    recorded = [key for key in RECORDED[f"Clean|{bias}"]["lora_state_dict_keys"] if not key.startswith("conv.conv.")]
    recorded = [key for key in recorded if key != NOT_A_BIAS]
    assert list(loralib.lora_state_dict(Clean(), bias)) == recorded


# Departures: modules called lora_head, lora_block, bias_proj, v_nobias, conv_nobias are judged by what they are, not by
# their names; biases of layers without rank are neither trained nor saved by lora_only; buffers are never saved.
LORA = ["lora_block.0.lora_A", "lora_block.0.lora_B", "conv_nobias.lora_A", "conv_nobias.lora_B"]
QUIRKY_TRAINABLE = {
    "none": LORA,
    "all": ["r0.bias", "lora_head.bias", "lora_block.0.bias", *LORA],
    "lora_only": ["lora_block.0.bias", *LORA],
}
QUIRKY_KEYS = {
    **QUIRKY_TRAINABLE,
    "lora_only": ["lora_block.0.lora_A", "lora_block.0.bias", "lora_block.0.lora_B", *LORA[2:]],
}
RELEASED_ONLY = {
    "none": {"lora_head.weight", "lora_head.bias", "lora_block.0.bias"},
    "all": {"lora_head.weight", "bias_proj.weight", "conv_nobias.weight"},
    "lora_only": {"lora_head.weight", "lora_head.bias", "r0.bias"},
}


@pytest.mark.parametrize("bias", MODES)
def test_odd_module_names_do_not_decide(bias):
    model = Quirky()
    loralib.mark_only_lora_as_trainable(model, bias)
    assert trainable(model) == QUIRKY_TRAINABLE[bias]
    assert list(loralib.lora_state_dict(model, bias)) == QUIRKY_KEYS[bias]
    recorded = RECORDED[f"Quirky|{bias}"]["trainable"]
    assert set(recorded) - set(QUIRKY_TRAINABLE[bias]) == RELEASED_ONLY[bias]
    assert set(QUIRKY_TRAINABLE[bias]) <= set(recorded)


@pytest.mark.parametrize("bias", MODES)
@pytest.mark.parametrize("model", [Clean, Quirky])
def test_what_is_trained_is_what_is_saved(model, bias):
    model = model()
    loralib.mark_only_lora_as_trainable(model, bias)
    assert set(trainable(model)) == set(loralib.lora_state_dict(model, bias))


def test_frozen_lora_parameters_are_switched_on_again():
    model = Clean().requires_grad_(False)
    loralib.mark_only_lora_as_trainable(model)
    assert RECORDED["previously_frozen|none"]["trainable"] == []  # the released code never switches them on
    assert trainable(model) == RECORDED["Clean|none"]["trainable"]


def test_a_bad_mode_is_reported_before_anything_is_frozen():
    model = Clean()
    before = trainable(model)
    with pytest.raises(NotImplementedError, match="unknown bias mode 'bogus'; choose from none, all, lora_only"):
        loralib.mark_only_lora_as_trainable(model, "bogus")
    assert trainable(model) == before
    with pytest.raises(NotImplementedError, match="unknown bias mode 'bogus'; choose from none, all, lora_only"):
        loralib.lora_state_dict(model, "bogus")


def test_biases_of_torch_modules_with_other_names_count_as_biases():
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "rnn": nn.GRU(4, 4), "q": loralib.Linear(4, 4, r=1)})
    loralib.mark_only_lora_as_trainable(model, "all")
    assert set(trainable(model)) == {
        "attn.in_proj_bias",
        "attn.out_proj.bias",
        "rnn.bias_ih_l0",
        "rnn.bias_hh_l0",
        "q.bias",
        "q.lora_A",
        "q.lora_B",
    }


def test_a_parameter_called_lora_outside_a_lora_layer_is_frozen():
    model = Clean()
    model.register_parameter("lora_scale", nn.Parameter(torch.ones(1)))
    loralib.mark_only_lora_as_trainable(model)
    assert "lora_scale" not in trainable(model) and "lora_scale" not in loralib.lora_state_dict(model)


@pytest.mark.parametrize("bias", MODES)
def test_an_adapter_is_the_same_in_train_and_eval_mode_and_shares_memory(bias):
    model = Clean()
    randomize(model)
    trained = loralib.lora_state_dict(model, bias)
    model.eval().qkv(torch.zeros(1, 4))
    saved = loralib.lora_state_dict(model, bias)
    assert list(saved) == list(trained)
    for key, value in saved.items():
        assert torch.equal(value, trained[key]) and value.data_ptr() == model.get_parameter(key).data_ptr()


def test_base_file_and_adapter_file_together_give_the_model_back():
    class Small(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.q, self.head = linear(6, 6), nn.Linear(6, 2)

    base = Small(nn.Linear)
    source = Small(lambda *sizes: loralib.Linear(*sizes, r=2))
    source.load_state_dict(base.state_dict(), strict=False)
    randomize(source)
    with torch.no_grad():
        source.q.bias.add_(1)
    target = Small(lambda *sizes: loralib.Linear(*sizes, r=2)).eval()
    assert target.load_state_dict(base.state_dict(), strict=False).missing_keys == ["q.lora_A", "q.lora_B"]
    target.load_state_dict(loralib.lora_state_dict(source.eval(), "lora_only"), strict=False)
    x = torch.randn(3, 6)
    assert torch.equal(target.q(x), source.q(x))


def test_a_lora_layer_itself_can_be_the_model():
    layer = loralib.Linear(4, 4, r=1)
    loralib.mark_only_lora_as_trainable(layer)
    assert trainable(layer) == list(loralib.lora_state_dict(layer)) == ["lora_A", "lora_B"]
    assert list(loralib.lora_state_dict(layer, "lora_only")) == ["lora_A", "bias", "lora_B"]


def test_a_layer_used_in_two_places_is_saved_under_both_names():
    layer = loralib.Linear(4, 4, r=1)
    model = nn.ModuleDict({"a": layer, "b": layer})
    assert list(loralib.lora_state_dict(model)) == ["a.lora_A", "a.lora_B", "b.lora_A", "b.lora_B"]


def test_a_fused_layer_with_nothing_enabled_has_nothing_to_train():
    layer = loralib.MergedLinear(4, 12, r=2)
    loralib.mark_only_lora_as_trainable(layer, "lora_only")
    assert trainable(layer) == [] and loralib.lora_state_dict(layer, "lora_only") == {}
