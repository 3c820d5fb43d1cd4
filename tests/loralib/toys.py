"""Small layers of every kind, with factors that are not zero, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import loralib


def _features(dtype: torch.dtype) -> Tensor:
    return torch.randn(3, 4, 10, dtype=dtype)


def _image(*spatial: int) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: torch.randn(2, 4, *spatial, dtype=dtype)


def _ids(dtype: torch.dtype) -> Tensor:
    return torch.tensor([[0, 3, 10], [3, 3, 7]])


def _fused(*args: Any, **kwargs: Any) -> loralib.MergedLinear:
    return loralib.MergedLinear(*args, enable_lora=[True, False, True], **kwargs)


# kind -> (constructor, positional arguments, input of a dtype)
KINDS: dict[str, tuple[Callable[..., Any], tuple[int, ...], Callable[[torch.dtype], Tensor]]] = {
    "linear": (loralib.Linear, (10, 6), _features),
    "linear_fifo": (lambda *a, **k: loralib.Linear(*a, fan_in_fan_out=True, **k), (10, 6), _features),
    "merged": (_fused, (10, 18), _features),
    "merged_fifo": (lambda *a, **k: _fused(*a, fan_in_fan_out=True, **k), (10, 18), _features),
    "embedding": (loralib.Embedding, (11, 6), _ids),
    "conv1d": (loralib.Conv1d, (4, 6, 3), _image(7)),
    "conv2d": (loralib.Conv2d, (4, 6, 3), _image(6, 5)),
    "conv3d": (loralib.Conv3d, (4, 6, 3), _image(4, 5, 4)),
}
PLAIN: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "merged": nn.Linear,
    "embedding": nn.Embedding,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}
ALL_KINDS = list(KINDS)
WITH_DROPOUT = [kind for kind in KINDS if kind != "embedding"]


def toy(kind: str, *, r: int = 2, seed: int = 0, **kwargs: Any) -> Any:
    """A layer in train mode whose A and B are both random, so that the update is not zero."""
    torch.manual_seed(seed)
    constructor, args, _ = KINDS[kind]
    layer = constructor(*args, r=r, **{"lora_alpha": 3, **kwargs})
    randomize(layer)
    return layer


def randomize(layer: nn.Module) -> None:
    """Overwrites all LoRA factors below a module with normal numbers."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.rpartition(".")[2] in ("lora_A", "lora_B"):
                parameter.normal_()


def toy_input(kind: str, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """An input for ``toy(kind)``."""
    torch.manual_seed(seed)
    return KINDS[kind][2](dtype)
