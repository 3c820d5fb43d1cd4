"""The loss in chunks equals the plain one in value and gradients, and logits never exist whole."""

import pytest
import torch
from gpt2 import chunked_loss as module
from gpt2.chunked_loss import chunked_loss, rows_per_chunk
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.losses import lm_loss, token_losses
from gpt2.model import GPT2LMModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import loralib as lora

V, C = 53, 8


def plain(hidden, weight, target, row_weights, label_smooth):
    return (token_losses(hidden @ weight.t(), target, label_smooth) * row_weights).sum()


def sides(n, label_smooth, *, trains_weight=True, seed=0, dtype=torch.float32, autocast=None):
    """(loss, gradients) of the plain form and of the chunks."""
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(n, C, generator=draw), torch.randn(V, C, generator=draw)
    target, row_weights = torch.randint(V, (n,), generator=draw), torch.rand(n, generator=draw)
    found = []
    for loss_of in (plain, chunked_loss):
        h, w = hidden.to(dtype, copy=True).requires_grad_(), weight.to(dtype, copy=True).requires_grad_(trains_weight)
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            loss = loss_of(h, w, target, row_weights, label_smooth)
        (3.0 * loss).backward()
        found.append((loss.detach(), h.grad, w.grad))
    return found


@pytest.fixture
def few_rows(monkeypatch):
    """Chunks of three rows at most."""
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 3 * V * 4)


@pytest.mark.parametrize("trains_weight", [True, False])
@pytest.mark.parametrize("label_smooth", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 10])
def test_value_and_gradients_equal_those_of_the_plain_form(few_rows, n, label_smooth, trains_weight):
    one, other = sides(n, label_smooth, trains_weight=trains_weight)
    torch.testing.assert_close(other, one, rtol=1e-5, atol=2e-6)
    assert (other[2] is not None) == trains_weight


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 300), vocab_size=st.integers(1, 10**6), limit=st.integers(1, 10**8))
def test_chunks_are_even_and_within_the_bytes(n, vocab_size, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.CHUNK_BYTES, "cpu", limit)
        rows = rows_per_chunk(n, vocab_size, torch.device("cpu"))
    most = max(1, limit // (4 * vocab_size))
    assert rows <= most
    if n:
        chunks = -(-n // rows)
        assert chunks == -(-n // most) and n - (chunks - 1) * rows > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_differs_by_its_rounding_alone(few_rows, dtype, autocast):
    exact = sides(10, 0.1)[1]
    given = {"autocast": dtype} if autocast else {"dtype": dtype}
    half = sides(10, 0.1, **given)[1]
    assert half[0].dtype == torch.float32
    rounding = torch.finfo(dtype).eps
    for a, b in zip(half, exact):
        assert (a - b).abs().max() <= 8 * rounding * b.abs().max()


def test_float16_keeps_gradients_that_it_cannot_hold_unscaled(few_rows):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, C, generator=draw).requires_grad_()
    weight, target = torch.randn(V, C, generator=draw), torch.randint(V, (4,), generator=draw)
    grads = []
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
            loss = chunked_loss(hidden, weight, target, torch.full((4,), 1e-9), 0.1)
        grads.append(torch.autograd.grad(loss, hidden)[0])
    assert 0 < grads[0].abs().max() < 6e-8
    torch.testing.assert_close(grads[1], grads[0], rtol=0.02, atol=1e-11)


def test_a_target_of_minus_one_has_no_loss_without_smoothing(few_rows):
    hidden, weight = torch.randn(4, C).requires_grad_(), torch.randn(V, C)
    target = torch.tensor([3, -1, 5, -1])
    results = []
    for loss_of in (plain, chunked_loss):
        loss = loss_of(hidden, weight, target, torch.ones(4), 0.0)
        results.append((loss, torch.autograd.grad(loss, hidden)[0]))
    torch.testing.assert_close(results[1], results[0])
    assert not results[1][1][1].any()


def test_the_graph_may_be_gone_through_twice(few_rows):
    hidden, weight = torch.randn(5, C).requires_grad_(), torch.randn(V, C)
    loss = chunked_loss(hidden, weight, torch.arange(5), torch.ones(5), 0.1)
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, hidden)[0])


class Products(TorchDispatchMode):
    """Counts matrix products, and remembers the largest number of rows of tensors as wide as the vocabulary."""

    def __init__(self):
        super().__init__()
        self.products, self.rows = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.products += func._schema.name in ("aten::mm", "aten::addmm")
        if func._schema.name == "aten::t":  # of the embedding
            return result
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and tensor.size(1) == V:
                self.rows = max(self.rows, tensor.size(0))
        return result


@pytest.mark.parametrize("grad", [True, False])
def test_no_gradient_is_computed_where_none_is_wanted(few_rows, grad):
    hidden, weight = torch.randn(9, C).requires_grad_(), torch.randn(V, C)
    with Products() as seen, torch.set_grad_enabled(grad):
        chunked_loss(hidden, weight, torch.arange(9), torch.ones(9), 0.1)
    assert seen.products == (6 if grad else 3)


@pytest.mark.parametrize("r", [2, 0])
def test_logits_of_a_step_never_exist_whole(few_rows, r):
    model = GPT2LMModel(GPT2Config(vocab_size=V, n_positions=16, n_embd=C, n_layer=2, n_head=2), LoRAConfig(r=r))
    if r:
        lora.mark_only_lora_as_trainable(model)
    ids, mask = torch.randint(V, (2, 10)), torch.ones(2, 10)
    with Products() as seen:
        model.loss(ids, ids, mask, 0.1).backward()
    assert seen.rows == 3
    with Products() as seen:
        model(ids, ids, mask, label_smooth=0.1)
    assert seen.rows >= 20  # the interface of the released code gives logits everywhere


@pytest.mark.parametrize("r", [2, 0])
@pytest.mark.parametrize("counted", ["some", "none", "all"])
def test_the_loss_of_counted_places_equals_the_loss_over_logits_everywhere(few_rows, r, counted):
    torch.manual_seed(0)
    model = GPT2LMModel(GPT2Config(vocab_size=V, n_positions=16, n_embd=C, n_layer=3, n_head=2), LoRAConfig(r=r))
    if r:
        lora.mark_only_lora_as_trainable(model)
        for layer in model.lora_layers():
            torch.nn.init.normal_(layer.lora_B)
    ids, target = torch.randint(V, (3, 10)), torch.randint(V, (3, 10))
    mask = {"some": (torch.rand(3, 10) < 0.4).float(), "none": torch.zeros(3, 10), "all": torch.ones(3, 10)}[counted]
    results = []
    for loss in (lm_loss(model(ids)[0], target, mask, 0.1), model.loss(ids, target, mask, 0.1)):
        model.zero_grad()
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)
