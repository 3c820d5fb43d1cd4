"""The transformer block of GPT-2, with LoRA on any of its linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import loralib as lora
from gpt2.attention import Attend, causal_attention
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.fast_linear import fast_linear

INIT_STD = 0.02  # of every projection and embedding: Radford et al. 2019, and the released code


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

    def forward(self, x: Tensor, attend: Attend = causal_attention, counted: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C), or (n, C) at ``counted`` places; ``attend`` says what the T tokens may look at."""
        q, k, v = (self._split_heads(part) for part in self.c_attn(x).chunk(3, dim=-1))
        y = attend(q, k, v)
        return self.c_proj(at_places(y.transpose(1, 2).reshape(x.shape), counted))

    def _split_heads(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)


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

    def forward(self, x: Tensor, attend: Attend = causal_attention, counted: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C).

        With ``counted`` -> (n, C): every position is looked at, but only those places of the flattened (B*T, C) are
        looked from and worked on further. The result is that of the whole at these places.
        """
        x = at_places(x, counted) + self.attn(self.ln_1(x), attend, counted)
        return x + self.mlp(self.ln_2(x))


def at_places(x: Tensor, counted: Tensor | None) -> Tensor:
    """(B, T, C) -> (n, C) at places of the flattened (B*T, C); unchanged for None."""
    return x if counted is None else x.flatten(0, 1).index_select(0, counted)
