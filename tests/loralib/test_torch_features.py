"""The layers under autocast, gradient checkpointing, compilation, export, function transforms and on a GPU."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import loralib
from tests.loralib.toys import ALL_KINDS, WITH_DROPOUT, randomize, toy, toy_input


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", WITH_DROPOUT)
def test_under_autocast_output_has_its_dtype_and_gradients_that_of_the_parameters(kind, mode):
    layer, x = toy(kind).train(mode), toy_input(kind).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32
    assert (layer.lora_A.grad is not None) == mode
    torch.testing.assert_close(
        y.float(), layer(x), rtol=0.03, atol=0.3
    )  # sums of up to 108 products of size 1 in bfloat16


@pytest.mark.parametrize("kind", ["linear", "merged"])
def test_autocast_does_not_widen_an_input_that_is_already_narrow(kind):
    layer, x = toy(kind), toy_input(kind, torch.bfloat16)
    saved = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.dtype) or t, lambda t: t),
    ):
        layer(x)
    assert saved and set(saved) == {torch.bfloat16}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_gradient_checkpointing_gives_the_same_gradients_with_dropout(kind, reentrant):
    def gradients(run):
        layer = toy(kind, **({} if kind == "embedding" else {"lora_dropout": 0.5}))
        x = toy_input(kind)
        entry = torch.ones(1, requires_grad=True)  # reentrant checkpointing wants an input that needs a gradient
        torch.manual_seed(11)
        run(lambda entry, x: layer(x) * entry, entry, x).square().sum().backward()
        return layer.lora_A.grad, layer.lora_B.grad

    plain = gradients(lambda f, *inputs: f(*inputs))
    again = gradients(lambda f, *inputs: checkpoint(f, *inputs, use_reentrant=reentrant))
    for ours, expected in zip(again, plain, strict=True):
        assert expected.abs().max() > 0 and torch.equal(ours, expected)


def compiled_fresh(layer: nn.Module, **kwargs):
    torch._dynamo.reset()
    return torch.compile(layer, fullgraph=True, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_compiled_layer_follows_the_mode_and_never_uses_an_old_weight(kind):
    layer, x = toy(kind), toy_input(kind)
    compiled = compiled_fresh(layer, backend="aot_eager")
    for mode in (True, False, True, False):
        layer.train(mode)
        torch.testing.assert_close(compiled(x), layer(x))
    with torch.no_grad():
        layer.lora_B.mul_(2)
    torch.testing.assert_close(compiled(x), layer(x))
    layer.load_state_dict(toy(kind, seed=5).state_dict())
    torch.testing.assert_close(compiled(x), layer(x))
    with layer.lora_disabled():
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_compiled_layer_has_the_same_gradients(kind):
    layer, x = toy(kind), toy_input(kind)
    twin = copy.deepcopy(layer)
    compiled_fresh(layer, backend="aot_eager")(x).square().sum().backward()
    twin(x).square().sum().backward()
    for (name, ours), expected in zip(layer.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (expected.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, expected.grad)


@pytest.mark.slow
def test_compiled_under_autocast_agrees_with_eager():
    layer, x = toy("merged"), toy_input("merged")
    compiled = compiled_fresh(layer, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        for mode in (True, False):
            layer.train(mode)
            assert torch.equal(compiled(x), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["merged", "conv2d"])
def test_compiled_with_factors_wider_than_the_base_agrees_with_eager(kind):
    layer, x = toy(kind).bfloat16(), toy_input(kind, torch.bfloat16)
    layer.lora_A, layer.lora_B = nn.Parameter(layer.lora_A.float()), nn.Parameter(layer.lora_B.float())
    compiled = compiled_fresh(layer, backend="aot_eager")
    for mode in (True, False):
        layer.train(mode)
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_default_compiler_agrees_with_eager():
    model = nn.Sequential(toy("merged", lora_dropout=0.0), nn.ReLU(), loralib.Linear(18, 5, r=2))
    randomize(model)
    x = toy_input("merged")
    compiled = compiled_fresh(model)
    for mode in (True, False):
        model.train(mode)
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ["merged", "conv2d"])
def test_exported_program_agrees(kind, mode):
    layer, x = toy(kind).train(mode), toy_input(kind)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize("kind", ["linear", "merged_fifo"])
def test_per_sample_gradients_through_function_transforms(kind):
    layer, x = toy(kind, dtype=torch.float64), toy_input(kind, torch.float64)
    factors = {name: p.detach() for name, p in layer.named_parameters() if name.startswith("lora_")}

    def loss(factors, sample):
        return torch.func.functional_call(layer, factors, (sample,)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(factors, x)
    loss(dict(layer.named_parameters()), x).backward()
    torch.testing.assert_close(per_sample["lora_B"].sum(0), layer.lora_B.grad, rtol=0, atol=1e-9)


def test_parameters_given_by_functional_call_are_used_by_a_merged_layer():
    layer, x = toy("linear").eval(), toy_input("linear")
    before = layer(x)
    swapped = torch.func.functional_call(layer, {"lora_B": torch.zeros(6, 2)}, (x,))
    with layer.lora_disabled():
        torch.testing.assert_close(swapped, layer(x))
    assert torch.equal(layer(x), before)


def test_a_small_model_learns_and_evaluates_in_between_without_drift():
    torch.manual_seed(0)
    model = nn.Sequential(
        loralib.Embedding(11, 8, r=2),
        loralib.MergedLinear(8, 24, r=2, lora_alpha=4, enable_lora=[True, False, True], fan_in_fan_out=True),
        nn.ReLU(),
        loralib.Linear(24, 3, r=2),
    )
    loralib.mark_only_lora_as_trainable(model)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    ids, target = torch.randint(11, (64,)), torch.randint(3, (64,))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.02)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model.train()(ids), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            two_branches = model(ids)
            torch.testing.assert_close(model.eval()(ids), two_branches, rtol=1e-4, atol=1e-5)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_layer_moved_while_merged_works_on_the_gpu(kind):
    layer, x = toy(kind).eval(), toy_input(kind)
    on_cpu = layer(x)
    on_gpu = layer.cuda()(x.cuda())
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-2)  # TF32 in convolutions
    randomize(layer)
    torch.testing.assert_close(layer(x.cuda()), layer.train()(x.cuda()), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_replicas_of_data_parallel_use_their_update(kind, mode):
    layer, x = toy(kind).train(mode), toy_input(kind)
    y = layer(x)
    # What torch's replicate() does with each module: parameters become plain tensors, copied to another device.
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer._parameters.items():
        setattr(replica, name, parameter * 1)
    torch.testing.assert_close(replica(x), y)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_shapes_can_be_found_out_on_the_meta_device(kind, mode):
    layer, x = toy(kind).train(mode), toy_input(kind)
    y = layer(x)
    on_meta = layer.to("meta")(x.to("meta"))
    assert on_meta.shape == y.shape and on_meta.device.type == "meta"
    layer.bfloat16()
    layer.lora_A, layer.lora_B = nn.Parameter(layer.lora_A.float()), nn.Parameter(layer.lora_B.float())
    narrow = layer(x.to("meta", torch.bfloat16 if x.is_floating_point() else x.dtype))
    assert narrow.shape == y.shape and narrow.dtype == torch.bfloat16
