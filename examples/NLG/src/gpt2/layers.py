"""The transformer block of GPT-2, with LoRA on any of its linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import loralib as lora
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.fast_linear import fast_linear

INIT_STD = 0.02  # of every projection and embedding: Radford et al. 2019, and the released code
# On a CPU, torch's gradient of bfloat16 attention over short inputs is several times slower than that of float32, which
# is also more exact; over long ones it is the other way round.
MAX_WIDENED = 256  # tokens


class Conv1D(nn.Module):
    """Affine map whose weight is stored (in, out), as in GPT-2's checkpoints; ``loralib.apply_lora`` can adapt it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.nf = out_features  # as in transformers' layer of this name
        self.linear = fast_linear  # which loralib calls where this is a layer of its own
        self.weight = nn.Parameter(torch.empty(in_features, out_features).normal_(std=INIT_STD))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.linear(x, self.weight.t(), self.bias)


class Attention(nn.Module):
    """Multi-head self-attention; LoRA on blocks of ``c_attn`` stands in it from the start, as released."""

    def __init__(self, config: GPT2Config, lora_config: LoRAConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        # merge_weights=False, as released: decoding folds the update in explicitly, eval() does not
        self.c_attn = lora.MergedLinear(
            config.n_embd,
            3 * config.n_embd,
            r=lora_config.r,
            lora_alpha=lora_config.alpha,
            lora_dropout=lora_config.dropout,
            enable_lora=lora_config.c_attn,
            fan_in_fan_out=True,
            merge_weights=False,
        )
        self.c_attn.linear = fast_linear  # type: ignore[method-assign]
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        q, k, v = (self._split_heads(part) for part in self.c_attn(x).chunk(3, dim=-1))
        return self.c_proj(causal_attention(q, k, v).transpose(1, 2).reshape(x.shape))

    def _split_heads(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Fused attention of each position to itself and those before it; three times (B, H, T, D) -> (B, H, T, D)."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.size(2) <= MAX_WIDENED and q.requires_grad:
        with torch.autocast("cpu", enabled=False):  # which would turn the three back to bfloat16
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class MLP(nn.Module):
    """Position-wise feed-forward network of width 4C, with the tanh form of GELU."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.c_fc = Conv1D(n_embd, 4 * n_embd)
        self.c_proj = Conv1D(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm block: x + attn(ln_1(x)), then x + mlp(ln_2(x)). No dropout but LoRA's, as released."""

    def __init__(self, config: GPT2Config, lora_config: LoRAConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, lora_config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config.n_embd)
        if lora_config.r > 0 and (names := lora_config.other_layers):
            dropout = lora_config.dropout
            lora.apply_lora(self, names, lora_config.r, lora_config.alpha, dropout=dropout, freeze=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))
