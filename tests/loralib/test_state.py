"""Saving, loading, copying and moving: always the unmerged weight, each tensor once, in either mode."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import loralib
from tests.loralib.toys import ALL_KINDS, KINDS, randomize, toy, toy_input


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def built(kind: str, **kwargs):
    """A layer with other numbers than ``toy(kind)``."""
    return toy(kind, seed=99, **kwargs)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_state_dict_is_the_same_in_train_and_eval_mode(kind):
    layer = toy(kind)
    trained = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.eval()(toy_input(kind))
    assert same(layer.state_dict(), trained)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("load_mode", [True, False])
@pytest.mark.parametrize("save_mode", [True, False])
def test_save_and_load_work_in_any_pair_of_modes(kind, save_mode, load_mode):
    layer, x = toy(kind).train(save_mode), toy_input(kind)
    layer(x)
    other = built(kind).train(load_mode)
    other(x)
    other.load_state_dict(layer.state_dict())
    assert other.merged == (not load_mode)
    torch.testing.assert_close(other(x), layer(x))
    torch.testing.assert_close(other.train()(x), layer.train()(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("assign", [False, True])
def test_loading_an_adapter_while_merged_is_used_and_leaves_the_weight_alone(kind, assign):
    layer, x = toy(kind).eval(), toy_input(kind)
    weight = layer.state_dict()["weight"].clone()
    layer(x)
    adapter = loralib.lora_state_dict(built(kind))
    assert layer.load_state_dict(adapter, strict=False, assign=assign).unexpected_keys == []
    merged = layer(x)
    torch.testing.assert_close(merged, layer.train()(x))
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_loading_a_base_weight_while_merged_is_used(kind):
    layer, x = toy(kind).eval(), toy_input(kind)
    layer(x)
    base = built(kind).state_dict()["weight"]
    layer.load_state_dict({"weight": base}, strict=False)
    torch.testing.assert_close(layer(x), layer.train()(x))
    assert torch.equal(layer.weight, base)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_plain_checkpoint_lacks_only_the_factors(kind):
    plain = KINDS[kind][0](*KINDS[kind][1])
    result = toy(kind).load_state_dict(plain.state_dict(), strict=False)
    assert result.missing_keys == ["lora_A", "lora_B"] and result.unexpected_keys == []


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_safetensors_saves_the_state_dict_in_eval_mode(kind):
    layer = toy(kind).eval()
    layer(toy_input(kind))
    loaded = load(save(layer.state_dict()))
    assert same({key: loaded[key] for key in layer.state_dict()}, layer.state_dict())
    assert all(parameter.is_contiguous() for parameter in layer.parameters())


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_layers_can_be_pickled_and_deep_copied_in_either_mode(kind, mode):
    layer, x = toy(kind).train(mode), toy_input(kind)
    y = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert type(twin) is type(layer) and twin.merged == layer.merged
        assert torch.equal(twin(x), y)
        randomize(twin)
        assert not torch.equal(twin(x), y)
    assert torch.equal(layer(x), y), "a copy shares no numbers with its original"


def test_a_pickle_does_not_contain_the_merged_weight():
    layer = toy("linear")
    small = len(pickle.dumps(layer))
    layer.eval()(toy_input("linear"))
    assert len(pickle.dumps(layer)) == small


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_meta_device_and_to_empty_give_a_working_layer(kind):
    constructor, args, _ = KINDS[kind]
    layer = constructor(*args, r=2, lora_alpha=3, device="meta")
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
    layer.eval()
    layer = layer.to_empty(device="cpu")
    layer.load_state_dict(toy(kind).state_dict())
    x = toy_input(kind)
    assert torch.equal(layer(x), toy(kind).eval()(x))
    layer.reset_parameters()
    torch.testing.assert_close(layer(x), layer.train()(x))
    with layer.lora_disabled():
        torch.testing.assert_close(layer(x), layer.eval()(x), msg="a fresh update is zero")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_meta_tensors_are_replaced_by_assignment_while_merged(kind):
    with torch.device("meta"):
        layer = KINDS[kind][0](*KINDS[kind][1], r=2, lora_alpha=3).eval()
    layer.load_state_dict(toy(kind).state_dict(), assign=True)
    assert torch.equal(layer(toy_input(kind)), toy(kind).eval()(toy_input(kind)))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_change_of_dtype_reaches_a_merged_layer(kind):
    layer, x = toy(kind).eval(), toy_input(kind)
    layer(x)
    layer.double()
    y = layer(x.double() if x.is_floating_point() else x)
    assert y.dtype == torch.float64 and layer.merged_weight.dtype == torch.float64


class OldNamesConv(nn.Module):
    def __init__(self, conv: nn.Module):
        super().__init__()
        self.body = conv


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
@pytest.mark.parametrize("both", [False, True], ids=["0.1.2", "later sources"])
def test_convolution_checkpoints_of_the_released_package_load_strictly(kind, both):
    source = toy(kind)
    old = {f"body.conv.{name}": getattr(source, name) for name in ("weight", "bias")}
    old |= {f"body.{name}": getattr(source, name) for name in ("lora_A", "lora_B")}
    if both:
        old |= {f"body.{name}": getattr(source, name) for name in ("weight", "bias")}
    model = OldNamesConv(built(kind))
    model.load_state_dict(old)
    assert same(model.body.state_dict(), source.state_dict())
    bare = built(kind)
    bare.load_state_dict({key.removeprefix("body."): value for key, value in old.items()})
    assert same(bare.state_dict(), source.state_dict())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_parameter_is_registered_once(kind):
    layer = toy(kind)
    names = [name for name, _ in layer.named_parameters(remove_duplicate=False)]
    expected = ["weight", "lora_A", "lora_B"] if kind == "embedding" else ["weight", "bias", "lora_A", "lora_B"]
    assert names == expected == list(layer.state_dict())
    assert list(layer.buffers()) == []
