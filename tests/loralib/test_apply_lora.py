"""``apply_lora`` replaces the named layers around their own Parameters, all of them or none; all else stays."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import loralib
from loralib.inject import lora_layers
from tests.loralib.models import EVERY_KIND, IDS, Block, Conv1D, filled, net

FUSED = {"c_attn": [True, False, True]}


def applied(model=None, targets=EVERY_KIND, **kwargs):
    return loralib.apply_lora(net() if model is None else model, targets, 2, 4, **{"enable_lora": FUSED, **kwargs})


def test_the_new_layers_are_of_these_classes():
    kinds = {name: type(layer) for name, layer in lora_layers(applied()).items()}
    assert kinds == {
        "wte": loralib.Embedding,
        "h.0.query": loralib.Linear,
        "h.0.c_attn": loralib.MergedLinear,
        "h.1.query": loralib.Linear,
        "h.1.c_attn": loralib.MergedLinear,
        "conv": loralib.Conv1d,
        "picture": loralib.Conv2d,
    }
    plain = loralib.apply_lora(net(), "c_attn", 2, 4)
    assert type(plain.h[0].c_attn) is loralib.Linear and plain.h[0].c_attn.fan_in_fan_out


@pytest.mark.parametrize("mode", [True, False])
def test_output_is_unchanged_at_the_start_and_the_mode_is_kept(mode):
    model = net().train(mode)
    before = model(IDS)
    assert applied(model) is model
    assert all(module.training == mode for module in model.modules())
    assert not any(layer.merged for layer in lora_layers(model).values()), "merging is asked for, never a side effect"
    torch.testing.assert_close(model(IDS), before, rtol=0, atol=1e-5)


def test_a_filled_model_computes_the_same_merged_and_not():
    model = filled(applied())
    before = net()(IDS)
    y = model(IDS)
    assert (y - before).abs().max() > 1
    torch.testing.assert_close(model.eval()(IDS), y)


def test_keys_are_the_old_ones_with_the_factors_after_each_adapted_layer():
    old, model = net(), applied()
    expected = []
    adapted = lora_layers(model)
    for name, module in old.named_modules():
        expected += [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
        expected += [f"{name}.{key}" for key in ("lora_A", "lora_B") if name in adapted]
    assert list(model.state_dict()) == expected
    assert [key for key in expected if "lora_" not in key] == list(old.state_dict())


def test_parameters_are_adopted_not_copied():
    model = net()
    old = dict(model.named_parameters(remove_duplicate=False))
    applied(model)
    new = dict(model.named_parameters(remove_duplicate=False))
    assert all(new[name] is parameter for name, parameter in old.items())
    assert model.lm_head.weight is model.wte.weight


def test_no_random_number_is_drawn_but_for_the_factors():
    model = net()
    torch.manual_seed(7)
    applied(model)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    for layer in lora_layers(model).values():
        twin = copy.deepcopy(layer)
        twin.reset_lora_parameters()
        assert torch.equal(twin.lora_A, layer.lora_A) and torch.equal(twin.lora_B, layer.lora_B)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_factors_have_the_dtype_of_the_weight_or_float32_beside_a_half_precision_one_unless_told_otherwise(dtype):
    layers = lora_layers(applied(net().to(dtype))).values()
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    assert {layer.lora_A.dtype for layer in layers} == {wide} == {layer.lora_B.dtype for layer in layers}
    assert {layer.weight.dtype for layer in layers} == {dtype}
    layers = lora_layers(applied(net().to(dtype), lora_dtype=torch.bfloat16)).values()
    assert {layer.lora_A.dtype for layer in layers} == {torch.bfloat16} == {layer.lora_B.dtype for layer in layers}


def test_a_model_on_the_meta_device_stays_there_and_can_be_filled_later():
    with torch.device("meta"):
        model = net()
    state = torch.get_rng_state()
    applied(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    source = filled(applied())
    model.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(model(IDS), source(IDS))


def test_options_of_the_old_layers_are_kept():
    model = applied()
    assert model.wte.padding_idx == 0 and model.conv.groups == 2 and model.conv.padding == (1,)
    assert model.picture.stride == (2, 2) and model.picture.padding_mode == "circular"
    assert applied(targets="myquery", enable_lora=None).h[0].myquery.bias is None


def test_settings_reach_the_layers():
    model = applied(dropout=0.25, merge_weights=False, lora_init="gaussian_ab_over_r")
    for layer in lora_layers(model).values():
        assert (layer.r, layer.lora_alpha, layer.merge_weights) == (2, 4, False)
        assert layer.lora_A.any() and layer.lora_B.any()
        if not isinstance(layer, loralib.Embedding):
            assert layer.lora_dropout.p == 0.25


def test_attributes_that_others_put_on_a_module_are_carried_over_and_back():
    model = net()
    model.h[0].query.marked_by_a_library = True
    applied(model)
    assert model.h[0].query.marked_by_a_library and model.h[0].c_attn.nf == 18
    assert loralib.remove_lora(model, untie=True).h[0].query.marked_by_a_library


# --- names -----------------------------------------------------------------------------------------------------------


def names(targets, **kwargs):
    return list(lora_layers(loralib.apply_lora(net(), targets, 2, 4, **kwargs)))


def test_a_name_matches_whole_components():
    assert names("query") == ["h.0.query", "h.1.query"]
    assert names("0.query") == names("h.0.query") == ["h.0.query"]
    assert names(["c_attn", "0.query"]) == ["h.0.query", "h.0.c_attn", "h.1.c_attn"]


def test_other_characters_make_a_regular_expression_for_whole_components():
    assert names("query|myquery") == ["h.0.query", "h.0.myquery", "h.1.query", "h.1.myquery"]
    assert names(r"1\..*query") == names(re.compile("1[.].*query")) == ["h.1.query", "h.1.myquery"]
    assert names("quer[y]") == ["h.0.query", "h.1.query"]


def test_exclude_takes_targets_away():
    assert names(["query", "c_attn"], exclude="h.0.query") == ["h.0.c_attn", "h.1.query", "h.1.c_attn"]
    assert names("query.*", exclude=["query_proj"]) == ["h.0.query", "h.1.query"]


def test_patterns_give_single_modules_their_rank_and_alpha_and_the_first_match_wins():
    model = applied(
        targets=["query", "c_attn"],
        rank_pattern={"h.0.query": 1, "query": 3, "h.1.query": 5},
        alpha_pattern={r"1\..*": 8.5},
    )
    assert {name: (layer.r, layer.lora_alpha) for name, layer in lora_layers(model).items()} == {
        "h.0.query": (1, 4),
        "h.0.c_attn": (2, 4),
        "h.1.query": (3, 8.5),
        "h.1.c_attn": (2, 8.5),
    }


def test_enable_lora_makes_fused_layers_of_all_targets_or_of_those_named():
    model = loralib.apply_lora(net(), ["query", "c_attn"], 2, 4, enable_lora=[True, False])
    assert {type(layer) for layer in lora_layers(model).values()} == {loralib.MergedLinear}
    assert not model.h[0].query.fan_in_fan_out and model.h[0].c_attn.fan_in_fan_out
    model = loralib.apply_lora(net(), ["query", "c_attn"], 2, 4, enable_lora={"0.c_attn": [False, True, True]})
    kinds = [type(layer) for layer in lora_layers(model).values()]
    assert kinds == [loralib.Linear, loralib.MergedLinear, loralib.Linear, loralib.Linear]


# --- what trains -----------------------------------------------------------------------------------------------------


def trained(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_only_the_factors_train_unless_told_otherwise():
    factors = ["h.0.query.lora_A", "h.0.query.lora_B", "h.1.query.lora_A", "h.1.query.lora_B"]
    head = ["classifier.0.weight", "classifier.0.bias", "classifier.2.weight", "classifier.2.bias"]
    assert trained(applied(targets="query", enable_lora=None)) == factors
    assert trained(applied(targets="query", enable_lora=None, trainable="classifier")) == factors + head
    assert set(trained(applied(targets="query", enable_lora=None, trainable=["classifier.2"]))) == {
        *factors,
        *head[2:],
    }
    lora_only = trained(applied(targets="query", enable_lora=None, bias="lora_only"))
    assert set(lora_only) == {*factors, "h.0.query.bias", "h.1.query.bias"}


def test_without_freezing_the_adopted_weights_alone_are_frozen():
    model = applied(targets="query", enable_lora=None, freeze=False)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["h.0.query.weight", "h.1.query.weight"]


def test_a_step_changes_the_factors_and_the_head_and_nothing_else():
    model = filled(applied(trainable="classifier"))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(IDS).square().sum().backward()
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(trained(model))


# --- modules and weights that are used twice --------------------------------------------------------------------------


def test_a_module_used_in_two_places_stays_one_module():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": nn.ModuleDict({"q": shared}), "b": nn.ModuleDict({"q": shared})})
    loralib.apply_lora(model, "q", 2, 4)
    assert model["a"]["q"] is model["b"]["q"] and isinstance(model["a"]["q"], loralib.Linear)
    loralib.remove_lora(model)
    assert model["a"]["q"] is model["b"]["q"] and type(model["a"]["q"]) is nn.Linear


def test_a_tied_head_goes_on_with_the_frozen_table():
    model = filled(applied(targets="wte", enable_lora=None)).eval()
    table = model.wte.weight.clone()
    x = torch.randn(2, 6)
    assert torch.equal(model.lm_head(x), x @ table.T)
    assert not torch.equal(model.wte(IDS), nn.functional.embedding(IDS, table))
    assert torch.equal(model.wte.weight, table)


# --- refusals --------------------------------------------------------------------------------------------------------


def parametrized(model):
    nn.utils.parametrizations.weight_norm(model.h[1].query)


def shared_module(model):
    model.h[1].query = model.h[0].query_proj


REFUSED = {
    "nothing matches": ({"targets": "qeury"}, ValueError, "target 'qeury' matches no module; did you mean query,"),
    "one of two": ({"targets": ["query", "atn.q"]}, ValueError, "target 'atn.q' matches no module"),
    "part of a word": ({"targets": "proj"}, ValueError, "the modules are called wte, h, query, query_proj"),
    "no target": ({"targets": []}, ValueError, "targets is empty"),
    "empty name": ({"targets": ["query", ""]}, ValueError, "targets: an empty name"),
    "no pattern": ({"targets": [3]}, TypeError, "targets: expected a name or a regular expression, got 3"),
    "bad pattern": ({"targets": "query("}, ValueError, r"targets: 'query\(' is no regular expression"),
    "all excluded": ({"targets": ["wte", "query"], "exclude": "query"}, ValueError, "only modules that exclude takes"),
    "idle exclude": ({"targets": "query", "exclude": "c_attn"}, ValueError, "exclude='c_attn' matches none of the tar"),
    "idle rank": ({"rank_pattern": {"qery": 1}}, ValueError, "rank_pattern key 'qery' matches none of the targets: w"),
    "idle alpha": ({"alpha_pattern": {"ln": 1}}, ValueError, "alpha_pattern key 'ln' matches none of the targets"),
    "container": ({"targets": ["c_attn", "h"]}, TypeError, "^h is a torch.nn.modules.container.ModuleList, which LoRA"),
    "layer norm": ({"targets": ["c_attn", "ln"]}, TypeError, r"^h.0.ln is a .*LayerNorm, which .*can: linear layers"),
    "rank 0": ({"rank_pattern": {"wte": 0}}, ValueError, "^wte r=0 adapts nothing"),
    "rank no number": ({"rank_pattern": {"wte": 1.5}}, TypeError, "^wte rank r must be an integer, got r=1.5"),
    "dropout": ({"dropout": 1.5}, ValueError, "must be a probability"),
    "init": ({"lora_init": "gaussian"}, ValueError, "unknown lora_init 'gaussian'"),
    "no block": ({"enable_lora": {"c_attn": [False] * 3}}, ValueError, "^h.0.c_attn enable_lora=.* enables no block"),
    "blocks of no linear": ({"enable_lora": [True, False]}, ValueError, "^wte enable_lora is for linear layers; give"),
    "indivisible": ({"enable_lora": {"c_attn": [True] * 4}}, ValueError, "^h.0.c_attn out_features must be divisible"),
    "bias mode": ({"bias": "lora"}, NotImplementedError, "unknown bias mode 'lora'"),
    "freeze": ({"freeze": False, "trainable": "classifier"}, ValueError, "with freeze=False leave them out"),
    "no head": ({"trainable": "clasifier"}, ValueError, "trainable 'clasifier' matches no module; did you mean class"),
    "tied head": ({"trainable": "lm_head"}, ValueError, "trainable module lm_head uses the weight of wte, which LoRA"),
    "parametrized": ({}, TypeError, "^h.1.query is a .*ParametrizedLinear", parametrized),
    "used elsewhere": ({}, ValueError, "^h.1.query is the same module as h.0.query_proj; target", shared_module),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_is_wrong_and_changes_nothing(case):
    arguments, error, message, *prepare = REFUSED[case]
    model = net()
    for change in prepare:
        change(model)
    modules = {name: (module, module.training) for name, module in model.named_modules(remove_duplicate=False)}
    parameters = {name: (p, p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)}
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        applied(model, **arguments)
    assert modules == {n: (module, module.training) for n, module in model.named_modules(remove_duplicate=False)}
    after = {name: (p, p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)}
    assert list(after) == list(parameters)
    assert all(after[name][0] is p and after[name][1] == grad for name, (p, grad) in parameters.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_lora_is_not_put_on_twice():
    model = applied()
    with pytest.raises(TypeError, match=r"^h.0.query is a LoRA layer already \(r=2\); take it away first with loralib"):
        loralib.apply_lora(model, ["query"], 2, 4)
    loralib.apply_lora(model, "query_proj", 1, 1)
    assert model.h[0].query_proj.r == 1 and model.h[0].query.lora_A.requires_grad


def test_a_class_that_is_only_called_conv1d_is_refused():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 2))

    Other.__name__ = Conv1D.__name__
    with pytest.raises(TypeError, match="which LoRA cannot adapt"):
        loralib.apply_lora(nn.ModuleDict({"q": Other()}), "q", 1, 1)


def test_a_layer_that_is_the_whole_model_is_refused():
    with pytest.raises(ValueError, match="matches no module"):
        loralib.apply_lora(nn.Linear(2, 2), ".*", 1, 1)


def test_a_model_can_be_copied_pickled_and_compiled_after_it(tmp_path):
    model = filled(applied(nn.ModuleDict({"b": Block()}), ["query", "c_attn"]))
    x = torch.randn(2, 6)
    y = model["b"](x)
    assert torch.equal(copy.deepcopy(model)["b"](x), y)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(loaded["b"](x), y)
    assert type(loralib.remove_lora(loaded)["b"].c_attn) is Conv1D
