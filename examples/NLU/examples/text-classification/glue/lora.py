"""LoRA on the query and value projections of stock transformers models, the weights staying where they are.

Modules are replaced after loading: ``from_pretrained`` builds models on the meta device, where the initial values of
layers made inside a model class are lost. Keys are those of the released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

import loralib
from examples.common.errors import UserError


@dataclass(frozen=True)
class Target:
    """Query and value projections of a kind of model (Hu et al. 2021, Section 4.2), and how A starts; B is zero.

    ``enable_lora`` says which blocks of a fused projection are adapted: query and value, not key.
    """

    modules: tuple[str, ...]
    lora_init: str
    enable_lora: tuple[bool, ...] | None = None


TARGETS = {
    "roberta": Target(("self.query", "self.value"), "released"),  # U(-1/sqrt(hidden), 1/sqrt(hidden))
    "deberta-v2": Target(("query_proj", "value_proj"), "paper"),  # N(0, 0.02²), as the released code has it here
    "gpt2": Target(("attn.c_attn",), "released", (True, False, True)),
}


class SharedKeySelfAttention(DisentangledSelfAttention):
    """DeBERTa-v2 attention whose relative-position queries use the frozen projection alone.

    With ``share_att_key`` positions go through ``query_proj`` too. The released code adapts content queries only;
    LoRA on the positions would be another function, and released adapters would give other logits.
    """

    query_proj: loralib.Linear

    def disentangled_attention_bias(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.share_att_key:
            return super().disentangled_attention_bias(*args, **kwargs)
        with self.query_proj.lora_disabled():
            return super().disentangled_attention_bias(*args, **kwargs)


def add_lora(model: PreTrainedModel, *, r: int, lora_alpha: float) -> tuple[str, ...]:
    """Replaces query and value projections by LoRA layers that own the very same weights; B = 0, so nothing changes.

    Layers are never merged here (``merge_weights=False``); ``glue.export`` merges. Factors are float32.

    Returns:
        Names of the adapted projections within an attention module.

    Raises:
        UserError: another kind of model.
    """
    target = TARGETS.get(model.config.model_type)
    if target is None:
        raise UserError(f"--apply_lora knows the models {', '.join(TARGETS)}; this one is {model.config.model_type}")
    loralib.apply_lora(
        model,
        target.modules,
        r,
        lora_alpha,
        enable_lora=target.enable_lora,
        lora_init=target.lora_init,
        lora_dtype=torch.float32,
        merge_weights=False,
        freeze=False,
    )
    for module in model.modules():
        if type(module) is DisentangledSelfAttention:
            module.__class__ = SharedKeySelfAttention
    return tuple(name.rsplit(".", 1)[-1] for name in target.modules)
