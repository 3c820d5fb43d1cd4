"""The forward pass against the dense formula: every layout, dtype and transform; what it costs and keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import loralib
from loralib.functional import dense_update, lora_linear
from tests.loralib.toys import toy, toy_input

# Sums of up to 40 products of normal numbers, in units of the largest element.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.05}


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    size = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[expected.dtype] * max(size, 1.0))


def normal(n_in: int, sizes: list[int], r: int, enabled: list[bool], dtype: torch.dtype) -> dict[str, Tensor]:
    """Normal arguments of ``lora_linear``, whose factors train."""
    rows = sum(size for size, on in zip(sizes, enabled) if on)
    return {
        "weight": torch.randn(sum(sizes), n_in, dtype=dtype),
        "bias": torch.randn(sum(sizes), dtype=dtype),
        "lora_A": torch.randn(sum(enabled) * r, n_in, dtype=dtype).requires_grad_(),
        "lora_B": torch.randn(rows, r, dtype=dtype).requires_grad_(),
    }


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    leading=st.lists(st.integers(0, 4), max_size=3),
    n_in=st.integers(1, 9),
    r=st.integers(1, 5),
    blocks=st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=4).filter(
        lambda b: any(on for _, on in b)
    ),
    dtype=st.sampled_from(list(TOLERANCE)),
    p=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    layout=st.sampled_from(["contiguous", "transposed", "expanded", "no bias", "expanded bias", "stored transposed"]),
    seed=st.integers(0, 1000),
)
def test_output_and_gradients_are_those_of_the_dense_formula(leading, n_in, r, blocks, dtype, p, layout, seed):
    torch.manual_seed(seed)
    sizes, enabled = [size for size, _ in blocks], [on for _, on in blocks]
    x = torch.randn(*leading, n_in, dtype=dtype)
    if layout == "transposed":
        x = torch.randn(n_in, *leading, dtype=dtype).movedim(0, -1)
    elif layout == "expanded":
        x = torch.randn(n_in, dtype=dtype).expand(*leading, n_in)
    args = normal(n_in, sizes, r, enabled, dtype)
    if layout == "no bias":
        args["bias"] = None
    elif layout == "expanded bias":
        args["bias"] = torch.randn(1, dtype=dtype).expand(sum(sizes))
    elif layout == "stored transposed":
        args["weight"] = args["weight"].T.contiguous().T
    inputs = [tensor.requires_grad_() for tensor in (x, args["lora_A"], args["lora_B"])]

    torch.manual_seed(seed)
    y = lora_linear(x, **args, scaling=1.5, dropout=nn.Dropout(p), enabled=enabled, block_sizes=sizes)
    after = torch.rand(1)
    torch.manual_seed(seed)
    update = dense_update(args["lora_A"].double(), args["lora_B"].double(), enabled, sizes)
    frozen = F.linear(x, args["weight"], args["bias"])
    expected = (frozen.double() + 1.5 * F.linear(F.dropout(x, p).double(), update)).to(dtype)
    assert torch.equal(after, torch.rand(1)), "the mask takes the random numbers of F.dropout"
    close(y, expected)
    grad_out = torch.randn(y.shape, dtype=dtype)
    for ours, reference in zip(
        torch.autograd.grad(y, inputs, grad_out), torch.autograd.grad(expected, inputs, grad_out), strict=True
    ):
        close(ours, reference)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    for start, size, on in zip(starts, sizes, enabled):
        assert on or torch.equal(y[..., start : start + size], frozen[..., start : start + size])


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("enabled", [[True], [True, False, True]])
def test_first_and_second_derivatives_agree_with_finite_differences(enabled, p):
    torch.manual_seed(0)
    sizes = [3] if len(enabled) == 1 else [3, 2, 1]
    args = normal(5, sizes, 2, enabled, torch.float64)
    inputs = [torch.randn(2, 2, 5, dtype=torch.float64), *args.values()]
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]

    def output(*tensors):
        torch.manual_seed(3)
        return lora_linear(*tensors, scaling=1.5, dropout=nn.Dropout(p), enabled=enabled, block_sizes=sizes)

    assert torch.autograd.gradcheck(output, inputs)
    assert torch.autograd.gradgradcheck(output, inputs)


@pytest.mark.parametrize(("d", "r", "most"), [(768, 4, 4.05), (1024, 4, 4.05), (768, 16, 4.2)])
def test_a_step_costs_hardly_more_than_the_frozen_layer(d, r, most):
    """In units of rows * in * out, where the frozen layer with the gradient of its input costs 4."""
    layer = loralib.MergedLinear(d, 3 * d, r=r, lora_dropout=0.1, enable_lora=[True, False, True], fan_in_fan_out=True)
    x = torch.randn(64, d, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert 4.0 < counter.get_total_flops() / (64 * d * 3 * d) <= most


@pytest.mark.parametrize(("p", "most"), [(0.0, 1.05), (0.1, 2.05)])
def test_kept_for_the_backward_pass_are_the_dropped_input_its_mask_and_the_thin_product(p, most):
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


def test_autocast_gives_its_dtype_and_float32_gradients_of_the_factors():
    layer, x = toy("merged", lora_dropout=0.0), toy_input("merged")
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    close(y, layer(x).bfloat16())
    y.sum().backward()
    assert layer.lora_A.grad.dtype == layer.lora_B.grad.dtype == torch.float32


def test_the_output_can_be_changed_in_place_and_in_part():
    layer, x = toy("merged"), toy_input("merged").requires_grad_()

    def gradients(change):
        return torch.autograd.grad(change(layer(x)).square().sum(), (x, layer.lora_A, layer.lora_B))

    def in_place(y):
        y += 1
        y[..., :6] *= 2
        return y.relu_()

    def out_of_place(y):
        q, k, v = (y + 1).chunk(3, dim=-1)
        return torch.cat([q * 2, k, v], dim=-1).relu()

    for ours, expected in zip(gradients(in_place), gradients(out_of_place), strict=True):
        close(ours, expected)


def test_an_input_changed_before_the_backward_pass_is_an_error():
    layer, x = toy("linear"), toy_input("linear")
    y = layer(x)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_hooks_on_the_dropout_run(p):
    layer, x = toy("linear", lora_dropout=p), toy_input("linear")
    layer.lora_dropout.register_forward_hook(lambda module, inputs, output: 0 * output)
    close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_directional_derivative_in_forward_mode_agrees_with_the_gradient():
    layer, x = toy("merged", dtype=torch.float64), toy_input("merged", torch.float64)
    direction = torch.randn_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction)).sum()).tangent
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    close(tangent, (gradient * direction).sum())


def test_jacobians_by_function_transforms_are_the_effective_weight():
    layer, x = toy("linear", dtype=torch.float64), toy_input("linear", torch.float64)[0, 0]
    for jacobian in (torch.func.jacrev(layer)(x), torch.func.jacfwd(layer)(x)):
        close(jacobian, layer.weight + layer.delta_weight())


def test_an_ensemble_of_factors_runs_under_vmap():
    layers = [toy("merged", seed=seed) for seed in range(3)]
    x = toy_input("merged")
    stacked = {name: torch.stack([getattr(layer, name) for layer in layers]) for name in ("lora_A", "lora_B")}
    for layer in layers[1:]:
        layer.load_state_dict({k: v for k, v in layers[0].state_dict().items() if "lora_" not in k}, strict=False)
    outputs = torch.func.vmap(lambda factors: torch.func.functional_call(layers[0], factors, (x,)))(stacked)
    for layer, y in zip(layers, outputs):
        close(y, layer(x))


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


def test_inference_mode_gives_the_same_output():
    layer, x = toy("merged"), toy_input("merged")
    with torch.inference_mode():
        y = layer(x)
    assert y.is_inference() and torch.equal(y, layer(x))


def test_a_subclass_may_bring_a_frozen_product_of_its_own():
    class Counting(loralib.MergedLinear):
        calls = 0

        def linear(self, x, weight, bias):
            self.calls += 1
            return F.linear(x, weight, bias)

    layer = Counting(10, 18, r=2, enable_lora=[True, False, True])
    x = toy_input("merged")
    assert layer(x).shape == layer.eval()(x).shape and layer.calls == 2
