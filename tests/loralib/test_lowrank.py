"""The fast implementation of the low-rank branch gives what the reference by autograd gives, and keeps less."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

import loralib
from loralib.lowrank import _drop, by_autograd, lowrank_linear
from tests.loralib.toys import toy, toy_input

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
# Sums of up to 40 products of normal numbers, in units of the largest element.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.05}


def is_fast(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "LowRankLinearBackward"


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    size = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[expected.dtype] * max(size, 1.0))


def factors(n_in: int, block: int, r: int, enabled: list[bool], dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Normal arguments of ``lowrank_linear``, whose factors train."""
    g = sum(enabled)
    return {
        "weight": torch.randn(len(enabled) * block, n_in, dtype=dtype),
        "bias": torch.randn(len(enabled) * block, dtype=dtype),
        "lora_A": torch.randn(g * r, n_in, dtype=dtype).requires_grad_(),
        "lora_B": torch.randn(g * block, r, dtype=dtype).requires_grad_(),
    }


@settings(max_examples=60, deadline=None)
@given(
    leading=st.lists(st.integers(1, 4), max_size=3),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 5)),
    enabled=st.lists(st.booleans(), min_size=1, max_size=4).filter(any),
    dtype=st.sampled_from(list(TOLERANCE)),
    p=st.sampled_from([0.0, 0.1, 0.6]),
    trained=st.sets(st.sampled_from(["x", "weight", "bias"])),
    layout=st.sampled_from(["contiguous", "transposed", "expanded", "no bias", "stored transposed"]),
    autocast=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_output_and_gradients_are_those_of_autograd(leading, sizes, enabled, dtype, p, trained, layout, autocast, seed):
    torch.manual_seed(seed)
    n_in, block, r = sizes
    x = torch.randn(*leading, n_in, dtype=dtype)
    if layout == "transposed":
        x = torch.randn(n_in, *leading, dtype=dtype).movedim(0, -1)
    elif layout == "expanded":
        x = torch.randn(n_in, dtype=dtype).expand(*leading, n_in)
    given = {"x": x, **factors(n_in, block, r, enabled, dtype)}
    if layout == "no bias":
        given["bias"] = None
        trained = trained - {"bias"}
    elif layout == "stored transposed":
        given["weight"] = given["weight"].T.contiguous().T
    given |= {name: given[name].detach().requires_grad_() for name in trained}
    inputs = [tensor for tensor in given.values() if tensor is not None and tensor.requires_grad]
    dropout = nn.Dropout(p)

    results = []
    for implementation in (lowrank_linear, by_autograd):
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype != torch.float64):
            y = implementation(**given, scaling=1.5, enabled=enabled, dropout=dropout)
        assert is_fast(y) == (implementation is lowrank_linear)
        grad_out = torch.randn(y.shape, dtype=y.dtype)
        gradients = torch.autograd.grad(y, inputs, grad_out)
        if y.dtype == torch.bfloat16:  # gradients of float32 were computed in bfloat16 under autocast
            gradients = tuple(gradient.bfloat16() for gradient in gradients)
        results.append((y, *gradients, torch.rand(1)))
    for ours, expected in zip(*results, strict=True):
        close(ours, expected)
    with torch.no_grad():
        torch.manual_seed(seed)
        if not autocast:
            assert torch.equal(lowrank_linear(**given, scaling=1.5, enabled=enabled, dropout=dropout), results[0][0])


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("enabled", [[True], [True, False, True]])
def test_first_and_second_derivatives_agree_with_finite_differences(enabled, p):
    torch.manual_seed(0)
    given = factors(5, 3, 2, enabled, torch.float64)
    inputs = [torch.randn(2, 2, 5, dtype=torch.float64), *given.values()]
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]

    def output(x, weight, bias, lora_A, lora_B):
        torch.manual_seed(3)
        y = lowrank_linear(x, weight, bias, lora_A, lora_B, scaling=1.5, enabled=enabled, dropout=nn.Dropout(p))
        assert is_fast(y)
        return y

    assert torch.autograd.gradcheck(output, inputs)
    assert torch.autograd.gradgradcheck(output, inputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_mask_and_random_state_are_those_of_torchs_dropout(p, dtype, device):
    # Large enough for several threads; a transposed and a strided view have other orders in memory.
    x = torch.ones(64, 40, 33, dtype=dtype, device=device)
    for view in (x, x.transpose(0, 2), x[:, ::2], x[0, 0]):
        torch.manual_seed(4)
        expected = F.dropout(view, p)
        after = torch.rand(1, device=device)
        torch.manual_seed(4)
        dropped, mask = _drop(view, p)
        assert torch.equal(mask.bool(), expected != 0) and mask.element_size() == 1
        assert torch.equal(after, torch.rand(1, device=device))
        torch.testing.assert_close(dropped, expected)


@pytest.mark.parametrize(("p", "most"), [(0.0, 1.02), (0.1, 1.27)])
def test_kept_for_the_backward_pass_are_the_input_one_byte_of_mask_and_the_thin_product(p, most):
    x = torch.randn(4, 128, 768, requires_grad=True)
    layer = loralib.MergedLinear(768, 2304, r=4, lora_dropout=p, enable_lora=[True, False, True], fan_in_fan_out=True)
    assert kept_bytes(layer, x) <= most * x.numel() * x.element_size()


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Each piece of memory that is kept, without the parameters'."""
    known = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    sizes = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert y.requires_grad
    return sum(sizes.values())


def test_with_a_frozen_first_factor_the_input_is_not_kept():
    x = torch.randn(8, 16, 768, requires_grad=True)
    layer = loralib.Linear(768, 768, r=4)
    layer.lora_A.requires_grad_(False)
    assert kept_bytes(layer, x) <= 0.02 * x.numel() * x.element_size()


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["linear", "merged_fifo"])
def test_layers_in_training_use_the_fast_implementation(kind, p):
    layer = toy(kind, lora_dropout=p)
    x = toy_input(kind)
    assert is_fast(layer(x)) and is_fast(layer(x.requires_grad_()))
    with torch.autocast("cpu", torch.bfloat16):
        assert is_fast(layer(x))


