"""Adapter folders as PEFT writes and reads them: ``adapter_model.safetensors`` beside ``adapter_config.json``.

Files with the keys of the released package need nothing from here: ``torch.save(lora_state_dict(model), "lora.pt")``
writes one, ``model.load_state_dict(torch.load("lora.pt", map_location="cpu"), strict=False)`` reads it. They hold
neither alpha nor the names of the adapted layers; a folder does. To turn the former into the latter, put LoRA on the
model with the rank and alpha of the file, load it, and call ``save_adapter``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from loralib.adapter_config import AdapterConfig, config_of
from loralib.adapter_folder import CONFIG, Header, card_of, read_config, read_tensors, write_adapter
from loralib.adopt import LayerSettings
from loralib.base import LoRALayer
from loralib.base_digest import base_digests, differing_weights
from loralib.inject import prepare, put_in
from loralib.peft_format import (
    LayerRecord,
    factor_keys,
    from_peft,
    in_file,
    owner_of,
    path_of_factor,
    ranks_in_file,
    to_peft,
    without_inner_copies,
)
from loralib.targets import as_patterns, listed, matching
from loralib.utils import check_bias_mode, lora_layers, mark_only_lora_as_trainable

_Model = TypeVar("_Model", bound=nn.Module)


def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    bias: str = "none",
    modules_to_save: Sequence[str] | None = None,
) -> None:
    """Writes the adapter of a model, unmerged in every mode, with rank, alpha and names of the adapted layers.

    ``peft.PeftModel.from_pretrained(base_model, folder)`` computes the same as the model, and ``load_adapter`` gives
    the layers back as they are. Files appear complete or not at all. The header of the tensor file, which PEFT does
    not read, has a fingerprint of the frozen weights, by which ``load_adapter`` knows the base model again.

    Args:
        model: has LoRA layers; those without factors are left out.
        folder: created if need be; an adapter in it is replaced.
        bias: which biases go into the file: as in ``mark_only_lora_as_trainable``.
        modules_to_save: names of further modules, such as a head. None: those whose parameters all train.

    Raises:
        ValueError: no LoRA layer; a convolution, for which the format has no form; a further module that contains LoRA
            layers; without ``modules_to_save``, parameters that train but would be left out.
        NotImplementedError: unknown ``bias``.
        ImportError: the package safetensors is missing.
    """
    check_bias_mode(bias)
    layers = {path: layer for path, layer in lora_layers(model).items() if layer.has_lora}
    if not layers or "" in layers:
        raise ValueError("the model has no LoRA layer with factors" if not layers else "the model itself is the layer")
    for path in layers:
        parent = path.rpartition(".")[0]
        if isinstance(model.get_submodule(parent), nn.MultiheadAttention) and parent not in layers:
            raise ValueError(f"{path} has LoRA without the attention around it, for which PEFT's format has no form")
    if modules_to_save is None:
        heads = _trained_heads(model, bias, layers)
    else:
        heads = _named_heads(model, modules_to_save, layers)
    ranks = ranks_in_file(layers)
    tensors: dict[str, Tensor] = {}
    for path in layers:
        try:
            tensors.update(zip(factor_keys(path, layers), to_peft(path, layers, ranks[owner_of(path, layers)])))
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
    state_dict = model.state_dict()
    further = _further_keys(model, layers, bias, heads)
    for key in further:
        tensors[in_file(key, layers)] = state_dict[key].detach().cpu().clone().contiguous()
    config = config_of(model, layers, ranks, bias=bias, modules_to_save=heads)
    card = card_of(
        model,
        config,
        factors=sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in layers.values()),
        further=sum(state_dict[key].numel() for key in further),
    )
    records = {path: LayerRecord.of(layer) for path, layer in layers.items()}
    write_adapter(Path(folder), tensors, config, Header(records, base_digests(model, further)), card)


def load_adapter(
    model: _Model,
    folder: str | os.PathLike[str],
    *,
    check_base: bool = True,
    lora_dtype: torch.dtype | None = None,
) -> _Model:
    """Reads an adapter folder, written by ``save_adapter`` or by PEFT, into a model; all of it or nothing.

    Layers that have LoRA must be those of the file, with its ranks and scales. A model without LoRA gets it first:
    fused layers where the file was written from such, else one LoRA for each adapted module; then the factors, the
    modules saved with them and the biases that the config names are trainable, and nothing else is. Draws no random
    numbers. Tensors that the config does not name but the model has, such as a resized embedding, are loaded as well.

    Factors are never rounded unasked: a file of wider numbers than the factors of the model have is refused, unless
    its values fit exactly. Heads and biases take the dtype that they have in the model, as its weights do.

    Args:
        model: changed in place, with the same base weights as when the adapter was trained.
        folder: has ``adapter_config.json`` and ``adapter_model.safetensors`` or ``adapter_model.bin``.
        check_base: refuse a model whose frozen weights are not those of training, where the folder records them
            (PEFT's do not). They may have another precision.
        lora_dtype: that of the factors, to which the file's are then rounded. None: new layers get the dtype that
            ``apply_lora`` would give them, float32 on a half-precision model.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: one of the files is absent.
        ValueError: whatever else is wrong with the files or does not fit the model, in one line: unreadable content,
            files of two saves, keys that one of the two lacks, another rank, alpha, shape or dtype, a LoRA on a whole
            fused projection for a layer with blocks, features these layers do not have, another base model.
            The model is untouched then.
        ImportError: the package safetensors is missing.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors, header = read_tensors(folder)
    tensors = without_inner_copies(tensors)
    layers = {path: layer for path, layer in lora_layers(model).items() if layer.has_lora}
    new = not layers
    try:
        records = _records(model, tensors, config, header)
        if new:
            layers = prepare(model, _settings(model, records, config, lora_dtype))
        values = _checked_values(model, layers, tensors, config, lora_dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: {error}") from None
    if check_base and (others := differing_weights(model, values.keys(), header.base)):
        raise ValueError(
            f"{folder} was trained on another base model: {len(others)} frozen weights differ ({listed(others)}); "
            "pass check_base=False to load it all the same"
        )
    if new:
        put_in(model, layers)
        mark_only_lora_as_trainable(model, config.bias)
    targets = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    with torch.no_grad():
        for key, value in values.items():
            targets[key].copy_(value)
    for layer in lora_layers(model).values():
        layer._snapshot = None
    if new:
        for head in _present_heads(model, config):
            model.get_submodule(head).requires_grad_(True)
    return model


# --- what goes into a file -------------------------------------------------------------------------------------------


def _named_heads(model: nn.Module, names: Sequence[str], layers: Mapping[str, LoRALayer]) -> list[str]:
    known = [name for name, _ in model.named_modules() if name]
    heads = []
    for pattern in as_patterns("modules_to_save", names):
        heads += matching(known, pattern, "modules_to_save")
    for head in heads:
        if inner := [path for path in layers if f"{path}.".startswith(f"{head}.")]:
            raise ValueError(f"{head} contains LoRA layers ({listed(inner)}) and cannot be saved as a whole")
    return heads


def _trained_heads(model: nn.Module, bias: str, layers: Mapping[str, LoRALayer]) -> list[str]:
    """Outermost modules without LoRA whose parameters all train."""
    heads: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        inside = any(f"{name}.".startswith(f"{head}.") for head in heads)
        has_lora = any(f"{path}.".startswith(f"{name}.") for path in layers)
        if name and parameters and not inside and not has_lora and all(p.requires_grad for p in parameters):
            heads.append(name)
    saved = {*_further_keys(model, layers, bias, heads), *(f"{path}.lora_{name}" for path in layers for name in "AB")}
    left = [
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad and name not in saved
    ]
    if left:
        raise ValueError(
            f"{listed(left)} would be trained but not saved; freeze them (mark_only_lora_as_trainable), name their "
            "modules in modules_to_save, or save biases with bias='lora_only' or 'all'"
        )
    return heads


def _further_keys(model: nn.Module, layers: Mapping[str, LoRALayer], bias: str, heads: Sequence[str]) -> list[str]:
    """Keys of the state dict that the file has beside the factors; biases as ``mark_only_lora_as_trainable`` trains."""
    inside = tuple(f"{head}." for head in heads)
    beside = {f"{path}.bias" for path in layers} if bias == "lora_only" else set()
    return [
        key
        for key in model.state_dict()
        if key.startswith(inside) or key in beside or (bias == "all" and "bias" in key and "lora_" not in key)
    ]


# --- what comes out of one -------------------------------------------------------------------------------------------


def _records(
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


def _settings(
    model: nn.Module, records: Mapping[str, LayerRecord], config: AdapterConfig, lora_dtype: torch.dtype | None
) -> dict[str, LayerSettings]:
    settings = {}
    for path, record in records.items():
        # Attentions read their weights, so that no dropout can act; PEFT leaves it out there too, whatever it writes.
        modules = (model.get_submodule(path), model.get_submodule(path.rpartition(".")[0]))
        dropout = 0.0 if any(isinstance(module, nn.MultiheadAttention) for module in modules) else config.lora_dropout
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


def _checked_values(
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
    heads = _present_heads(model, config)
    biases = [key for key in _further_keys(model, layers, config.bias, ()) if key.endswith(".bias")]  # as PEFT saves
    further = {in_file(key, layers) for key in (*_further_keys(model, layers, "none", heads), *biases)}
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


def _present_heads(model: nn.Module, config: AdapterConfig) -> list[str]:
    """Modules that the config names; PEFT lists usual names of heads, whether a model has them or not."""
    ends = tuple(f".{head}" for head in config.modules_to_save)
    return [name for name, _ in model.named_modules() if name and f".{name}".endswith(ends)]
