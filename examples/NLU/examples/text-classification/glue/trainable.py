"""Which parameters are trained: chosen kinds inside the base model, and the whole head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from glue.sharded import whole_state_dict

LORA, ADAPTER, BIAS = "lora", "adapter", "bias"


def mark_trainable(model: PreTrainedModel, tags: Sequence[str]) -> None:
    """Freezes the base model but for parameters whose name contains one of ``tags``; the head is always trained.

    LayerNorms and embeddings are frozen too. Without tags everything is trained (full fine-tuning). Must run after
    loading, which makes every parameter trainable again.
    """
    base = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not tags or not name.startswith(base) or any(tag in name for tag in tags))


def trained_state_dict(model: PreTrainedModel) -> OrderedDict[str, Tensor]:
    """Trained parameters on the CPU, in the order and under the names of the released adapter files.

    Of a sharded model all processes must call this, and only the first gets them.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = whole_state_dict(model, trained_only=True)
    return OrderedDict((name, value.detach().cpu().clone()) for name, value in state.items() if name in trained)


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of parameters: trained inside the base model, trained in the head, and all."""
    base = f"{model.base_model_prefix}."
    counts = {"trained_in_base": 0, "trained_in_head": 0, "all": 0}
    for name, parameter in model.named_parameters():
        counts["all"] += parameter.numel()
        if parameter.requires_grad:
            counts["trained_in_base" if name.startswith(base) else "trained_in_head"] += parameter.numel()
    return counts
