"""Products by oneDNN: those of ``F.linear`` up to rounding, whatever the operands look like."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gpt2 import fast_linear as module
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.fast_linear import applies, fast_linear
from gpt2.model import GPT2LMModel
from torch import nn

import loralib as lora

N_IN, N_OUT = 512, 640  # above the smallest weight

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


@pytest.fixture(autouse=True)
def avx512(monkeypatch):
    """oneDNN computes on every processor, if not everywhere faster."""
    monkeypatch.setattr(module, "AVX512", True)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


INPUTS = {
    "two dimensions": lambda: draw(9, N_IN),
    "four dimensions": lambda: draw(2, 3, 5, N_IN),
    "one row": lambda: draw(1, N_IN),
    "one vector": lambda: draw(N_IN),
    "no rows": lambda: draw(0, N_IN),
    "transposed": lambda: draw(N_IN, 9).t(),
    "every other row": lambda: draw(18, N_IN)[::2],
    "every other column": lambda: draw(9, 2 * N_IN)[:, ::2],
    "with an offset": lambda: draw(9, N_IN + 3)[:, 3:],
    "one row nine times": lambda: draw(1, N_IN).expand(9, N_IN),
    "one number everywhere": lambda: draw(1, 1).expand(9, N_IN),
}
WEIGHTS = {
    "dense": lambda: draw(N_OUT, N_IN).mul_(0.02),
    "stored (in, out)": lambda: draw(N_IN, N_OUT).mul_(0.02).t(),
    "rows of a larger one": lambda: draw(3 * N_OUT, N_IN).mul_(0.02)[N_OUT : 2 * N_OUT],
    "columns of a larger one": lambda: draw(N_IN, 3 * N_OUT).mul_(0.02)[:, N_OUT : 2 * N_OUT].t(),
    "every other row": lambda: draw(2 * N_OUT, N_IN).mul_(0.02)[::2],
    "one row everywhere": lambda: draw(1, N_IN).mul_(0.02).expand(N_OUT, N_IN),
}
BIASES = {
    "none": lambda: None,
    "dense": lambda: draw(N_OUT),
    "with an offset": lambda: draw(N_OUT + 5)[5:],
    "every other": lambda: draw(2 * N_OUT)[::2],
    "one number": lambda: draw(1).expand(N_OUT),
}


def check_equal(x, weight, bias):
    x = x.requires_grad_()
    found, dy = [], draw(*x.shape[:-1], weight.shape[0])
    for linear in (fast_linear, F.linear):
        y = linear(x, weight, bias)
        found.append((y, *torch.autograd.grad(y, x, dy)))
    with torch.no_grad():
        found[0] += (fast_linear(x, weight, bias),)
    y, dx, without_gradient = found[0]
    # sums of 512 and 640 products in another order
    torch.testing.assert_close((y, dx), found[1], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(without_gradient, found[1][0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("weight", ["dense", "stored (in, out)"])
@pytest.mark.parametrize("x", INPUTS)
def test_outputs_and_gradients_are_those_of_torch_for_every_input(x, weight):
    check_equal(INPUTS[x](), WEIGHTS[weight](), BIASES["dense"]())


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_outputs_and_gradients_are_those_of_torch_for_every_weight_and_bias(weight, bias):
    check_equal(draw(2, 9, N_IN), WEIGHTS[weight](), BIASES[bias]())


@pytest.mark.parametrize("strange", ["dense", "every other row", "columns of a larger one", "one row everywhere"])
def test_a_strange_gradient_of_the_output_gives_the_gradient_of_torch(strange):
    x, weight = draw(N_OUT, N_IN).requires_grad_(), WEIGHTS["stored (in, out)"]()
    dy = WEIGHTS[strange]()[:, :1].expand(N_OUT, N_OUT)
    grads = [torch.autograd.grad(linear(x, weight), x, dy)[0] for linear in (fast_linear, F.linear)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=2e-5)


def test_large_dense_float32_operands_go_to_onednn_and_nothing_else_does(monkeypatch):
    x, weight, bias = draw(9, N_IN), WEIGHTS["dense"](), BIASES["dense"]()
    assert applies(x, weight, bias) and applies(x, WEIGHTS["stored (in, out)"](), None)
    small = [(x[:7], weight), (x[:, :64], weight[:, :64].contiguous())]
    others = [(x.double(), weight.double()), (x.to("meta"), weight.to("meta")), (x, weight.to_sparse_csr())]
    others += [(x, WEIGHTS[name]()) for name in ("every other row", "one row everywhere", "columns of a larger one")]
    others += [(x, WEIGHTS["dense"]().requires_grad_()), (x.as_subclass(type("Own", (torch.Tensor,), {})), weight)]
    assert not any(applies(*operands, None) for operands in small + others)
    assert not any(applies(x, weight, BIASES[name]()) for name in ("every other", "one number"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not applies(x, weight, bias) and fast_linear(x, weight, bias).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        assert not applies(x, weight, bias)
    monkeypatch.setattr(module, "ENABLED", False)
    assert not applies(x, weight, bias) and torch.equal(fast_linear(x, weight, bias), F.linear(x, weight, bias))


def test_a_trainable_weight_and_bias_get_their_gradients():
    layer, x = nn.Linear(N_IN, N_OUT), draw(9, N_IN)
    found = []
    for linear in (fast_linear, F.linear):
        found.append(torch.autograd.grad(linear(x, layer.weight, layer.bias).sum(), (layer.weight, layer.bias)))
    assert all(map(torch.equal, *found))


def test_wrong_shapes_get_the_message_of_torch():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        fast_linear(draw(9, N_IN + 1), WEIGHTS["dense"]())


def test_second_derivatives_are_those_of_torch():
    x, weight = draw(9, N_IN).requires_grad_(), WEIGHTS["dense"]()
    found = []
    for linear in (fast_linear, F.linear):
        (dx,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3 * float(found[1].abs().max()))


@pytest.mark.slow
def test_compiled_blocks_get_what_torch_computes():
    x, weight = draw(9, N_IN), WEIGHTS["dense"]()
    assert torch.equal(torch.compile(fast_linear, fullgraph=True, backend="eager")(x, weight), F.linear(x, weight))


def test_a_training_step_is_the_same_with_and_without(monkeypatch):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=256, n_layer=2, n_head=2)
    model = GPT2LMModel(config, LoRAConfig(r=4, alpha=32)).train()
    lora.mark_only_lora_as_trainable(model)
    calls = []
    product = module._product
    monkeypatch.setattr(module, "_product", lambda *operands: calls.append(operands) or product(*operands))
    for layer in model.lora_layers():
        nn.init.normal_(layer.lora_B)
    ids, found = torch.randint(64, (2, 16)), []
    for enabled in (True, False):
        monkeypatch.setattr(module, "ENABLED", enabled)
        model.zero_grad()
        loss = model.loss(ids, ids, torch.ones(2, 16))
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    # of c_fc and c_proj of both MLPs, forward and backward; the other weights are too small (c_attn has 256 x 768)
    assert len(calls) == 8
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5 * float(torchs.abs().max()))
