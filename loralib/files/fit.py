"""Whether the files of an adapter folder fit each other and a model, and which values they give to what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from loralib.adopt import LayerSettings, takes_dropout
from loralib.base import LoRALayer
from loralib.files.config import AdapterConfig
from loralib.files.folder import CONFIG, Header
from loralib.files.peft import LayerRecord, factor_keys, from_peft, in_file, owner_of, path_of_factor
from loralib.targets import listed


def further_keys(model: nn.Module, layers: Mapping[str, LoRALayer], bias: str, heads: Sequence[str]) -> list[str]:
    """Keys of the state dict that the file has beside the factors; biases as ``mark_only_lora_as_trainable`` trains."""
    inside = tuple(f"{head}." for head in heads)
    beside = {f"{path}.bias" for path in layers} if bias == "lora_only" else set()
    return [
        key
        for key in model.state_dict()
        if key.startswith(inside) or key in beside or (bias == "all" and "bias" in key and "lora_" not in key)
    ]


def present_heads(model: nn.Module, config: AdapterConfig) -> list[str]:
    """Modules that the config names; PEFT lists usual names of heads, whether a model has them or not."""
    ends = tuple(f".{head}" for head in config.modules_to_save)
    return [name for name, _ in model.named_modules() if name and f".{name}".endswith(ends)]


def records_in_file(
    model: nn.Module, tensors: Mapping[str, Tensor], config: AdapterConfig, header: Header
) -> dict[str, LayerRecord]:
    """What the files say of each adapted module, after a check that config, header and shapes say the same."""
    factors = {key: path for key in tensors if (path := path_of_factor(key)) is not None}
    paths = dict.fromkeys(sorted(factors.values()))
    known = {name for name, _ in model.named_modules()}
    if unknown := [path for path in paths if path not in known]:
        raise ValueError(f"does not fit the model: the model has no modules {listed(unknown)}")
    if not paths:
        raise ValueError("does not fit the model: its file has no LoRA factors")
    said = {path: config.record_of(owner_of(path, paths)) for path in paths}
    for key, path in factors.items():
        tensor, side = tensors[key], 0 if key.endswith(("_A", "_A.weight")) else 1
        if (
            not tensor.is_floating_point()
            or tensor.dim() < 2
            or tensor.numel() == 0
            or tensor.shape[side] != said[path].r
        ):
            raise ValueError(
                f"{key} is {tensor.dtype} {tuple(tensor.shape)}, expected floats of rank {said[path].r} as in {CONFIG}"
            )
    records = {path: header.layers.get(path, said[path]) for path in paths}
    for path, record in records.items():
        if not math.isclose(record.scale, said[path].scale, rel_tol=1e-6):
            raise ValueError(
                f"{path} has scale {said[path].scale:g} in {CONFIG}, but {record.scale:g} beside the tensors: "
                "the files are of two saves, the last of which was cut short; save the adapter again"
            )
    return records


def settings_for(
    model: nn.Module, records: Mapping[str, LayerRecord], config: AdapterConfig, lora_dtype: torch.dtype | None
) -> dict[str, LayerSettings]:
    settings = {}
    for path, record in records.items():
        parent, _, name = path.rpartition(".")
        # Where weights are read no dropout can act; PEFT leaves it out of attentions too, whatever it writes.
        acts = takes_dropout(model.get_submodule(path), model.get_submodule(parent), name)
        dropout = config.lora_dropout if acts else 0.0
        settings[path] = LayerSettings(
            record.r,
            record.lora_alpha,
            dropout,
            record.enable_lora,
            record.block_sizes,
            lora_dtype=lora_dtype,
            use_rslora=record.use_rslora,
        )
    return settings


def new_values(
    model: nn.Module,
    layers: Mapping[str, LoRALayer],
    tensors: Mapping[str, Tensor],
    config: AdapterConfig,
    lora_dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """Parameter or buffer name to its new value, for all of the file."""
    state_dict = model.state_dict()
    plain = {in_file(key, layers): key for key in state_dict}
    factors = {key for path in layers for key in factor_keys(path, layers)}
    heads = present_heads(model, config)
    biases = [key for key in further_keys(model, layers, config.bias, ()) if key.endswith(".bias")]  # as PEFT saves
    further = {in_file(key, layers) for key in (*further_keys(model, layers, "none", heads), *biases)}
    missing = [key for key in factors | further if key not in tensors]
    unexpected = [key for key in tensors if key not in factors and key not in plain]
    if missing or unexpected:
        raise ValueError(
            f"does not fit the model: missing in the file: {listed(sorted(missing)) or 'nothing'}; "
            f"unexpected in the file: {listed(sorted(unexpected)) or 'nothing'}"
        )
    values = {}
    for path, layer in layers.items():
        A, B = (tensors[key] for key in factor_keys(path, layers))
        try:
            values[f"{path}.lora_A"], values[f"{path}.lora_B"] = from_peft(path, layers, A, B)
            _check_layer(layer, config.record_of(owner_of(path, layers)))
            _check_dtype(layer, (A, B), lora_dtype)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    for key in tensors.keys() - factors:
        here, there = state_dict[plain[key]], tensors[key]
        if here.shape != there.shape or here.is_floating_point() != there.is_floating_point():
            raise ValueError(
                f"{plain[key]} is {there.dtype} {tuple(there.shape)} in the file, "
                f"but {here.dtype} {tuple(here.shape)} in the model"
            )
        values[plain[key]] = there
    return values


def _check_layer(layer: LoRALayer, said: LayerRecord) -> None:
    mine = LayerRecord.of(layer)
    if not math.isclose(mine.scale, said.scale, rel_tol=1e-6):
        alpha = mine.alpha(said.r, said.use_rslora)
        raise ValueError(f"alpha is {said.lora_alpha:g} in the file, but {alpha:g} in the model")
    if layer.lora_A.is_meta:
        raise ValueError("is on the meta device, where it cannot take values; load the base weights first")


def _check_dtype(layer: LoRALayer, factors: Sequence[Tensor], lora_dtype: torch.dtype | None) -> None:
    dtype = layer.lora_A.dtype
    if lora_dtype is not None and lora_dtype is not dtype:
        raise ValueError(f"has factors of {dtype}, not of lora_dtype={lora_dtype}; leave lora_dtype out")
    for factor in factors:
        if lora_dtype is None and not torch.equal(factor.to(dtype).to(factor.dtype), factor):
            raise ValueError(
                f"the file has {factor.dtype}, which the factors of {dtype} in the model would round; pass "
                f"lora_dtype={dtype} to round them, or load into the model without LoRA, or with wider factors"
            )
