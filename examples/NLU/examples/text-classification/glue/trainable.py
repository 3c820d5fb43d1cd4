"""Which parameters are trained: chosen kinds inside the base model, and the whole head."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from examples.common.errors import UserError
from glue.encoders import in_head

LORA, ADAPTER, BIAS = "lora", "adapter", "bias"
HEAD = "head"  # nothing of the base model


def has_tag(name: str, tags: Sequence[str]) -> bool:
    """Whether a parameter of the base model is of one of the kinds: a factor, a part of an adapter, a bias."""
    return any(name.endswith(tag) if tag == BIAS else tag != HEAD and tag in name for tag in tags)


def mark_trainable(model: PreTrainedModel, tags: Sequence[str]) -> None:
    """Freezes the base model but for parameters whose name has one of ``tags``; the head is always trained.

    LayerNorms and embeddings are frozen too. Without tags everything is trained (full fine-tuning). Must run after
    loading, which makes every parameter trainable again.

    Raises:
        UserError: biases are to be trained, and the base model has none.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not tags or in_head(model, name) or has_tag(name, tags))
    if BIAS in tags and not any(has_tag(name, [BIAS]) for name, _ in model.base_model.named_parameters()):
        raise UserError(f"--apply_bitfit: a {model.config.model_type} model has no biases")


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of parameters: trained inside the base model, trained in the head, and all."""
    counts = {"trained_in_base": 0, "trained_in_head": 0, "all": 0}
    for name, parameter in model.named_parameters():
        counts["all"] += parameter.numel()
        if parameter.requires_grad:
            counts["trained_in_head" if in_head(model, name) else "trained_in_base"] += parameter.numel()
    return counts
