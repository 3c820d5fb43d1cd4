"""Adapter folders as PEFT writes and reads them: ``adapter_model.safetensors`` beside ``adapter_config.json``.

Files with the keys of the released package need nothing from here: ``torch.save(lora_state_dict(model), "lora.pt")``
writes one, ``model.load_state_dict(torch.load("lora.pt", map_location="cpu"), strict=False)`` reads it. They hold
neither alpha nor the names of the adapted layers; a folder does. To turn the former into the latter, put LoRA on the
model with the rank and alpha of the file, load it, and call ``save_adapter``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.files.config import config_of
from loralib.files.digest import base_digests, differing_weights
from loralib.files.fit import further_keys, new_values, present_heads, records_in_file, settings_for
from loralib.files.folder import Header, card_of, read_config, read_tensors, write_adapter
from loralib.files.peft import LayerRecord, factor_keys, in_file, ranks_in_file, to_peft, without_inner_copies
from loralib.inject import prepare, put_in
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
    not read, has rank and alpha of each layer and digests of the frozen weights, by which ``load_adapter`` knows the
    base model again; to make them, all weights are read. In distributed training one process saves.

    Args:
        model: has LoRA layers; those without factors are left out.
        folder: created if need be; an adapter in it is replaced, and its card unless somebody else wrote it.
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
    if modules_to_save is None:
        heads = _trained_heads(model, bias, layers)
    else:
        heads = _named_heads(model, modules_to_save, layers)
    ranks = ranks_in_file(model, layers)
    tensors: dict[str, Tensor] = {}
    for path in layers:
        tensors.update(zip(factor_keys(path, layers), to_peft(path, layers, ranks)))
    state_dict = model.state_dict()
    further = further_keys(model, layers, bias, heads)
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
        records = records_in_file(model, tensors, config, header)
        if new:
            layers = prepare(model, settings_for(model, records, config, lora_dtype))
        values = new_values(model, layers, tensors, config, lora_dtype)
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
        for head in present_heads(model, config):
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
    saved = {*further_keys(model, layers, bias, heads), *(f"{path}.lora_{name}" for path in layers for name in "AB")}
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
