"""``remove_lora`` gives the plain model back, with the update merged or dropped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import loralib
from tests.loralib.models import EVERY_KIND, IDS, filled, net
from tests.loralib.test_apply_lora import FUSED
from tests.loralib.toys import ALL_KINDS, PLAIN, toy, toy_input


def adapted(**kwargs):
    return filled(loralib.apply_lora(net(), EVERY_KIND, 2, 4, enable_lora=FUSED, **kwargs))


@pytest.mark.parametrize("mode", [True, False])
def test_the_merged_model_has_classes_keys_and_mode_of_the_old_and_the_adapted_outputs(mode):
    old, model = net(), adapted().train(mode)
    y = model(IDS)
    assert loralib.remove_lora(model, untie=True) is model
    assert [type(module) for module in model.modules()] == [type(module) for module in old.modules()]
    assert list(model.state_dict()) == list(old.state_dict())
    assert {name: p.shape for name, p in model.state_dict().items()} == {
        n: p.shape for n, p in old.state_dict().items()
    }
    assert all(module.training == mode for module in model.modules())
    assert [str(module) for module in model.modules()] == [str(module) for module in old.modules()]
    torch.testing.assert_close(model(IDS), y)


def test_dropping_the_update_gives_the_old_parameters_and_outputs_to_the_bit():
    model = net()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    y = model(IDS)
    loralib.remove_lora(filled(loralib.apply_lora(model, EVERY_KIND, 2, 4)), merge=False)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert list(after) == list(parameters) and all(after[name] is p for name, p in parameters.items())
    assert torch.equal(model(IDS), y)


def test_merging_in_half_precision_rounds_once():
    model = adapted(lora_dtype=torch.float32).bfloat16()
    layer = model.h[0].query
    exact = layer.weight.double() + 2 * layer.lora_B.double() @ layer.lora_A.double()
    loralib.remove_lora(model, untie=True)
    assert model.h[0].query.weight.dtype == torch.bfloat16
    torch.testing.assert_close(model.h[0].query.weight.double(), exact, rtol=2**-8, atol=1e-6)


def test_the_frozen_weight_itself_is_not_written():
    model = adapted()
    weight = model.h[0].query.weight
    before = weight.clone()
    loralib.remove_lora(model, untie=True)
    assert torch.equal(weight, before) and model.h[0].query.weight is not weight


def test_a_tied_weight_is_merged_only_when_told_to_untie_it():
    model = adapted()
    before, y = dict(model.named_modules()), model(IDS)
    with pytest.raises(ValueError, match=r"^wte shares its weight with lm_head; merging unties them: pass untie=True"):
        loralib.remove_lora(model)
    assert dict(model.named_modules()) == before
    head = model.lm_head.weight
    loralib.remove_lora(model, untie=True)
    assert model.lm_head.weight is head and model.wte.weight is not head
    torch.testing.assert_close(model(IDS), y)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_layers_built_by_hand_become_torch_layers(kind):
    model, x = nn.Sequential(toy(kind)), toy_input(kind)
    y = model(x)
    loralib.remove_lora(model)
    assert type(model[0]) is PLAIN[kind.removesuffix("_fifo")]
    assert "lora" not in str(model) and all(p.is_contiguous() for p in model.parameters())
    torch.testing.assert_close(model(x), y)


def test_layers_without_factors_keep_their_weight():
    model = nn.Sequential(loralib.Linear(3, 3), loralib.MergedLinear(3, 6, r=2))
    weights = [layer.weight for layer in model]
    loralib.remove_lora(model)
    assert [type(layer) for layer in model] == [nn.Linear] * 2
    assert all(layer.weight is weight for layer, weight in zip(model, weights))


def test_refusals():
    with pytest.raises(ValueError, match="the model has no LoRA layer"):
        loralib.remove_lora(net())


def test_hooks_and_a_layer_that_is_the_model_stay():
    layer = toy("linear")
    y = layer(toy_input("linear"))
    assert loralib.remove_lora(layer) is layer and type(layer) is nn.Linear
    torch.testing.assert_close(layer(toy_input("linear")), y)
    model, called = adapted(), []
    model.h[1].c_attn.register_forward_hook(lambda *_: called.append(1))
    loralib.remove_lora(model, untie=True)
    model(IDS)
    assert called == [1]
