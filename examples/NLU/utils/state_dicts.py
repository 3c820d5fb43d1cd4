"""What ``split_lora.py`` and ``convert.py`` share: files of weights, and names from before the release."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from examples.common.files import atomic_write, make_folder

if TYPE_CHECKING:
    from torch import Tensor

# DeBERTa files from before the release: self.query_lora_a.weight instead of self.query_proj.lora_A
LEGACY = re.compile(r"self\.(query|value)_lora_([ab])\.weight$")


def modern_name(name: str) -> str:
    """Name of a weight as released: ``self.query_lora_a.weight`` becomes ``self.query_proj.lora_A``."""
    return LEGACY.sub(lambda match: f"self.{match[1]}_proj.lora_{match[2].upper()}", name)


def modern_names(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """All weights, in their order, under the released names."""
    return OrderedDict((modern_name(name), value) for name, value in weights.items())


def lora_and_head(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Weights of LoRA and of the head, under the released names; the head is what ``glue.encoders`` says."""
    modern = modern_names(weights)
    bases = tuple({f"{name.partition('.')[0]}." for name in modern if "lora" in name})
    poolers = tuple(f"{base}pooler." for base in bases)
    return OrderedDict(
        (name, value)
        for name, value in modern.items()
        if "lora" in name or not name.startswith(bases) or name.startswith(poolers)
    )


def write(path: Path, weights: OrderedDict[str, Tensor]) -> None:
    """Writes ``torch.save`` of the dict atomically, making the folder."""
    import torch

    make_folder(path.parent)
    with atomic_write(path, binary=True) as stream:
        # a clone each: a view would drag the storage of the whole checkpoint along
        torch.save(OrderedDict((name, value.clone()) for name, value in weights.items()), stream)
