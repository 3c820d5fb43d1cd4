"""Products through oneDNN: those of ``F.linear`` up to rounding, gradients included, and only where they pay off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import loralib
from loralib import products

N_IN, N_OUT = 512, 768  # above the smallest weight
needs_onednn = pytest.mark.skipif(not products._HAS_ONEDNN_LINEAR, reason="needs a CPU with AVX-512 and oneDNN")


def operands(rows=(2, 9), *, transposed=False, bias=True):
    torch.manual_seed(0)
    x = torch.randn(*rows, N_IN, requires_grad=True)
    weight = torch.randn(N_IN, N_OUT).mul_(0.02).t() if transposed else torch.randn(N_OUT, N_IN).mul_(0.02)
    return x, weight, torch.randn(N_OUT, requires_grad=True) if bias else None


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)  # sums of 768 float32 products in another order


def calls(monkeypatch):
    """Counts calls of oneDNN's linear layer."""
    counted = []
    real = products.onednn_is_faster

    def asked(x, weight):
        answer = real(x, weight)
        counted.append(answer)
        return answer

    monkeypatch.setattr(products, "onednn_is_faster", asked)
    return counted


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("rows", [(8,), (2, 9), (3, 2, 5)])
def test_outputs_and_gradients_are_those_of_torch(rows, transposed, bias, frozen):
    x, weight, b = operands(rows, transposed=transposed, bias=bias)
    weight.requires_grad_(not frozen)
    inputs = [t for t in (x, weight, b) if t is not None and t.requires_grad]
    grad_out = torch.randn(*rows, N_OUT)
    ours, expected = products.linear(x, weight, b), F.linear(x, weight, b)
    close(ours, expected)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, grad_out), torch.autograd.grad(expected, inputs, grad_out), strict=True
    ):
        close(one, other)


@needs_onednn
def test_large_products_go_through_onednn_and_others_do_not(monkeypatch):
    asked = calls(monkeypatch)
    x, weight, bias = operands()
    products.linear(x.detach(), weight, bias.detach())
    assert asked and all(asked)
    asked.clear()
    for few_rows, small_weight in ((x[:1, :7], weight), (x[..., :64], weight[:, :64])):
        products.linear(few_rows, small_weight)
    products.linear(x.double(), weight.double())
    assert not any(asked)


@needs_onednn
def test_the_switch_of_torch_is_obeyed():
    x, weight, bias = operands()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not products.onednn_is_faster(x, weight)
        assert torch.equal(products.linear(x, weight, bias), F.linear(x, weight, bias))
    assert products.onednn_is_faster(x, weight)


def test_the_same_rows_give_the_same_bits():
    x, weight, bias = operands()
    assert torch.equal(products.linear(x, weight, bias), products.linear(x.clone(), weight.clone(), bias))


def test_second_derivatives_are_those_of_torch():
    x, weight, bias = operands()
    found = []
    for linear in (products.linear, F.linear):
        (dx,) = torch.autograd.grad(linear(x, weight, bias).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)  # sums of squares, around 100


def test_outputs_may_be_changed_in_place():
    x, weight, bias = operands()
    y = products.linear(x, weight, bias)
    y += 1
    y.sum().backward()
    close(x.grad, weight.sum(0).expand_as(x))


def test_autocast_compilers_and_transforms_get_what_torch_computes():
    x, weight, bias = operands()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products.linear(x, weight, bias).dtype == torch.bfloat16
    compiled = torch.compile(products.linear, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, weight, bias), F.linear(x, weight, bias))
    rows = torch.func.vmap(lambda row: products.linear(row, weight, bias))(x)
    close(rows, F.linear(x, weight, bias))
    _, tangent = torch.func.jvp(lambda x: products.linear(x, weight, bias), (x,), (torch.ones_like(x),))
    close(tangent, F.linear(torch.ones_like(x), weight))
    assert products.linear(x.to("meta"), weight.to("meta")).is_meta


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_large_layers_agree_with_small_products(dropout):
    """The whole layer, forward and backward, with oneDNN and without."""
    found = []
    for enabled in (True, False):
        torch.manual_seed(0)
        layer = loralib.MergedLinear(N_IN, N_OUT, r=4, enable_lora=[True, False, True], lora_dropout=dropout)
        nn.init.normal_(layer.lora_B)
        x = torch.randn(2, 9, N_IN, requires_grad=True)
        with torch.backends.mkldnn.flags(enabled=enabled):
            y = layer(x)
            y.square().sum().backward()
        found.append((y.detach(), x.grad, layer.lora_A.grad, layer.lora_B.grad))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
