"""Adapter folders describe themselves: what is saved comes back as it was."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import loralib
from loralib.inject import lora_layers
from tests.loralib.models import IDS, filled, net

FUSED = {"c_attn": [True, False, True]}
TARGETS = ["query", "c_attn", "wte"]


def adapted(model=None, **kwargs):
    model = net() if model is None else model
    return filled(loralib.apply_lora(model, TARGETS, 2, 4, **{"enable_lora": FUSED, **kwargs}))


def saved(folder: Path, model=None, **kwargs) -> Path:
    loralib.save_adapter(adapted() if model is None else model, folder, **kwargs)
    return folder


def config_of(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def changed(folder: Path, **config) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({**config_of(folder), **config}))
    return folder


def rewritten(folder: Path, change) -> Path:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def header_of(folder: Path) -> dict | None:
    """What this package put into the header of the tensor file."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        metadata = file.metadata()
    return metadata and json.loads(metadata["loralib"])


def refuse_load(model: nn.Module, folder: Path, message: str, **kwargs) -> None:
    with pytest.raises(ValueError, match=message) as error:
        loralib.load_adapter(model, folder, **kwargs)
    assert "\n" not in str(error.value)


def same_adapter(a: nn.Module, b: nn.Module) -> bool:
    a, b = loralib.lora_state_dict(a), loralib.lora_state_dict(b)
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


# --- the files -------------------------------------------------------------------------------------------------------


def test_keys_and_shapes_are_those_of_peft(tmp_path):
    tensors = load_file(saved(tmp_path) / "adapter_model.safetensors")
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    expected = {"wte.lora_embedding_A": (2, 11), "wte.lora_embedding_B": (6, 2)}
    for block in ("h.0", "h.1"):
        expected |= {f"{block}.query.lora_A.weight": (2, 6), f"{block}.query.lora_B.weight": (6, 2)}
        expected |= {f"{block}.c_attn.lora_A.weight": (4, 6), f"{block}.c_attn.lora_B.weight": (18, 4)}
    assert shapes == {f"base_model.model.{key}": shape for key, shape in expected.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_fused_layer_is_stored_as_one_lora_with_the_same_update(tmp_path):
    model = adapted()
    layer = model.h[0].c_attn
    tensors = load_file(saved(tmp_path, model) / "adapter_model.safetensors")
    lora_A, lora_B = (tensors[f"base_model.model.h.0.c_attn.lora_{name}.weight"] for name in "AB")
    config = config_of(tmp_path)
    scaling = config["alpha_pattern"].get("h.0.c_attn", config["lora_alpha"]) / lora_A.shape[0]
    assert scaling == layer.scaling
    torch.testing.assert_close((scaling * lora_B @ lora_A).T, layer.delta_weight())


def test_the_config_holds_ranks_alphas_and_names_in_the_keys_of_every_peft_version(tmp_path):
    config = config_of(saved(tmp_path, adapted(rank_pattern={"h.1.query": 1}, dropout=0.25)))
    assert config == {
        "alpha_pattern": {"h.0.c_attn": 8, "h.1.c_attn": 8},
        "auto_mapping": {"base_model_class": "Net", "parent_library": "tests.loralib.models"},
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": True,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 4,
        "lora_dropout": 0.25,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 2,
        "rank_pattern": {"h.0.c_attn": 4, "h.1.c_attn": 4, "h.1.query": 1},
        "revision": None,
        "target_modules": ["c_attn", "query", "wte"],
        "task_type": None,
    }


def test_target_modules_select_the_adapted_modules_and_no_others(tmp_path):
    model = loralib.apply_lora(net(), "h.1.query", 2, 4)
    assert config_of(saved(tmp_path, model))["target_modules"] == ["h.1.query"]
    model = nn.ModuleDict({"q": nn.Linear(2, 2), "b": nn.ModuleDict({"q": nn.Linear(2, 2)})})
    loralib.apply_lora(model, "q", 1, 1, exclude="b.q")
    assert config_of(saved(tmp_path, model))["target_modules"] == "q"  # a string is an expression for whole names


def test_rank_keys_do_not_reach_modules_whose_names_end_alike(tmp_path):
    model = nn.ModuleDict({"q": nn.Linear(2, 2), "b": nn.ModuleDict({"q": nn.Linear(2, 2), "v": nn.Linear(2, 2)})})
    plain = copy.deepcopy(model)
    filled(loralib.apply_lora(model, ["q", "v"], 1, 1, rank_pattern={"b.q": 1, "b.v": 1, "q": 2}))
    assert config_of(saved(tmp_path, model))["rank_pattern"] == {"^q": 2}
    assert same_adapter(loralib.load_adapter(plain, tmp_path), model)


# --- back into a model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
def test_a_plain_model_gets_the_same_layers_and_factors(tmp_path, mode):
    model = adapted(dropout=0.25).train(mode)
    y = model(IDS)
    plain = net().eval()
    state = torch.get_rng_state()
    loaded = loralib.load_adapter(plain, saved(tmp_path, model))
    assert loaded is plain and torch.equal(torch.get_rng_state(), state)
    mine = {name: (type(layer), layer.r, layer.lora_alpha) for name, layer in lora_layers(loaded).items()}
    assert mine == {name: (type(layer), layer.r, layer.lora_alpha) for name, layer in lora_layers(model).items()}
    assert loaded.h[0].query.lora_dropout.p == 0.25
    assert same_adapter(loaded, model)
    if not mode:
        assert torch.equal(loaded(IDS), y)
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in loaded.named_parameters())


