"""Which parameters are trained and saved: the recorded lists, and the one key in them that is mended."""

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
    assert trainable(model) == RECORDED[f"Clean|{bias}"]["trainable"]


@pytest.mark.parametrize("bias", MODES)
def test_adapter_keys_of_a_clean_model_are_the_recorded_ones_in_order(bias):
    # conv.conv.*: second registration of the convolution's parameters in the released package, dropped here.
    recorded = [key for key in RECORDED[f"Clean|{bias}"]["lora_state_dict_keys"] if not key.startswith("conv.conv.")]
    assert list(loralib.lora_state_dict(Clean(), bias)) == recorded


@pytest.mark.parametrize("bias", MODES)
def test_the_full_name_decides_as_released(bias):
    """Programs count on it: own ``lora_...`` parameters and modules train and are saved (``lora_head`` here)."""
    model = Quirky()
    loralib.mark_only_lora_as_trainable(model, bias)
    recorded = RECORDED[f"Quirky|{bias}"]["trainable"]
    # The released code trains the bias of a layer without rank in lora_only mode, and does not save it.
    assert trainable(model) == [name for name in recorded if (bias, name) != ("lora_only", "r0.bias")]


@pytest.mark.parametrize("bias", MODES)
def test_keys_of_the_file_are_the_recorded_ones(bias):
    recorded = [k for k in RECORDED[f"Quirky|{bias}"]["lora_state_dict_keys"] if not k.startswith("conv_nobias.conv.")]
    assert list(loralib.lora_state_dict(Quirky(), bias)) == recorded


def test_a_bias_in_the_file_is_that_of_its_layer_however_the_parents_are_called():
    model = nn.ModuleDict({"my_lora_net": nn.ModuleDict({"bias": nn.Identity(), "q": loralib.Linear(2, 2, r=1)})})
    keys = list(loralib.lora_state_dict(model["my_lora_net"], "lora_only"))
    assert keys == ["q.lora_A", "q.bias", "q.lora_B"]
    # The released code looks for the text before the first lora_, here "my_bias".
    assert "my_lora_net.q.bias" in loralib.lora_state_dict(model, "lora_only")


class Mixed(nn.Module):
    """LoRA in the manner of other programs, which freeze and save it by the released functions."""

    def __init__(self):
        super().__init__()
        self.lora_A_img = nn.Parameter(torch.ones(2))
        self.experts = nn.ModuleDict({"lora_q": nn.Linear(2, 2, bias=False)})
        self.base = nn.Linear(2, 2)


def test_parameters_that_a_program_calls_lora_train_and_are_saved():
    model = Mixed()
    loralib.mark_only_lora_as_trainable(model)
    assert trainable(model) == list(loralib.lora_state_dict(model)) == ["lora_A_img", "experts.lora_q.weight"]
    assert loralib.trainable_summary(model).adapter == 6


@pytest.mark.parametrize("bias", MODES)
def test_what_is_trained_is_what_is_saved(bias):
    model = Clean()
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


@pytest.mark.parametrize("bias", MODES)
def test_an_adapter_is_the_same_in_train_and_eval_mode_and_shares_memory(bias):
    model = Clean()
    randomize(model)
    trained = loralib.lora_state_dict(model, bias)
    model.eval().qkv(torch.zeros(1, 4))
    saved = loralib.lora_state_dict(model, bias)
    assert list(saved) == list(trained)
    for key, value in saved.items():
        assert torch.equal(value, trained[key]) and value.data_ptr() == dict(model.named_parameters())[key].data_ptr()


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
