"""One layer with LoRA as each implementation has it, with equal random numbers, and its forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import loralib
from harness.peers import SIZES, released_loralib

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMPLEMENTATIONS = ("frozen", "ours", "plain", "released", "peft", "full")


@dataclass(frozen=True)
class Case:
    """One layer and its input.

    Attributes:
        model: ``sm``, ``md``, ``lg`` for the projection to query, key and value of that GPT-2; ``roberta`` for the
            query of RoBERTa-base; ``call`` for a layer so small that its time is that of the calls.
        shape: (batch, time).
    """

    model: str
    shape: tuple[int, int]
    r: int = 4
    dropout: float = 0.0
    precision: str = "fp32"

    @property
    def fused(self) -> bool:
        return self.model in SIZES

    @property
    def sizes(self) -> tuple[int, int]:
        """(in, out)."""
        width = SIZES[self.model].n_embd if self.fused else {"roberta": 768, "call": 8}[self.model]
        return width, 3 * width if self.fused else width

    @property
    def rows(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def unit(self) -> int:
        """rows * in * out: half the FLOPs of one pass of the frozen layer."""
        return self.rows * self.sizes[0] * self.sizes[1]

    def __str__(self) -> str:
        layer = f"{self.model} q-k-v" if self.fused else {"roberta": "RoBERTa query", "call": "8 to 8"}[self.model]
        dropout = f", dropout {self.dropout}" if self.dropout else ""
        return f"{layer} {self.shape[0]}x{self.shape[1]}, r {self.r}{dropout}, {self.precision}"


def build(case: Case, name: str, device: str) -> nn.Module:
    """An implementation in training mode, with random factors; ours and the released layer get equal ones."""
    torch.manual_seed(0)
    if name in ("frozen", "full"):
        layer: nn.Module = nn.Linear(*case.sizes).requires_grad_(name == "full")
    elif name == "plain":
        layer = PlainLoRA(*case.sizes, r=case.r, alpha=2 * case.r, p=case.dropout)
    elif name == "peft":
        layer = _peft(case)
    else:
        layer = _loralib(case, loralib if name == "ours" else released_loralib())
    layer.to(device, DTYPES[case.precision]).train()  # the released train() returns nothing
    return layer


class PlainLoRA(nn.Module):
    """LoRA of the whole output as one would write it down (Hu et al. 2021, Section 4.1, Eq. 3)."""

    def __init__(self, n_in: int, n_out: int, *, r: int, alpha: float, p: float) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out).requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, n_in) * 0.02)
        self.lora_B = nn.Parameter(torch.randn(n_out, r) * 0.02)
        self.scaling, self.dropout = alpha / r, nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scaling


def _loralib(case: Case, package: ModuleType) -> nn.Module:
    settings: dict[str, Any] = {"r": case.r, "lora_alpha": 2 * case.r, "lora_dropout": case.dropout}
    if case.fused:
        settings |= {"enable_lora": [True, False, True], "fan_in_fan_out": True}
    layer = getattr(package, "MergedLinear" if case.fused else "Linear")(*case.sizes, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias, layer.lora_A, layer.lora_B):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    layer.bias.requires_grad_(False)
    return layer


def _peft(case: Case) -> nn.Module:
    """peft's layer as usually used: one update of the whole projection, stored as transformers stores it."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D as TheirConv1D

    n_in, n_out = case.sizes
    base = TheirConv1D(n_out, n_in) if case.fused else nn.Linear(n_in, n_out)
    config = LoraConfig(
        r=case.r,
        lora_alpha=2 * case.r,
        lora_dropout=case.dropout,
        target_modules=["0"],
        fan_in_fan_out=case.fused,
        init_lora_weights=False,
    )
    model = get_peft_model(nn.Sequential(base), config)
    return next(module for module in model.modules() if hasattr(module, "lora_A") and module is not model)


def tensors(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Input, which needs a gradient, and gradient of the output."""
    torch.manual_seed(2)
    x, dy = (torch.randn(*case.shape, size, device=device).to(DTYPES[case.precision]) for size in case.sizes)
    return x.requires_grad_(), dy


def passes(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], tuple[Tensor | None, ...]]:
    """Function that computes the output and the gradients of the input and of what trains."""
    inputs = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]

    def run() -> tuple[Tensor | None, ...]:
        for tensor in inputs:
            tensor.grad = None
        y = layer(x)
        y.backward(dy)
        return y, *(tensor.grad for tensor in inputs)

    return run