def test_an_adapted_model_gets_the_factors_while_merged(tmp_path):
    source, target = adapted(), filled(adapted(), seed=5).eval()
    target(IDS)
    layer, parameter = target.h[0].query, target.h[0].query.lora_A
    loralib.load_adapter(target, saved(tmp_path, source))
    assert target.h[0].query is layer and layer.lora_A is parameter
    assert same_adapter(target, source) and torch.equal(target(IDS), source.eval()(IDS))


def test_a_head_that_trained_is_saved_and_loaded_and_trains_on(tmp_path):
    model = adapted(trainable="classifier")
    with torch.no_grad():
        model.classifier[0].weight.add_(1)
    assert config_of(saved(tmp_path, model))["modules_to_save"] == ["classifier"]
    loaded = loralib.load_adapter(net(), tmp_path)
    assert torch.equal(loaded.classifier[0].weight, model.classifier[0].weight)
    trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_biases_are_saved_and_loaded(tmp_path, bias):
    model = adapted(bias=bias)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    keys = set(load_file(saved(tmp_path, model, bias=bias) / "adapter_model.safetensors"))
    assert "base_model.model.h.0.query.base_layer.bias" in keys
    assert ("base_model.model.h.0.ln.bias" in keys) == (bias == "all")
    loaded = loralib.load_adapter(net(), tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_files_of_the_older_kind_are_read(tmp_path):
    model = loralib.apply_lora(net(), "query", 2, 4)
    saved(tmp_path, filled(model))
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    assert same_adapter(loralib.load_adapter(net(), tmp_path), model)


def test_a_file_without_our_header_gives_one_lora_for_a_fused_projection(tmp_path):
    model = adapted(model=net().double())
    loaded = loralib.load_adapter(net().double(), rewritten(saved(tmp_path, model), lambda tensors: None))
    assert type(loaded.h[0].c_attn) is loralib.Linear and loaded.h[0].c_attn.r == 4
    torch.testing.assert_close(loaded(IDS), model(IDS))
    assert same_adapter(loralib.load_adapter(adapted(model=net().double()), tmp_path), model)


def test_rank_stabilised_layers_come_back_as_such(tmp_path):
    model = adapted(use_rslora=True)
    config = config_of(saved(tmp_path, model))
    assert config["use_rslora"] and (config["r"], config["lora_alpha"]) == (2, 4)
    assert config["alpha_pattern"] == {f"h.{i}.c_attn": 4 * 2**0.5 for i in (0, 1)}  # 4 / sqrt(2) = 4 sqrt(2) / sqrt(4)
    for loaded in (loralib.load_adapter(net(), tmp_path), loralib.load_adapter(adapted(use_rslora=True), tmp_path)):
        layer = loaded.h[0].c_attn
        assert (layer.use_rslora, layer.lora_alpha, layer.scaling) == (True, 4, 4 / 2**0.5)
        assert same_adapter(loaded, model)
    refuse_load(adapted(), tmp_path, r"wte: alpha is 4 in the file, but 2.82843 in the model")


def test_layers_of_both_scales_in_one_model_are_saved_with_equal_scales(tmp_path):
    model = filled(loralib.apply_lora(net(), "query", 4, 6, use_rslora=True))
    filled(loralib.apply_lora(model, "myquery", 4, 6))
    config = config_of(saved(tmp_path, model))
    assert "use_rslora" not in config and config["alpha_pattern"] in ({"h.0.query": 12, "h.1.query": 12}, {
        "h.0.myquery": 6, "h.1.myquery": 6})  # fmt: skip
    loaded = loralib.load_adapter(net(), tmp_path)
    assert (loaded.h[0].query.scaling, loaded.h[0].myquery.scaling) == (3, 1.5)


@pytest.mark.parametrize("enabled", [[True, False, True], [True, True, True], [False, True, False]])
def test_blocks_of_unequal_size_stand_in_their_rows_and_come_back(tmp_path, enabled):
    sizes = [10, 3, 5]
    arguments = {"enable_lora": {"c_attn": enabled}, "block_sizes": {"c_attn": sizes}}
    model = filled(loralib.apply_lora(net(), ["c_attn"], 2, 4, **arguments))
    layer, tensors = model.h[0].c_attn, load_file(saved(tmp_path, model) / "adapter_model.safetensors")
    lora_A, lora_B = (tensors[f"base_model.model.h.0.c_attn.lora_{name}.weight"] for name in "AB")
    torch.testing.assert_close((layer.scaling * lora_B @ lora_A).T, layer.delta_weight())
    assert [bool(rows.any()) for rows in lora_B.split(sizes)] == enabled
    for plain in (net(), loralib.apply_lora(net(), ["c_attn"], 2, 4, **arguments)):
        loaded = loralib.load_adapter(plain, tmp_path).h[0].c_attn
        assert (loaded.enable_lora, loaded.block_sizes) == (tuple(enabled), tuple(sizes))
        assert torch.equal(loaded.lora_A, layer.lora_A) and torch.equal(loaded.lora_B, layer.lora_B)


# --- dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_stay_float32_on_a_half_precision_model(tmp_path, dtype):
    model = adapted()
    loaded = loralib.load_adapter(net().to(dtype), saved(tmp_path, model))
    assert {parameter.dtype for name, parameter in loaded.named_parameters() if "lora_" not in name} == {dtype}
    assert same_adapter(loaded, model)


def test_factors_are_rounded_only_if_asked_to(tmp_path):
    saved(tmp_path)
    message = (
        r"wte: the file has torch.float32, which the factors of torch.bfloat16 in the model would round; pass lora"
    )

    def half() -> nn.Module:
        return adapted(net().bfloat16(), lora_dtype=torch.bfloat16)

    refuse_load(half(), tmp_path, message)
    for model in (half(), net().bfloat16()):
        loaded = loralib.load_adapter(model, tmp_path, lora_dtype=torch.bfloat16)
        assert loaded.h[0].query.lora_A.dtype == torch.bfloat16
    loralib.load_adapter(half(), saved(tmp_path, adapted().bfloat16().float()), check_base=False)  # nothing to round


def test_a_dtype_other_than_that_of_the_factors_is_refused(tmp_path):
    message = "wte: has factors of torch.float32, not of lora_dtype=torch.float64; leave lora_dtype out"
    refuse_load(adapted(), saved(tmp_path), message, lora_dtype=torch.float64)
    assert loralib.load_adapter(net(), tmp_path, lora_dtype=torch.float64).h[0].query.lora_A.dtype == torch.float64
