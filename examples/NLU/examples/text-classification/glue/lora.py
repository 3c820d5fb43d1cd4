"""LoRA on linear layers of stock transformers models, the weights staying where they are.

Modules are replaced after loading: ``from_pretrained`` builds models on the meta device, where the initial values of
layers made inside a model class are lost. Keys are those of the released code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention as FusedSelfAttention
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

import loralib
from examples.common.errors import UserError
from glue.encoders import ENCODERS, in_head
from loralib.targets import ALL_LINEAR, Pattern, all_linear, select


class SharedKeySelfAttention(DisentangledSelfAttention):
    """DeBERTa-v2 attention whose relative positions use the frozen projections alone.

    With ``share_att_key`` positions go through ``query_proj`` and ``key_proj`` too. The released code adapts content
    alone; LoRA on the positions would be another function, and released adapters would give other logits.
    """

    def disentangled_attention_bias(self, *args: Any, **kwargs: Any) -> Tensor:
        shared = (self.query_proj, self.key_proj) if self.share_att_key else ()
        with ExitStack() as stack:
            for projection in shared:
                if isinstance(projection, loralib.LoRALayer):
                    stack.enter_context(projection.lora_disabled())
            return super().disentangled_attention_bias(*args, **kwargs)


class InterleavedLinear(loralib.MergedLinear):
    """DeBERTa's ``in_proj``: its rows are query, key and value of the first head, then those of the second, and so on.

    The factors are those of separate projections, as elsewhere: in B all heads' queries are followed by all values.
    """

    num_heads: int

    def forward(self, input: Tensor) -> Tensor:
        return _exchanged(super().forward(input), len(self.enable_lora), self.num_heads)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The frozen product with the heads inside each block, (..., 3*H*d), where the update is added."""
        return _exchanged(super().linear(x, weight, bias), self.num_heads, len(self.enable_lora))

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        update = super()._product(lora_A, lora_B)  # (3*H*d, in)
        return _exchanged(update.T, len(self.enable_lora), self.num_heads).T


def _exchanged(features: Tensor, outer: int, inner: int) -> Tensor:
    """(..., outer*inner*d) to (..., inner*outer*d)."""
    return features.unflatten(-1, (outer, inner, -1)).transpose(-3, -2).flatten(-3)


def add_lora(
    model: PreTrainedModel, *, r: int, lora_alpha: float, targets: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Replaces projections by LoRA layers that own the very same weights; B = 0, so nothing changes.

    Layers are never merged here (``merge_weights=False``); ``glue.export`` merges. Factors are float32.

    Args:
        targets: names of modules outside the head, or ``all-linear``; None: query and value.

    Returns:
        ``targets``, or the names of query and value.

    Raises:
        UserError: query and value are not known for this kind of model; targets that match nothing, or no linear layer.
    """
    kind = model.config.model_type
    encoder = ENCODERS.get(kind)
    settings: dict[str, Any] = {"lora_dtype": torch.float32, "merge_weights": False, "freeze": False}
    if encoder is not None:
        settings["lora_init"] = encoder.lora_init
    adapted = tuple(targets or (encoder.names if encoder is not None else ()))
    if targets:
        try:
            loralib.apply_lora(model, _outside_head(model, targets), r, lora_alpha, **settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"--lora_targets: {error}") from None
    elif encoder is None:
        raise UserError(
            f"query and value are known for {', '.join(ENCODERS)}; this model is {kind}: "
            "name the modules to adapt with --lora_targets"
        )
    elif kind == "deberta":
        for module in model.modules():
            if type(module) is FusedSelfAttention:
                loralib.apply_lora(
                    module, encoder.query_value, r, lora_alpha, enable_lora=encoder.enable_lora, **settings
                )
                module.in_proj.__class__ = InterleavedLinear
                module.in_proj.num_heads = module.num_attention_heads
    else:
        loralib.apply_lora(model, encoder.query_value, r, lora_alpha, enable_lora=encoder.enable_lora, **settings)
    for module in model.modules():
        if type(module) is DisentangledSelfAttention:
            module.__class__ = SharedKeySelfAttention
    return adapted


def _outside_head(model: PreTrainedModel, targets: Sequence[str]) -> list[Pattern]:
    """A pattern for each module that the targets name outside of the head."""
    names = [name for name, _ in model.named_modules() if name]
    heads = [name for name in names if in_head(model, f"{name}.")]
    named = [target for target in targets if target != ALL_LINEAR]
    chosen = select([name for name in names if name not in heads], named, ()) if named else []
    patterns: list[Pattern] = [_exactly(name) for name in chosen]
    return patterns + all_linear(model, [_exactly(name) for name in heads]) if ALL_LINEAR in targets else patterns


def _exactly(name: str) -> re.Pattern[str]:
    return re.compile(rf"^{re.escape(name)}$")
