"""Houlsby and Pfeiffer adapters for RoBERTa: two-layer bottlenecks behind the sub-layers, as baselines to LoRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.roberta.modeling_roberta import RobertaOutput, RobertaSelfOutput

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


class HoulsbySelfOutput(RobertaSelfOutput):
    """Attention output with an adapter between the sub-layer and its residual connection."""

    adapter: Adapter

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        h = self.dropout(self.dense(hidden_states))
        return self.LayerNorm(self.adapter(h, h) + input_tensor)


class HoulsbyOutput(RobertaOutput):
    """Feed-forward output with an adapter between the sub-layer and its residual connection."""

    adapter: Adapter

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        h = self.dropout(self.dense(hidden_states))
        return self.LayerNorm(self.adapter(h, h) + input_tensor)


class PfeifferOutput(RobertaOutput):
    """Feed-forward output with an adapter after the residual connection; one LayerNorm is used twice."""

    adapter: Adapter

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        h = self.dropout(self.dense(hidden_states))
        z = self.LayerNorm(h + input_tensor)
        return self.LayerNorm(self.adapter(z, h) + input_tensor)


_OUTPUTS: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "houlsby": {RobertaSelfOutput: HoulsbySelfOutput, RobertaOutput: HoulsbyOutput},
    "pfeiffer": {RobertaOutput: PfeifferOutput},
}


def add_adapters(model: PreTrainedModel, *, adapter_type: str, adapter_size: int) -> list[str]:
    """Puts adapters into every layer of a RoBERTa model; keys ``….output.adapter.adapter_{A,B}.{weight,bias}``.

    Returns:
        Names of the modules that now hold an adapter.

    Raises:
        UserError: another kind of model, unknown ``adapter_type``, or a size below 1.
    """
    if model.config.model_type != "roberta":
        raise UserError(f"--apply_adapter knows RoBERTa models; this one is {model.config.model_type}")
    if adapter_type not in ADAPTER_TYPES:
        raise UserError(f"--adapter_type {adapter_type}: choose from {', '.join(ADAPTER_TYPES)}")
    if adapter_size < 1:
        raise UserError(f"--adapter_size must be at least 1, got {adapter_size}")
    changed = []
    for path, module in list(model.named_modules()):
        replacement = _OUTPUTS[adapter_type].get(type(module))
        if replacement is not None:
            dense: nn.Linear = module.dense
            adapter = Adapter(dense.out_features, adapter_size, ADAPTER_TYPES[adapter_type])
            module.adapter = adapter.to(dense.weight.device, torch.float32).train(module.training)
            module.__class__ = replacement
            changed.append(path)
    return changed
