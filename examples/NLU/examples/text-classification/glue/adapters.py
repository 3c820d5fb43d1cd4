"""Houlsby and Pfeiffer adapters: two-layer bottlenecks behind the sub-layers, as baselines to LoRA.

For models with the sub-layers of BERT, RoBERTa, ELECTRA and DeBERTa, each of which ends in a module ``output`` that is
``LayerNorm(dropout(dense(h)) + input)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from examples.common.errors import UserError

ADAPTER_TYPES = {"houlsby": "silu", "pfeiffer": "relu"}  # name: activation
INIT_STD = 0.02  # of all adapter weights; biases start at zero


class Adapter(nn.Module):
    """``adapter_B(act(adapter_A(x))) + residual``.

    Source: Houlsby et al. 2019 (arXiv:1902.00751), Section 2.1; Pfeiffer et al. 2021 (arXiv:2005.00247).

    Args:
        hidden: features in and out.
        size: features of the bottleneck.
        activation: a name of transformers' activations.
    """

    def __init__(self, hidden: int, size: int, activation: str) -> None:
        super().__init__()
        self.adapter_A = nn.Linear(hidden, size)
        self.adapter_B = nn.Linear(size, hidden)
        self.activation = ACT2FN[activation]
        for layer in (self.adapter_A, self.adapter_B):
            nn.init.normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.adapter_B(self.activation(self.adapter_A(x))) + residual


class HoulsbyOutput(nn.Module):
    """Output of a sub-layer with an adapter between the sub-layer and its residual connection."""

    dense: nn.Linear
    dropout: nn.Dropout
    LayerNorm: nn.Module
    adapter: Adapter

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        h = self.dropout(self.dense(hidden_states))
        return self.LayerNorm(self.adapter(h, h) + input_tensor)


class PfeifferOutput(HoulsbyOutput):
    """Feed-forward output with an adapter after the residual connection; one LayerNorm is used twice."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        h = self.dropout(self.dense(hidden_states))
        z = self.LayerNorm(h + input_tensor)
        return self.LayerNorm(self.adapter(z, h) + input_tensor)


def add_adapters(model: PreTrainedModel, *, adapter_type: str, adapter_size: int) -> list[str]:
    """Puts adapters into every layer of a model; keys ``….output.adapter.adapter_{A,B}.{weight,bias}``.

    Returns:
        Names of the modules that now hold an adapter: with ``houlsby`` the outputs of attention and feed-forward, with
        ``pfeiffer`` those of the feed-forward alone.

    Raises:
        UserError: a model with other sub-layers, unknown ``adapter_type``, or a size below 1.
    """
    if adapter_type not in ADAPTER_TYPES:
        raise UserError(f"--adapter_type {adapter_type}: choose from {', '.join(ADAPTER_TYPES)}")
    if adapter_size < 1:
        raise UserError(f"--adapter_size must be at least 1, got {adapter_size}")
    outputs = {path: module for path, module in model.named_modules() if _is_output(path, module)}
    after_attention = [path for path in outputs if path.endswith("attention.output")]
    if not outputs or 2 * len(after_attention) != len(outputs):
        raise UserError(
            f"--apply_adapter knows the sub-layers of bert, roberta, electra, deberta and deberta-v2; those of "
            f"{model.config.model_type} are others"
        )
    changed = [path for path in outputs if adapter_type == "houlsby" or path not in after_attention]
    for path in changed:
        module: Any = outputs[path]
        adapter = Adapter(module.dense.out_features, adapter_size, ADAPTER_TYPES[adapter_type])
        module.adapter = adapter.to(module.dense.weight.device, torch.float32).train(module.training)
        module.__class__ = HoulsbyOutput if adapter_type == "houlsby" else PfeifferOutput
    return changed


def _is_output(path: str, module: nn.Module) -> bool:
    parts = {name for name, _ in module.named_children()}
    return path.endswith(".output") and parts == {"dense", "dropout", "LayerNorm"}
