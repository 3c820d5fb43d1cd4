"""Which base model an adapter is of: digests of every byte of the frozen weights."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from loralib.utils import lora_layers

_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_DIGITS = 16  # hexadecimal, of sha256


def base_digests(model: nn.Module, without: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Digests of every byte of the frozen weights under an adapter, by which their base model is known again.

    A base may be loaded in another precision than the adapter was trained on, which rounds its numbers; so float32
    weights are also digested as they are after rounding. The same with or without LoRA on the model. Buffers, which
    training may change, do not count.

    Args:
        model: with or without LoRA layers.
        without: names of parameters that the adapter brings itself: heads and biases that were trained.

    Returns:
        Name of each weight to name of a dtype to ``_DIGITS`` digits; empty where a weight has no plain values in memory
        (meta device, offloaded, sharded, quantised).
    """
    weights = _frozen_weights(model, without)
    digests = _digests([(weight, dtype) for weight in weights.values() for dtype in _precisions(weight)])
    return {
        name: {_name(dtype): digests[id(weight), dtype] for dtype in _precisions(weight)}
        for name, weight in weights.items()
    }


def differing_weights(
    model: nn.Module, without: Collection[str], recorded: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Names of frozen weights that are not those that were recorded, or that only the model or only the record has.

    Compares each in the widest precision that both can be had in; without one (float16 against bfloat16) it passes.
    """
    weights = _frozen_weights(model, without)
    if not recorded or not weights:
        return []
    common = {}
    for name in recorded.keys() & weights.keys():
        dtypes = [dtype for dtype in _precisions(weights[name]) if _name(dtype) in recorded[name]]
        common.update({name: dtypes[0]} if dtypes else {})
    digests = _digests([(weights[name], dtype) for name, dtype in common.items()])
    changed = {
        name for name, dtype in common.items() if digests[id(weights[name]), dtype] != recorded[name][_name(dtype)]
    }
    return sorted((recorded.keys() ^ weights.keys()) | changed)


def _frozen_weights(model: nn.Module, without: Collection[str]) -> dict[str, nn.Parameter]:
    """Name to weight; none where one of them is not what it was when it was loaded, or cannot be read."""
    layers = [layer for layer in lora_layers(model).values() if layer.has_lora]
    factors = {id(factor) for layer in layers for factor in (layer.lora_A, layer.lora_B)}
    weights = {
        name: parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) not in factors and name not in without
    }
    written_to = any(layer.merged and not layer._merged_beside for layer in layers)  # see LoRALayer.merged
    return {} if written_to or not all(map(is_dense, weights.values())) else weights


def _precisions(weight: Tensor) -> tuple[torch.dtype, ...]:
    """Its own dtype, and those to which a model is rounded from it."""
    wide = weight.dtype in (torch.float64, torch.float32)
    return _PRECISIONS[_PRECISIONS.index(weight.dtype) :] if wide else (weight.dtype,)


def _digests(pairs: Sequence[tuple[Tensor, torch.dtype]]) -> dict[tuple[int, torch.dtype], str]:
    """(id of a weight, dtype) to its digest; a tied weight is digested once. Hashing leaves Python's lock alone."""
    jobs = {(id(weight), dtype): weight for weight, dtype in pairs}
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(jobs, pool.map(_digest, jobs.values(), (dtype for _, dtype in jobs))))


def _digest(weight: Tensor, dtype: torch.dtype) -> str:
    numbers = weight.detach().cpu().to(dtype).contiguous()
    digest = hashlib.sha256(str(tuple(numbers.shape)).encode())
    digest.update((ctypes.c_char * (numbers.numel() * numbers.element_size())).from_address(numbers.data_ptr()))
    return digest.hexdigest()[:_DIGITS]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_dense(value: Any) -> bool:
    """Whether a value is a plain tensor with all of its numbers in memory: not sparse, quantised, or expanded."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and not value.is_meta
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )
