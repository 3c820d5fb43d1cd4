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

from loralib.adapter_files import CONFIG, read_config, read_tensors, write_adapter
from loralib.adopt import LayerSettings
from loralib.base import LoRALayer
from loralib.fingerprint import base_fingerprint, differing_weights
from loralib.inject import prepare, put_in
from loralib.linear import MergedLinear
from loralib.peft_format import (
    PREFIX,
    AdapterConfig,
    blocks_of,
    config_of,
    factor_keys,
    from_peft,
    path_of_factor,
    to_peft,
    without_inner_copies,
)
from loralib.targets import as_patterns, listed, matches, matching
from loralib.utils import (
    check_bias_mode,
    is_bias,
    is_lora,
    lora_layers,
    mark_only_lora_as_trainable,
    own_parameters,
)

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
    heads = _trained_heads(model, bias) if modules_to_save is None else _named_heads(model, modules_to_save)
    tensors: dict[str, Tensor] = {}
    for path, layer in layers.items():
        try:
            tensors.update(zip(factor_keys(path, layer), to_peft(layer)))
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
    state_dict = model.state_dict()
    further = _further_keys(model, layers, bias, heads)
    for key in further:
        tensors[_file_key(key, layers)] = state_dict[key].detach().cpu().clone().contiguous()
    fused = {path: list(layer.enable_lora) for path, layer in layers.items() if isinstance(layer, MergedLinear)}
    config = config_of(model, layers, bias=bias, modules_to_save=heads)
    write_adapter(Path(folder), tensors, config, {"enable_lora": fused, "base": base_fingerprint(model, further)})


