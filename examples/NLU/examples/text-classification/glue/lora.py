"""LoRA on the query and value projections of stock transformers models, the weights staying where they are.

Modules are replaced after loading: ``from_pretrained`` builds models on the meta device, where the initial values of
layers made inside a model class are lost. Keys are those of the released code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.roberta.modeling_roberta import RobertaCrossAttention, RobertaSelfAttention

import loralib
from glue.cli import UserError

# query and value by attention class (Hu et al. 2021, Section 4.2); GPT-2 has them in one fused projection
TARGETS: dict[type[nn.Module], tuple[str, ...]] = {
    RobertaSelfAttention: ("query", "value"),
    RobertaCrossAttention: ("query", "value"),
    DisentangledSelfAttention: ("query_proj", "value_proj"),
    GPT2Attention: ("c_attn",),
}
MODEL_TYPES = ("roberta", "deberta-v2", "gpt2")


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


def add_lora(model: PreTrainedModel, *, r: int, lora_alpha: float) -> list[str]:
    """Replaces query and value projections by LoRA layers that own the very same weights; B = 0, so nothing changes.

    A is drawn as in the released code: U(±1/sqrt(hidden)) for RoBERTa and GPT-2, N(0, 0.02²) for DeBERTa-v2. Layers
    are never merged here (``merge_weights=False``); ``glue.export`` merges.

    Returns:
        Names of the replaced modules.

    Raises:
        UserError: another kind of model.
    """
    if model.config.model_type not in MODEL_TYPES:
        raise UserError(
            f"--apply_lora knows the models {', '.join(MODEL_TYPES)}; this one is {model.config.model_type}"
        )
    replaced = []
    for path, module in list(model.named_modules()):
        for name in TARGETS.get(type(module), ()):
            setattr(module, name, _with_update(getattr(module, name), r, lora_alpha, type(module)))
            replaced.append(f"{path}.{name}")
        if type(module) is DisentangledSelfAttention:
            module.__class__ = SharedKeySelfAttention
    return replaced


def _with_update(plain: nn.Module, r: int, lora_alpha: float, kind: type[nn.Module]) -> loralib.LoRALayer:
    """A LoRA layer made of the parameters of a ``Linear`` or ``Conv1D``; factors float32 on the weight's device."""
    weight: nn.Parameter = plain.weight  # type: ignore[assignment]
    layer: loralib.Linear | loralib.MergedLinear
    options: dict[str, Any] = {"r": r, "lora_alpha": lora_alpha, "merge_weights": False, "device": "meta"}
    if isinstance(plain, nn.Linear):
        init = "paper" if kind is DisentangledSelfAttention else "released"  # both have B = 0
        layer = loralib.Linear(plain.in_features, plain.out_features, bias=plain.bias is not None, **options)
    else:  # transformers' Conv1D: weight (in, out), the fused query, key, value
        init = "released"
        n_in, n_out = weight.shape
        layer = loralib.MergedLinear(n_in, n_out, enable_lora=(True, False, True), fan_in_fan_out=True, **options)
    layer.weight, layer.bias = weight, plain.bias  # type: ignore[assignment]
    layer.weight.requires_grad_(False)
    for name in ("lora_A", "lora_B"):
        shape = getattr(layer, name).shape
        setattr(layer, name, nn.Parameter(torch.empty(shape, device=weight.device, dtype=torch.float32)))
    layer.lora_init = init
    layer.reset_lora_parameters()
    return layer.train(plain.training)
