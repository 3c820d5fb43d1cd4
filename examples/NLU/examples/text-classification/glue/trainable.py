"""Which parameters are trained: chosen kinds inside the base model, and the whole head."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

LORA, ADAPTER, BIAS = "lora", "adapter", "bias"


def mark_trainable(model: PreTrainedModel, tags: Sequence[str]) -> None:
    """Freezes the base model but for parameters whose name contains one of ``tags``; the head is always trained.

    LayerNorms and embeddings are frozen too. Without tags everything is trained (full fine-tuning). Must run after
    loading, which makes every parameter trainable again.
    """
    base = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not tags or not name.startswith(base) or any(tag in name for tag in tags))


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of parameters: trained inside the base model, trained in the head, and all."""
    base = f"{model.base_model_prefix}."
    counts = {"trained_in_base": 0, "trained_in_head": 0, "all": 0}
    for name, parameter in model.named_parameters():
        counts["all"] += parameter.numel()
        if parameter.requires_grad:
            counts["trained_in_base" if name.startswith(base) else "trained_in_head"] += parameter.numel()
    return counts