def load_adapter(model: _Model, folder: str | os.PathLike[str], *, check_base: bool = True) -> _Model:
    """Reads an adapter folder, written by ``save_adapter`` or by PEFT, into a model; all of it or nothing.

    Layers that have LoRA must be those of the file, with its ranks and alphas. A model without LoRA gets it first:
    fused layers where the file was written from such, else one LoRA for each adapted module; then the factors, the
    modules saved with them and the biases that the config names are trainable, and nothing else is. Draws no random
    numbers. Tensors that the config does not name but the model has, such as a resized embedding, are loaded as well.

    Args:
        model: changed in place, with the same base weights as when the adapter was trained.
        folder: has ``adapter_config.json`` and ``adapter_model.safetensors`` or ``adapter_model.bin``.
        check_base: refuse a model whose frozen weights are not those of training, where the folder records them
            (PEFT's do not). They may have another precision.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: one of the files is absent.
        ValueError: files that cannot be read; keys that the model lacks or the file lacks, listed; another rank, alpha
            or shape; a LoRA on a whole fused projection for a layer with blocks; features these layers do not have;
            another base model.
            The model is untouched then.
        ImportError: the package safetensors is missing.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors, header = read_tensors(folder)
    fused = header.get("enable_lora", {})
    tensors = without_inner_copies(tensors)
    paths = sorted({path for key in tensors if (path := path_of_factor(key)) is not None})
    layers = {path: layer for path, layer in lora_layers(model).items() if layer.has_lora}
    new = not layers
    if new:
        _refuse_unknown(model, paths, folder)
        layers = prepare(model, {path: _settings(path, config, fused.get(path)) for path in paths})
    values = _checked_values(model, layers, tensors, config, folder)
    if check_base and (others := differing_weights(model, values.keys(), header.get("base", {}))):
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


def _named_heads(model: nn.Module, names: Sequence[str]) -> list[str]:
    known = [name for name, _ in model.named_modules() if name]
    heads = []
    for pattern in as_patterns("modules_to_save", names):
        heads += matching(known, pattern, "modules_to_save")
    for head in heads:
        if inner := [name for name in lora_layers(model) if f"{name}.".startswith(f"{head}.")]:
            raise ValueError(f"{head} contains LoRA layers ({listed(inner)}) and cannot be saved as a whole")
    return heads


def _trained_heads(model: nn.Module, bias: str) -> list[str]:
    """Outermost modules without LoRA whose parameters all train."""
    heads: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        inside = any(f"{name}.".startswith(f"{head}.") for head in heads)
        has_lora = any(isinstance(child, LoRALayer) for child in module.modules())
        if name and parameters and not inside and not has_lora and all(p.requires_grad for p in parameters):
            heads.append(name)
    layers = lora_layers(model)
    saved = set(_further_keys(model, layers, bias, heads))
    left = [
        prefix + name
        for prefix, module, name, parameter in own_parameters(model)
        if parameter.requires_grad and not is_lora(module, name) and prefix + name not in saved
    ]
    if left:
        raise ValueError(
            f"{listed(left)} would be trained but not saved; freeze them (mark_only_lora_as_trainable), name their "
            "modules in modules_to_save, or save biases with bias='lora_only' or 'all'"
        )
    return heads


def _further_keys(model: nn.Module, layers: Mapping[str, LoRALayer], bias: str, heads: Sequence[str]) -> list[str]:
    """Keys of the state dict that the file has beside the factors."""
    chosen = []
    for key in model.state_dict():
        path, _, name = key.rpartition(".")
        in_layer = path in layers and not name.startswith("lora_")
        if (
            any(key.startswith(f"{head}.") for head in heads)
            or (bias == "all" and name == "bias")
            or (bias == "lora_only" and in_layer and is_bias(name))
        ):
            chosen.append(key)
    return chosen


def _file_key(key: str, layers: Mapping[str, LoRALayer]) -> str:
    path, _, name = key.rpartition(".")
    return f"{PREFIX}{path}.base_layer.{name}" if path in layers else f"{PREFIX}{key}"


# --- what comes out of one -------------------------------------------------------------------------------------------


def _settings(path: str, config: AdapterConfig, enable_lora: list[bool] | None) -> LayerSettings:
    g = sum(enable_lora) if enable_lora is not None else 1
    return LayerSettings(config.rank_of(path) // g, config.alpha_of(path) / g, config.lora_dropout, enable_lora)


def _checked_values(
    model: nn.Module,
    layers: Mapping[str, LoRALayer],
    tensors: Mapping[str, Tensor],
    config: AdapterConfig,
    folder: Path,
) -> dict[str, Tensor]:
    """Parameter or buffer name to its new value, for all of the file."""
    known = {key: value.shape for key, value in model.state_dict().items()}
    heads = _present_heads(model, config)
    plain = {_file_key(key, layers): key for key in known}
    factors = {key for path, layer in layers.items() for key in factor_keys(path, layer)}
    further = {_file_key(key, layers) for key in _further_keys(model, layers, config.bias, heads)}
    missing = [key for key in factors | further if key not in tensors]
    unexpected = [key for key in tensors if key not in factors and key not in plain]
    if missing or unexpected:
        raise ValueError(
            f"{folder} does not fit the model: missing in the file: {listed(sorted(missing)) or 'nothing'}; "
            f"unexpected in the file: {listed(sorted(unexpected)) or 'nothing'}"
        )
    values = {}
    for path, layer in layers.items():
        g = blocks_of(layer)
        for name, mine, file in (
            ("rank", g * layer.r, config.rank_of(path)),
            ("alpha", g * layer.lora_alpha, config.alpha_of(path)),
        ):
            if not math.isclose(mine, file, rel_tol=1e-6):
                raise ValueError(f"{path}: {name} is {file:g} in {folder / CONFIG}, but {mine:g} in the model")
        if layer.lora_A.is_meta:
            raise ValueError(f"{path} is on the meta device, where it cannot take values; load the base weights first")
        try:
            lora_A, lora_B = from_peft(layer, *(tensors[key] for key in factor_keys(path, layer)))
        except ValueError as error:
            raise ValueError(f"{folder}: {path}: {error}") from None
        values[f"{path}.lora_A"], values[f"{path}.lora_B"] = lora_A, lora_B
    for key in tensors.keys() - factors:
        if tensors[key].shape != known[plain[key]]:
            raise ValueError(
                f"{folder}: {plain[key]} has shape {tuple(tensors[key].shape)} in the file, "
                f"but {tuple(known[plain[key]])} in the model"
            )
        values[plain[key]] = tensors[key]
    return values


def _present_heads(model: nn.Module, config: AdapterConfig) -> list[str]:
    """Modules that the config names; PEFT lists usual names of heads, whether a model has them or not."""
    names = [name for name, _ in model.named_modules() if name]
    return [name for name in names if any(matches(head, name) for head in config.modules_to_save)]


def _refuse_unknown(model: nn.Module, paths: Sequence[str], folder: Path) -> None:
    known = {name for name, _ in model.named_modules()}
    unknown = [path for path in paths if path not in known]
    if unknown or not paths:
        raise ValueError(
            f"{folder} does not fit the model: "
            + (f"the model has no modules {listed(unknown)}" if unknown else "its file has no LoRA factors")
        )