def test_the_output_can_be_changed_in_place_and_in_part():
    layer, x = toy("merged"), toy_input("merged").requires_grad_()

    def gradients(change):
        return torch.autograd.grad(change(layer(x)).square().sum(), (x, layer.lora_A, layer.lora_B))

    def in_place(y):
        y += 1
        y[..., :6] *= 2
        return y.relu_()

    def out_of_place(y):
        y = y + 1
        q, k, v = y.chunk(3, dim=-1)
        return torch.cat([q * 2, k, v], dim=-1).relu()

    for ours, expected in zip(gradients(in_place), gradients(out_of_place), strict=True):
        close(ours, expected)


def test_an_input_changed_before_the_backward_pass_is_an_error():
    layer, x = toy("linear"), toy_input("linear")
    y = layer(x)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hooks_on_the_factors_run_and_change_their_gradients():
    layer, x = toy("merged"), toy_input("merged")
    layer(x).square().sum().backward()
    before = {name: getattr(layer, name).grad.clone() for name in ("lora_A", "lora_B")}
    layer.zero_grad()
    for name in before:
        getattr(layer, name).register_hook(lambda gradient: 2 * gradient)
    layer(x).square().sum().backward()
    assert all(torch.equal(getattr(layer, name).grad, 2 * gradient) for name, gradient in before.items())


# --- what the fast implementation leaves to the reference ------------------------------------------------------------


class Halving(nn.Dropout):
    """A dropout of its own kind."""

    def forward(self, input: Tensor) -> Tensor:
        return input / 2


def test_another_kind_of_dropout_is_called():
    layer, x = toy("merged", lora_dropout=0.1), toy_input("merged")
    layer.lora_dropout = Halving(0.1)
    full = toy("merged", lora_dropout=0.0)
    frozen = F.linear(x, layer.weight, layer.bias)
    close(layer(x) - frozen, (full(x) - frozen) / 2)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_hooks_on_the_dropout_run(p):
    layer, x = toy("linear", lora_dropout=p), toy_input("linear")
    layer.lora_dropout.register_forward_hook(lambda module, inputs, output: 0 * output)
    close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_everything_dropped_gives_the_frozen_output():
    layer, x = toy("linear", lora_dropout=1.0), toy_input("linear")
    close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("r", [1, 4])
def test_directional_derivative_in_forward_mode_agrees_with_the_gradient(r):
    layer, x = toy("merged", r=r, dtype=torch.float64), toy_input("merged", torch.float64)
    direction = torch.randn_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction)).sum()).tangent
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    close(tangent, (gradient * direction).sum())


def test_jacobians_by_function_transforms_agree_with_each_other():
    layer, x = toy("linear", dtype=torch.float64), toy_input("linear", torch.float64)[0, 0]
    weight, update = layer.weight, layer.delta_weight()
    for jacobian in (torch.func.jacrev(layer)(x), torch.func.jacfwd(layer)(x)):
        close(jacobian, weight + update)


def test_a_subclass_of_tensor_keeps_its_own_behaviour():
    class Noted(Tensor):
        seen: list[str] = []  # noqa: RUF012 (one list for the class is the point)

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.seen.append(getattr(func, "__name__", str(func)))
            return super().__torch_function__(func, types, args, kwargs or {})

    layer, x = toy("linear"), toy_input("linear")
    y = layer(x.as_subclass(Noted))
    assert isinstance(y, Noted) and "linear" in Noted.seen
    close(y.as_subclass(Tensor), layer(x))


def test_a_traced_layer_agrees():
    layer, x = toy("merged"), toy_input("merged")
    traced = torch.jit.trace(layer, (x,), check_trace=False)
    other = toy_input("merged", seed=9)
    close(traced(other), layer(other))


def test_inference_mode_gives_the_same_output():
    layer, x = toy("merged"), toy_input("merged")
    with torch.inference_mode():
        y = layer(x)
    assert y.is_inference() and torch.equal(y, layer(x))
