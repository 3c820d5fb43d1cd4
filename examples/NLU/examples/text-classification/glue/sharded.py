"""Models whose weights FSDP has spread over the processes: whole tensors out of them for files, and back in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor

# What is gathered, used and let go together, by kind of model; transformers names none for DeBERTa-v2
LAYERS = {"roberta": ["RobertaLayer"], "deberta-v2": ["DebertaV2Layer"], "gpt2": ["GPT2Block"]}


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a part of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_state_dict(model: nn.Module, *, trained_only: bool) -> Mapping[str, Tensor]:
    """State dict of a model, sharded or not; of a sharded one all processes must call this.

    Args:
        trained_only: whether a sharded model's frozen weights, nearly all of them, may stay where they are.

    Returns:
        Of a plain model all of its own tensors. Of a sharded one whole tensors on the CPU in the first process, and
        nothing in the others.
    """
    if not is_sharded(model):
        return model.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


@torch.no_grad()
def copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies whole tensors, the same in all processes, into a model that has the places for them."""
    if is_sharded(model):
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(model, dict(tensors), options=options)
        return
    own = model.state_dict()
    for name, value in tensors.items():
        own[name].copy_(value)
