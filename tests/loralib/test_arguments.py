"""Arguments: order and defaults of the released package, and an answer to every value that cannot work."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import loralib
from tests.loralib.toys import ALL_KINDS, KINDS, toy
from tests.shared_data import REPOSITORY

COMMON = [("r", 0), ("lora_alpha", 1)]
DROPOUT, MERGE = ("lora_dropout", 0.0), ("merge_weights", True)
NONE = inspect.Parameter.empty
SIGNATURES = {
    "Linear": [("in_features", NONE), ("out_features", NONE), *COMMON, DROPOUT, ("fan_in_fan_out", False), MERGE],
    "MergedLinear": [
        ("in_features", NONE),
        ("out_features", NONE),
        *COMMON,
        DROPOUT,
        ("enable_lora", (False,)),
        ("fan_in_fan_out", False),
        MERGE,
    ],
    "Embedding": [("num_embeddings", NONE), ("embedding_dim", NONE), *COMMON, MERGE],
    "ConvLoRA": [
        ("conv_module", NONE),
        ("in_channels", NONE),
        ("out_channels", NONE),
        ("kernel_size", NONE),
        *COMMON,
        DROPOUT,
        MERGE,
    ],
    "LoRALayer": [("r", NONE), ("lora_alpha", NONE), ("lora_dropout", NONE), ("merge_weights", NONE)],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_positional_arguments_and_defaults_are_the_released_ones(name):
    parameters = list(inspect.signature(getattr(loralib, name).__init__).parameters.values())[1:]
    positional = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == SIGNATURES[name]


def test_convolutions_take_the_same_arguments_without_the_class():
    layer = loralib.Conv2d(4, 6, 3, 2, 5, 0.25, False, padding=1)
    assert (layer.r, layer.lora_alpha, layer.lora_dropout.p, layer.merge_weights) == (2, 5, 0.25, False)
    assert layer.scaling == 2.5 and layer.padding == (1, 1)


def test_arguments_of_the_torch_layer_are_passed_on():
    layer = loralib.Linear(4, 6, r=2, bias=False, dtype=torch.float64)
    assert layer.bias is None
    assert layer.weight.dtype == layer.lora_A.dtype == layer.lora_B.dtype == torch.float64


def test_public_names_are_those_of_the_released_package_and_these_new_ones():
    released = {"LoRALayer", "Embedding", "Linear", "MergedLinear", "ConvLoRA", "Conv1d", "Conv2d", "Conv3d"}
    new = {"INITIALIZERS", "Adapters", "apply_lora", "remove_lora", "save_adapter", "load_adapter"}
    new |= {"TrainableSummary", "trainable_summary", "disabled", "lora_plus_groups", "__version__"}
    new |= {"merged_state_dict", "released_state_dict", "load_released_state_dict"}
    assert set(loralib.__all__) == released | {"mark_only_lora_as_trainable", "lora_state_dict"} | new
    assert all(hasattr(loralib, name) for name in loralib.__all__)
    from loralib import layers, utils

    assert released | {"nn", "F", "torch", "math", "List", "Optional"} == set(layers.__all__)
    assert utils.lora_state_dict is loralib.lora_state_dict


@pytest.mark.slow
def test_importing_loralib_imports_torch_and_nothing_else():
    program = (
        "import sys, torch; before = set(sys.modules); import loralib; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "sys.exit(str(new) if new - {'loralib', 'torch'} - set(sys.stdlib_module_names) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_layer_of_the_users_own_can_use_the_mixin_as_released():
    class Scaled(nn.Linear, loralib.LoRALayer):
        def __init__(self, n: int, r: int):
            nn.Linear.__init__(self, n, n)
            loralib.LoRALayer.__init__(self, r=r, lora_alpha=1, lora_dropout=0.1, merge_weights=False)
            self.lora_A = nn.Parameter(torch.ones(r, n))

    layer = Scaled(4, 2)
    assert (layer.r, layer.merged, layer.lora_dropout.p) == (2, False, 0.1)
    loralib.mark_only_lora_as_trainable(layer, "lora_only")
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["bias", "lora_A"]


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"r": None}, TypeError, "rank r must be an integer, got r=None"),
        ({"r": 4.0}, TypeError, r"rank r must be an integer, got r=4\.0"),
        ({"r": True}, TypeError, "rank r must be an integer, got r=True"),
        ({"r": "4"}, TypeError, "rank r must be an integer, got r='4'"),
        ({"r": -1}, ValueError, "rank must be >= 0, got r=-1; r=0 gives the plain layer"),
        ({"lora_alpha": None}, TypeError, "lora_alpha must be a number, got None"),
        ({"lora_alpha": "16"}, TypeError, "lora_alpha must be a number, got '16'"),
        ({"lora_alpha": float("nan")}, ValueError, "lora_alpha must be finite, got nan"),
        ({"lora_alpha": float("inf")}, ValueError, "lora_alpha must be finite, got inf"),
        ({"lora_init": "zeros"}, ValueError, "unknown lora_init 'zeros'; choose from released, paper"),
    ],
)
def test_wrong_rank_scale_and_initialiser_are_refused(kind, arguments, error, message):
    constructor, args, _ = KINDS[kind]
    with pytest.raises(error, match=message):
        constructor(*args, **{"r": 2, **arguments})


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-0.1, ValueError, r"lora_dropout must be a probability in \[0, 1\], got -0\.1"),
        (1.5, ValueError, r"lora_dropout must be a probability in \[0, 1\], got 1\.5"),
        (None, TypeError, "lora_dropout must be a number, got None"),
    ],
)
@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "embedding"])
def test_wrong_dropout_is_refused(kind, value, error, message):
    with pytest.raises(error, match=message):
        KINDS[kind][0](*KINDS[kind][1], r=2, lora_dropout=value)


@pytest.mark.parametrize(
    ("enable_lora", "error", "message"),
    [
        ([True, False], ValueError, r"got out_features=9 and 2 entries in enable_lora=\[True, False\]"),
        ([], ValueError, "got out_features=9 and 0 entries"),
        (True, TypeError, "enable_lora must be a sequence with one bool for each output block, got True"),
        ("qkv", TypeError, "enable_lora must be a sequence"),
        (["q", None, "v"], TypeError, r"must contain only True and False, got \['q', None, 'v'\]"),
        ([2, 0, 1], TypeError, "must contain only True and False"),
    ],
)
def test_wrong_enable_lora_is_refused(enable_lora, error, message):
    with pytest.raises(error, match=message):
        loralib.MergedLinear(4, 9, r=2, enable_lora=enable_lora)


def test_numbers_of_numpy_are_numbers():
    layer = loralib.Linear(4, 4, r=np.int64(2), lora_alpha=np.float32(3))
    assert layer.r == 2 and layer.scaling == 1.5


def test_a_list_given_as_enable_lora_is_not_kept():
    enable = [True, False, True]
    layer = loralib.MergedLinear(4, 12, r=2, enable_lora=enable)
    enable[1] = True
    assert layer.enable_lora == (True, False, True)


def test_repr_says_rank_and_scale():
    assert "in_features=10, out_features=6, bias=True, r=2, lora_alpha=3, merged=False" in repr(toy("linear"))
