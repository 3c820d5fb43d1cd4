"""The layers give the numbers recorded from the released package: outputs, gradients, merged weights, first values."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import loralib
from tests.shared_data import GOLDEN

FOLDER = GOLDEN / "loralib"
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "layers.json").read_text())["cases"]
TENSORS = load_file(FOLDER / "layers.safetensors")
LAYER_CASES = sorted(name for name, case in CASES.items() if case.get("kind") != "init")
INIT_CASES = sorted(name for name, case in CASES.items() if case.get("kind") == "init")

# float64: the order of a few dozen additions. float32: the same at its precision. bfloat16: the released code merges in
# bfloat16 and we round once, so outputs of size 10 may differ by some units of 2**-8 * 10.
TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "bfloat16": 0.13}


def tensors_of(case: str) -> dict[str, Tensor]:
    return {key.split("|", 1)[1]: value for key, value in TENSORS.items() if key.startswith(f"{case}|")}


def build(case: str, **extra: Any) -> Any:
    entry = CASES[case]
    return getattr(loralib, entry["cls"])(*entry["args"], **entry["kwargs"], **extra)


def recorded_layer(case: str) -> tuple[Any, dict[str, Tensor]]:
    """The layer of a case with the recorded parameters, in train mode."""
    recorded = tensors_of(case)
    layer = build(case, dtype=getattr(torch, CASES[case]["dtype"]))
    layer.load_state_dict({name: recorded[name] for name in layer.state_dict()})
    return layer, recorded


def close(actual: Tensor, expected: Tensor, case: str) -> None:
    tolerance = TOLERANCE[CASES[case]["dtype"]]
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", LAYER_CASES)
def test_output_and_gradients_in_train_mode_are_the_recorded_ones(case):
    layer, recorded = recorded_layer(case)
    x = recorded["x"].clone()
    if x.is_floating_point():
        x.requires_grad_()
    y = layer(x)
    close(y, recorded["y_train"], case)
    (y * recorded["grad_out"]).sum().backward()
    gradients = {f"grad_{name}": p.grad for name, p in layer.named_parameters()} | {"grad_x": x.grad}
    expected = {name for name in recorded if name.startswith("grad_") and name != "grad_out"}
    assert expected <= {name for name, gradient in gradients.items() if gradient is not None}
    for name in expected:
        close(gradients[name], recorded[name], case)
    if "base_weight_got_grad" in CASES[case]:
        assert (layer.weight.grad is not None) == CASES[case]["base_weight_got_grad"]
        assert layer.weight.requires_grad == CASES[case]["weight_requires_grad"]


@pytest.mark.parametrize("case", LAYER_CASES)
def test_eval_gives_the_recorded_output_and_merged_weight_and_train_gives_the_weight_back(case):
    layer, recorded = recorded_layer(case)
    assert layer.eval() is layer
    close(layer(recorded["x"]), recorded["y_eval"], case)
    # The released code writes the merged weight over the stored one; here it is read and the stored one stays.
    close(layer.weight, recorded["weight_after_eval"], case)
    assert torch.equal(layer.state_dict()["weight"], recorded["weight"])
    if "merged_in_eval" in CASES[case]:
        assert layer.merged == CASES[case]["merged_in_eval"]
        assert layer.train().merged == CASES[case]["merged_after_train"]
        close(layer.weight, recorded["weight_after_train_again"], case)


@pytest.mark.parametrize("case", LAYER_CASES)
def test_names_order_and_scaling_are_the_released_ones(case):
    layer, _ = recorded_layer(case)
    if CASES[case]["scaling"] is not None:
        assert layer.scaling == CASES[case]["scaling"]
    else:
        assert not any(hasattr(layer, name) for name in ("lora_A", "lora_B", "scaling"))
    if "state_dict_keys" in CASES[case]:
        # conv.*: the released package registers the parameters of a convolution twice; we do so once.
        keys = [key for key in CASES[case]["state_dict_keys"] if not key.startswith("conv.")]
        assert list(layer.state_dict()) == keys
        assert [name for name, _ in layer.named_parameters()] == CASES[case]["named_parameters"]


@pytest.mark.parametrize("case", [case for case in LAYER_CASES if "delta_unscaled" in tensors_of(case)])
def test_update_of_a_fused_projection_is_the_recorded_one_and_zero_in_disabled_rows(case):
    layer, recorded = recorded_layer(case)
    delta = layer.delta_weight()
    close(delta, recorded["delta_unscaled"] * layer.scaling, case)
    rows = delta.T if layer.fan_in_fan_out else delta
    assert torch.equal(rows.abs().amax(dim=1) > 0, recorded["enabled_rows"].bool())


@pytest.mark.parametrize("case", INIT_CASES)
def test_first_values_after_a_seed_are_the_recorded_ones_to_the_bit(case):
    recorded = tensors_of(case)
    if case == "init_conv1d":
        # The released lora_B has k rows too many for one dimension and cannot run; zeros either way.
        assert not recorded["lora_B"].any()
        recorded["lora_B"] = recorded["lora_B"][:6]
    torch.manual_seed(CASES[case]["seed"])
    layer = build(case)
    assert list(layer.state_dict()) == list(dict.fromkeys(["weight", *sorted(recorded.keys() - {"weight"})]))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, recorded[name]), name
        assert value.is_contiguous(), name
