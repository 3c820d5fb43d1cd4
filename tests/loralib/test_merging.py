"""Merging: when it happens, that it changes no number but by rounding, and that it never touches the stored weight."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import loralib
from tests.loralib.toys import ALL_KINDS, KINDS, randomize, toy, toy_input

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_train_and_eval_return_the_layer(kind):
    layer = toy(kind)
    assert layer.eval() is layer
    assert layer.train() is layer
    assert layer.train(False) is layer


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_eval_of_a_parent_merges_and_train_of_a_parent_unmerges(kind):
    layer = toy(kind)
    parent = nn.Sequential(nn.Sequential(layer))
    parent.eval()
    assert layer.merged and not layer.training
    parent.train()
    assert not layer.merged and layer.training


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_merged_output_is_the_output_of_two_branches(kind):
    layer, x = toy(kind, dtype=torch.float64), toy_input(kind, torch.float64)
    two_branches = layer(x)
    torch.testing.assert_close(layer.eval()(x), two_branches, rtol=0, atol=1e-12)
    assert not torch.equal(two_branches, base_output(layer, x))


def base_output(layer, x):
    with layer.lora_disabled():
        return layer(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_weight_keeps_every_bit_through_any_number_of_toggles(kind, dtype):
    layer, x = toy(kind, dtype=dtype), toy_input(kind, dtype)
    weight, before = layer.weight, layer.weight.clone()
    for _ in range(20):
        layer.eval()(x)
        assert torch.equal(weight, before)
        randomize(layer.train())
        layer.merge()
        layer.merged_weight.sum()
        layer.unmerge()
    assert layer.weight is weight and torch.equal(weight, before)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_merging_twice_changes_nothing(kind):
    layer, x = toy(kind), toy_input(kind)
    layer.merge()
    once, y = layer.merged_weight.clone(), layer(x)
    layer.merge()
    layer.eval().eval()
    assert torch.equal(layer.merged_weight, once)
    assert torch.equal(layer(x), y)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_merged_weight_is_rounded_once_from_float32(kind):
    layer = toy(kind, dtype=torch.bfloat16).eval()
    exact = toy(kind, dtype=torch.float32)
    exact.load_state_dict(layer.state_dict())
    assert torch.equal(layer.merged_weight, exact.merged_weight.bfloat16())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_merging_inside_autocast_gives_the_same_weight_as_outside(kind):
    layer = toy(kind)
    outside = layer.eval().merged_weight
    layer.train()
    with torch.autocast("cpu", torch.bfloat16):
        layer.eval()
        layer(toy_input(kind))
        inside = layer.merged_weight
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_without_merge_weights_eval_never_merges_but_merge_does(kind):
    layer, x = toy(kind, merge_weights=False, dtype=torch.float64), toy_input(kind, torch.float64)
    y = layer.eval()(x)
    assert not layer.merged
    layer.merge()
    torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-12)
    assert layer.train().merged and layer.eval().merged, "only unmerge() undoes an explicit merge() here"
    layer.unmerge()
    assert not layer.merged and torch.equal(layer(x), y)


def test_merge_works_in_train_mode_and_train_undoes_it():
    layer, x = toy("linear", lora_dropout=0.5), toy_input("linear")
    layer.merge()
    assert layer.merged and layer.training
    assert torch.equal(layer(x), layer(x)), "no dropout in a merged layer"
    assert not layer.train().merged


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_merged_factors_get_no_gradient_and_the_input_still_does(kind):
    layer, x = toy(kind).eval(), toy_input(kind)
    bias = getattr(layer, "bias", None)
    if x.is_floating_point():
        x.requires_grad_()
        layer(x).sum().backward()
        assert x.grad is not None and x.grad.abs().max() > 0
    else:
        assert not layer(x).requires_grad
    assert layer.lora_A.grad is None and layer.lora_B.grad is None and layer.weight.grad is None
    assert bias is None or bias.grad is not None


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_an_unfrozen_weight_gets_its_gradient_in_a_merged_layer(kind):
    layer, x = toy(kind).eval(), toy_input(kind)
    weight, frozen = dict(layer.named_parameters())["weight"], layer(x)
    weight.requires_grad_()
    y = layer(x)
    assert torch.equal(y, frozen)
    y.sum().backward()
    assert weight.grad.abs().max() > 0 and layer.lora_A.grad is None


@pytest.mark.parametrize("name", ["weight", "lora_A", "lora_B"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_edits_while_merged_are_seen_by_the_next_forward(kind, name):
    layer, x = toy(kind).eval(), toy_input(kind)
    before = layer(x)
    with torch.no_grad():
        dict(layer.named_parameters())[name].mul_(2)
    after = layer(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, layer.train().eval()(x))


def test_replaced_parameters_and_a_new_scale_are_seen_while_merged():
    layer, x = toy("linear").eval(), toy_input("linear")
    for change in (
        lambda: setattr(layer, "lora_B", nn.Parameter(torch.randn(6, 2))),
        lambda: setattr(layer, "scaling", 7.0),
        lambda: setattr(layer.lora_A, "data", torch.randn(2, 10)),
        lambda: layer.reset_lora_parameters("paper_era"),
    ):
        before = layer(x)
        change()
        after = layer(x)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, layer.train()(x))
        layer.eval()


def test_edits_through_data_are_seen_after_the_next_eval():
    layer, x = toy("linear").eval(), toy_input("linear")
    before = layer(x)
    layer.lora_B.data.mul_(2)
    assert not torch.equal(layer.eval()(x), before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_merged_weight_is_kept_while_merged_and_released_by_unmerge(kind):
    layer, x = toy(kind).eval(), toy_input(kind)
    with torch.no_grad():
        layer(x)
    kept = layer.merged_weight
    assert layer.merged_weight is kept
    released = weakref.ref(kept)
    del kept
    layer.unmerge()
    gc.collect()
    assert released() is None


def test_reading_the_merged_weight_of_an_unmerged_layer_keeps_nothing():
    layer = toy("linear")
    torch.testing.assert_close(layer.merged_weight, layer.weight + 1.5 * layer.lora_B.detach() @ layer.lora_A.detach())
    assert layer.merged_weight is not layer.merged_weight and not layer.merged


def test_a_weight_first_merged_in_inference_mode_serves_a_backward_pass_later():
    layer, x = toy("linear").eval(), toy_input("linear").requires_grad_()
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert x.grad is not None


def test_a_layer_built_in_inference_mode_merges():
    with torch.inference_mode():
        layer, x = toy("linear"), toy_input("linear")
        y = layer(x)
        torch.testing.assert_close(layer.eval()(x), y)


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "embedding"])
def test_eval_between_forward_and_backward_leaves_the_gradients_right(kind):
    def gradients(interrupt):
        layer, x = toy(kind, dtype=torch.float64), toy_input(kind, torch.float64).requires_grad_()
        y = layer(x)
        if interrupt:
            layer.eval()(x.detach())
        y.square().sum().backward()
        return x.grad, layer.lora_A.grad, layer.lora_B.grad

    for interrupted, undisturbed in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(interrupted, undisturbed)


def test_merging_a_tied_embedding_does_not_change_the_head():
    embedding, head = toy("embedding"), nn.Linear(6, 11, bias=False)
    head.weight = embedding.weight
    h = torch.randn(2, 6)
    before = head(h)
    embedding.eval()(toy_input("embedding"))
    assert torch.equal(head(h), before)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_rank_0_toggles_without_arithmetic(kind):
    constructor, args, _ = KINDS[kind]
    layer, x = constructor(*args), toy_input(kind)
    y = layer(x)
    assert layer.eval().merged and torch.equal(layer(x), y)
    assert torch.equal(layer.merged_weight, layer.weight)
    assert not layer.train().merged


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_switched_off_the_layer_is_its_pretrained_layer_and_comes_back(kind, mode):
    layer, x = toy(kind), toy_input(kind)
    getattr(layer, mode)()
    plain = KINDS[kind][0](*KINDS[kind][1])
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("lora_")})
    y = layer(x)
    with layer.lora_disabled():
        assert torch.equal(layer(x), plain(x))
        with layer.lora_disabled():
            pass
        assert torch.equal(layer(x), plain(x)), "an inner block must not switch the outer one back on"
    assert torch.equal(layer(x), y)
    with pytest.raises(KeyError), layer.lora_disabled():
        raise KeyError
    assert layer.lora_enabled


@pytest.mark.parametrize("kind", ["linear_fifo", "merged_fifo", "merged", "conv2d", "embedding"])
def test_delta_weight_has_the_shape_of_the_weight_and_the_dtype_of_the_factors(kind):
    layer = toy(kind, dtype=torch.bfloat16)
    layer.lora_A, layer.lora_B = nn.Parameter(layer.lora_A.float()), nn.Parameter(layer.lora_B.float())
    with torch.autocast("cpu", torch.bfloat16):
        delta = layer.delta_weight()
    assert delta.shape == layer.weight.shape and delta.dtype == torch.float32 and delta.requires_grad


def test_a_layer_of_rank_0_has_no_update():
    with pytest.raises(RuntimeError, match=r"Linear with r=0 has no LoRA factors"):
        loralib.Linear(4, 4).delta_weight()
