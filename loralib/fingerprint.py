"""A cheap fingerprint of the frozen weights under an adapter, by which their base model is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from loralib.utils import is_lora, own_parameters

SAMPLE = 1024  # first numbers of each tensor that are read; any training changes them
DIGITS = 8  # hexadecimal, of each weight's digest: that two weights agree by chance has a probability of 2**-32
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def sample_bytes(name: str, tensor: Tensor, dtype: torch.dtype = torch.float32) -> bytes:
    """Name, shape and the first numbers of a tensor as bytes, the numbers rounded to ``dtype``."""
    numbers = tensor.detach().flatten()[:SAMPLE].to("cpu", dtype).contiguous()
    return f"{name} {tuple(tensor.shape)}\n".encode() + bytes(numbers.view(torch.uint8).tolist())


def base_fingerprint(model: nn.Module, without: Collection[str] = ()) -> dict[str, str]:
    """Digests of the frozen weights, in the order of their sorted names, once for each precision they can be had in.

    A base may be loaded in another precision than the adapter was trained on, which rounds its numbers; so float32
    weights are also digested as they are after rounding. The same with or without LoRA on the model.

    Args:
        without: names of parameters that the adapter brings itself: heads and biases that were trained.

    Returns:
        Name of a dtype to ``DIGITS`` digits for each weight, joined; empty where weights have no values (meta).
    """
    weights = _frozen_weights(model, without)
    if any(weight.is_meta for weight in weights.values()):
        return {}
    own = {weight.dtype for weight in weights.values() if weight.is_floating_point()}
    half = own & set(PRECISIONS[1:])
    if len(half) > 1:
        return {}
    return {
        _name(dtype): "".join(
            hashlib.sha256(sample_bytes(name, weight, dtype)).hexdigest()[:DIGITS] for name, weight in weights.items()
        )
        for dtype in (half or PRECISIONS)
    }


def differing_weights(model: nn.Module, without: Collection[str], recorded: Mapping[str, str]) -> list[str]:
    """Names of frozen weights that are not those that were recorded; all where there are more or fewer of them.

    Compares in the widest precision that both can be had in; without one (float16 against bfloat16) nothing differs.
    """
    mine = base_fingerprint(model, without) if recorded else {}
    common = [name for name in map(_name, PRECISIONS) if name in mine and name in recorded]
    if not common:
        return []
    names = list(_frozen_weights(model, without))
    a, b = mine[common[0]], recorded[common[0]]
    if len(a) != len(b):
        return names
    return [name for i, name in enumerate(names) if a[i * DIGITS :][:DIGITS] != b[i * DIGITS :][:DIGITS]]


def _frozen_weights(model: nn.Module, without: Collection[str]) -> dict[str, Tensor]:
    found = {
        prefix + name: parameter
        for prefix, module, name, parameter in own_parameters(model)
        if not is_lora(module, name) and prefix + name not in without
    }
    return dict(sorted(found.items()))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
