"""GPT-2 as decoding sees it: no gradients, LoRA inside the weights, and weights laid out for products with few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from gpt2.layers import Block
from gpt2.model import GPT2LMModel
from torch import Tensor, nn

from generation.cache import CachedAttention
from generation.projection import Projection
from loralib import LoRALayer


def merged(layer: nn.Module) -> Tensor:
    """The weight of a layer as stored, with its update if it has one."""
    return cast(Tensor, layer.merged_weight if isinstance(layer, LoRALayer) else layer.weight)


class DecodingBlock:
    """A ``layers.Block`` with LoRA inside the weights."""

    def __init__(self, block: Block) -> None:
        attn, mlp = block.attn, block.mlp
        self.ln_1, self.ln_2, self.n_head = block.ln_1, block.ln_2, attn.n_head
        layers = (attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj)  # stored (in, out)
        self.c_attn, self.c_proj, self.c_fc, self.mlp_proj = (Projection(merged(x).t(), x.bias) for x in layers)

    def __call__(self, x: Tensor, attend: CachedAttention, batch: int) -> Tensor:
        """(B * T, C) -> (B * T, C)."""
        qkv = self.c_attn(self.ln_1(x)).view(batch, x.size(0) // batch, 3, self.n_head, -1)  # (B, T, 3, H, D)
        x = self.c_proj.added_to(x, attend(qkv).reshape(x.shape))
        return self.mlp_proj.added_to(x, self.c_fc.then_gelu(self.ln_2(x)))


class DecodingModel:
    """The weights of a ``GPT2LMModel`` as they are now, ready to decode. Later changes of the model may go unseen."""

    @torch.no_grad()
    def __init__(self, model: GPT2LMModel) -> None:
        transformer = model.transformer
        self.config = model.config
        self.wte, self.wpe = merged(transformer.wte).detach(), merged(transformer.wpe).detach()
        self.blocks = [DecodingBlock(cast(Block, block)) for block in transformer.h]
        self.ln_f = transformer.ln_f
        self.head = Projection(merged(model.lm_head.decoder), None)

    @classmethod
    def of(cls, model: GPT2LMModel | DecodingModel) -> DecodingModel:
        return model if isinstance(model, cls) else cls(cast(GPT2LMModel, model))

    def hidden(self, input_ids: Tensor, position_ids: Tensor, attends: Sequence[CachedAttention]) -> Tensor:
        """Hidden states after the final layer norm.

        Args:
            input_ids: (B, T) token ids.
            position_ids: (T,), (B, T) or (B, 1).
            attends: one a layer.

        Returns:
            (B, T, C).
        """
        x = (F.embedding(input_ids, self.wte) + F.embedding(position_ids, self.wpe)).flatten(0, 1)  # (B * T, C)
        for block, attend in zip(self.blocks, attends, strict=True):
            x = block(x, attend, input_ids.size(0))
        return self.ln_f(x).view(*input_ids.shape, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V) float32."""
        return self.head(hidden.flatten(0, -2)).float().view(*hidden.shape[:-1], -1)
