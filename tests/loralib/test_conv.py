"""Convolutions of every dimension, kernel, grouping and padding, with the dropout that the released package ignores."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import loralib
from tests.loralib.toys import randomize, toy, toy_input

CLASSES = {1: loralib.Conv1d, 2: loralib.Conv2d, 3: loralib.Conv3d}
TORCH = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_every_kernel_and_grouping_is_the_torch_layer_with_the_summed_kernel(d, k, groups, merge):
    options = {"groups": groups, "stride": 2, "padding": 1, "dtype": torch.float64}
    layer = CLASSES[d](4, 6, k, r=2, lora_alpha=3, **options)
    randomize(layer)
    assert layer.lora_A.shape == (2 * k, 4 * k)
    assert layer.lora_B.shape == (6 // groups * k ** (d - 1), 2 * k)
    plain = TORCH[d](4, 6, k, **options)
    update = 1.5 * (layer.lora_B @ layer.lora_A).reshape(layer.weight.shape)
    plain.load_state_dict({"weight": layer.weight + update, "bias": layer.bias})
    x = torch.randn(2, 4, *[7] * d, dtype=torch.float64)
    torch.testing.assert_close(layer.train(not merge)(x), plain(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_tuple_of_equal_sides_is_the_integer(d):
    layer, same = CLASSES[d](4, 6, (3,) * d, r=2), CLASSES[d](4, 6, 3, r=2)
    assert layer.lora_A.shape == same.lora_A.shape and layer.lora_B.shape == same.lora_B.shape


def test_unequal_sides_are_refused_with_a_rank_and_fine_without():
    with pytest.raises(ValueError, match=r"kernel with equal sides, got kernel_size=\(3, 1\)"):
        loralib.Conv2d(4, 6, (3, 1), r=2)
    assert loralib.Conv2d(4, 6, (3, 1))(torch.zeros(1, 4, 5, 5)).shape == (1, 6, 3, 5)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_apply_to_both_branches(padding_mode):
    layer = loralib.Conv2d(4, 6, 3, r=2, padding=1, padding_mode=padding_mode, lora_dropout=0.5, dtype=torch.float64)
    randomize(layer)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    layer.lora_dropout.p = 0.0  # two branches, nothing dropped
    torch.testing.assert_close(layer(x), layer.eval()(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
def test_dropout_drops_inputs_of_the_update_only(kind):
    layer, x = toy(kind, lora_dropout=0.4, dtype=torch.float64), toy_input(kind, torch.float64)
    torch.manual_seed(7)
    y = layer(x)
    torch.manual_seed(7)
    dropped = F.dropout(x, 0.4)
    with torch.no_grad():
        expected = layer._conv_forward(x, layer.weight, layer.bias)
        expected = expected + layer._conv_forward(dropped, layer.delta_weight(), None)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(y, toy(kind, dtype=torch.float64)(x))


def test_dropout_of_a_convolution_is_off_in_eval_mode():
    layer, x = toy("conv2d", lora_dropout=0.9, merge_weights=False).eval(), toy_input("conv2d")
    assert torch.equal(layer(x), toy("conv2d")(x))


def test_input_without_a_batch_dimension_works():
    layer, x = toy("conv2d", lora_dropout=0.1), toy_input("conv2d")
    assert layer(x[0]).shape == layer(x)[0].shape


@pytest.mark.parametrize("d", [1, 2, 3])
def test_conv_lora_called_with_a_torch_class_is_that_layer(d):
    torch.manual_seed(0)
    direct = loralib.ConvLoRA(TORCH[d], 4, 6, 3, r=2, lora_alpha=3, padding=1)
    torch.manual_seed(0)
    named = CLASSES[d](4, 6, 3, 2, 3, padding=1)
    assert isinstance(direct, TORCH[d]) and isinstance(direct, loralib.ConvLoRA)
    x = torch.randn(1, 4, *[5] * d)
    assert torch.equal(direct(x), named(x)) and torch.equal(pickle.loads(pickle.dumps(direct))(x), named(x))
    assert list(direct.state_dict()) == list(named.state_dict())


def test_conv_lora_refuses_other_modules():
    with pytest.raises(TypeError, match=r"conv_module must be nn.Conv1d, nn.Conv2d, nn.Conv3d or a subclass, got .*Tr"):
        loralib.ConvLoRA(nn.ConvTranspose2d, 4, 6, 3, r=2)

    class NoTorchClass(loralib.ConvLoRA):
        pass

    with pytest.raises(TypeError, match="NoTorchClass must also derive from Conv2d"):
        NoTorchClass(nn.Conv2d, 4, 6, 3, r=2)


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
def test_autocast_does_not_round_the_kernel_before_it_is_summed(kind):
    layer, x = toy(kind), toy_input(kind)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert torch.equal(layer.eval()(x), y)
