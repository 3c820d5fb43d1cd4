"""Forward passes of ``Linear`` and ``MergedLinear``: which outputs change, what they cost, dropout and dtypes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import loralib
from tests.loralib.toys import randomize, toy, toy_input

ENABLE = [(1, 0, 1), (1, 1, 1), (0, 1, 0), (0, 0, 1), (1,), (0, 1), (1, 1)]


def fused(enable, r=4, **kwargs):
    layer = loralib.MergedLinear(10, 6 * len(enable), r=r, lora_alpha=8, enable_lora=enable, **kwargs)
    randomize(layer)
    return layer


def dense_update(layer: loralib.MergedLinear) -> torch.Tensor:
    """(out, in) update, block by block from the definition."""
    size, r = layer.out_features // len(layer.enable_lora), layer.r
    update = torch.zeros(layer.out_features, layer.in_features, dtype=layer.weight.dtype)
    j = 0
    for i, on in enumerate(layer.enable_lora):
        if on:
            A_j, B_j = layer.lora_A[j * r : (j + 1) * r], layer.lora_B[j * size : (j + 1) * size]
            update[i * size : (i + 1) * size] = layer.scaling * B_j @ A_j
            j += 1
    return update


def test_layers_are_torch_layers():
    assert isinstance(toy("linear"), nn.Linear) and isinstance(toy("merged"), nn.Linear)
    assert isinstance(toy("embedding"), nn.Embedding)
    for d, kind in ((nn.Conv1d, "conv1d"), (nn.Conv2d, "conv2d"), (nn.Conv3d, "conv3d")):
        assert isinstance(toy(kind), d) and isinstance(toy(kind), loralib.ConvLoRA)
        assert isinstance(toy(kind), loralib.LoRALayer)


@pytest.mark.parametrize("enable", ENABLE)
def test_disabled_projections_keep_their_output(enable):
    layer, x = fused(enable), torch.randn(2, 5, 10)
    blocks = (layer(x) - F.linear(x, layer.weight, layer.bias)).chunk(len(enable), dim=-1)  # each (2, 5, 6)
    assert [bool(block.abs().max() > 0) for block in blocks] == [bool(on) for on in enable]


@pytest.mark.parametrize("fan_in_fan_out", [False, True])
@pytest.mark.parametrize("enable", ENABLE)
def test_the_low_rank_path_equals_the_dense_update_with_all_gradients(enable, fan_in_fan_out):
    layer = fused(enable, fan_in_fan_out=fan_in_fan_out, dtype=torch.float64)
    x = torch.randn(2, 5, 10, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.T if fan_in_fan_out else layer.weight
    dense = F.linear(x, weight + dense_update(layer), layer.bias)
    torch.testing.assert_close(layer(x), dense, rtol=0, atol=1e-12)
    grad_out = torch.randn_like(dense)
    inputs = (x, layer.lora_A, layer.lora_B, layer.bias)
    for ours, expected in zip(
        torch.autograd.grad(layer(x), inputs, grad_out), torch.autograd.grad(dense, inputs, grad_out), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["linear", "merged", "merged_fifo"])
def test_gradients_agree_with_finite_differences(kind):
    layer, x = toy(kind, dtype=torch.float64), toy_input(kind, torch.float64)[0, :2].requires_grad_()

    def output(x, lora_A, lora_B):
        return torch.func.functional_call(layer, {"lora_A": lora_A, "lora_B": lora_B}, (x,))

    assert torch.autograd.gradcheck(output, (x, layer.lora_A, layer.lora_B))


def flops(layer: nn.Module, x: torch.Tensor) -> int:
    """Of a forward and a backward pass down to the input."""
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_fused_layer_costs_what_its_rank_costs_and_never_the_dense_update(dropout):
    n, n_in, n_out, r = 512, 768, 2304, 4
    unit = n * n_in * n_out
    x = torch.randn(n, n_in, requires_grad=True)
    layer = loralib.MergedLinear(n_in, n_out, r=r, lora_dropout=dropout, enable_lora=[True, False, True])
    frozen = nn.Linear(n_in, n_out)
    frozen.weight.requires_grad_(False)
    assert flops(frozen, x) == 4 * unit  # one product forward, one back to the input
    # Three thin products each for A (768 -> 8) and B (4 -> 2 * 768): forward, to input, to factor; in all 4.0417.
    assert flops(layer, x) == 4 * unit + 3 * 2 * n * (n_in * 2 * r + 2 * n_out // 3 * r)
    assert flops(layer, x) <= 4.05 * unit


def test_merged_layer_costs_the_plain_layer():
    layer, x = toy("merged").eval(), toy_input("merged")
    layer(x)  # builds the merged weight
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * x.shape[:-1].numel() * 10 * 18


def test_nothing_the_size_of_the_weight_is_made_in_the_forward_pass():
    layer = loralib.MergedLinear(64, 96, r=2, enable_lora=[True, False, True])
    x = torch.randn(3, 64)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        layer(x)
    # Saved: x, z, A and B, and the frozen weight only where the input needs a gradient (here it does not).
    assert max(sizes) <= max(x.numel(), layer.lora_A.numel()) < layer.weight.numel() // 8


@pytest.mark.parametrize("kind", ["linear", "linear_fifo", "merged", "merged_fifo"])
def test_dropout_is_one_mask_on_the_input_drawn_as_torch_draws_it(kind):
    layer, x = toy(kind, lora_dropout=0.3, dtype=torch.float64), toy_input(kind, torch.float64)
    torch.manual_seed(5)
    y = layer(x)
    after = torch.rand(1)
    torch.manual_seed(5)
    dropped = F.dropout(x, 0.3)
    assert torch.equal(after, torch.rand(1)), "exactly one mask of the size of x is drawn"
    weight, update = layer.weight, layer.delta_weight()
    if layer.fan_in_fan_out:
        weight, update = weight.T, update.T
    expected = F.linear(x, weight, layer.bias) + F.linear(dropped, update)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "merged"])
def test_eval_mode_has_no_dropout_even_unmerged(kind):
    layer, x = toy(kind, lora_dropout=0.9, merge_weights=False).eval(), toy_input(kind)
    assert not layer.merged and torch.equal(layer(x), toy(kind)(x))


@pytest.mark.parametrize("shape", [(10,), (0, 10), (2, 0, 10), (1, 10), (2, 3, 4, 10)])
@pytest.mark.parametrize("kind", ["linear", "merged_fifo"])
def test_any_number_of_leading_dimensions_works(kind, shape):
    layer, x = toy(kind, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    assert layer(x).shape == (*shape[:-1], layer.out_features)
    torch.testing.assert_close(layer(x), layer.eval()(x), rtol=0, atol=1e-12)


def test_strided_input_works():
    layer, x = toy("merged"), torch.randn(10, 4, 3).permute(2, 1, 0)
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize("kind", ["linear", "merged", "merged_fifo", "embedding", "conv2d"])
def test_base_in_bfloat16_with_factors_in_float32_trains(kind):
    layer, x = toy(kind, lora_dropout=0.0) if kind != "embedding" else toy(kind), toy_input(kind, torch.bfloat16)
    layer.bfloat16()
    layer.lora_A, layer.lora_B = nn.Parameter(layer.lora_A.float()), nn.Parameter(layer.lora_B.float())
    y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.lora_A.grad.dtype == layer.lora_B.grad.dtype == torch.float32
    merged = layer.eval()(x)
    assert merged.dtype == torch.bfloat16
    # one rounding of a weight near 3 (2**-8) and one of an output, summed over at most 36 inputs of size near 1
    torch.testing.assert_close(merged.float(), y.float(), rtol=0.02, atol=0.25)


def test_rank_0_and_nothing_enabled_give_the_plain_layer_with_a_trainable_weight():
    for layer in (
        loralib.Linear(10, 6),
        loralib.MergedLinear(10, 18, r=4),
        loralib.MergedLinear(10, 18, r=4, enable_lora=[False, False, False], fan_in_fan_out=True),
        loralib.MergedLinear(10, 18, r=0, enable_lora=[True, False, True]),
    ):
        assert not hasattr(layer, "lora_A") and not layer.has_lora and layer.weight.requires_grad
        x = torch.randn(2, 10)
        weight = layer.weight.T if layer.fan_in_fan_out else layer.weight
        for mode in (True, False):
            assert torch.equal(layer.train(mode)(x), F.linear(x, weight, layer.bias))
        layer(x).sum().backward()
        assert layer.weight.grad is not None


def test_rank_above_both_sizes_works():
    layer, x = loralib.Linear(3, 2, r=16, lora_alpha=16), torch.randn(4, 3)
    randomize(layer)
    torch.testing.assert_close(layer(x), layer.eval()(x))


def test_frozen_weight_keeps_its_bytes_after_a_step_and_the_bias_trains():
    layer, x = toy("merged"), toy_input("merged")
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    changed = {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"bias", "lora_A", "lora_B"}


def test_fan_in_fan_out_stores_the_transpose_of_the_same_draws():
    def built(fan_in_fan_out):
        torch.manual_seed(3)
        layer = loralib.Linear(10, 6, r=2, fan_in_fan_out=fan_in_fan_out)
        first = layer.weight.detach().clone()
        layer.reset_parameters()
        return first, layer

    (first, layer), (first_t, layer_t) = built(False), built(True)
    assert torch.equal(first_t, first.T) and torch.equal(layer_t.weight, layer.weight.T)
    assert torch.equal(layer_t.bias, layer.bias) and torch.equal(layer_t.lora_A, layer.lora_A)
    assert layer_t.weight.is_contiguous() and not torch.equal(first, layer.weight)
    assert not layer_t.weight.requires_grad and (layer_t.in_features, layer_t.out_features) == (10, 6)
