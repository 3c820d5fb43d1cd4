"""Which parameters train, by the name of a method: the one place that decides it.

Source of the baselines: Hu et al. 2021 (arXiv:2106.09685), Section 5.1. A method is a row of ``METHODS``: whether the
parameter of a given name trains, in a model of so many blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.model import GPT2LMModel


def _in_the_top(name: str, n_layer: int, blocks: int = 2) -> bool:
    return "ln_f." in name or any(f"h.{n_layer - i}." in name for i in range(1, blocks + 1))


METHODS: dict[str, Callable[[str, int], bool]] = {
    "lora": lambda name, n_layer: "lora_" in name,
    "full": lambda name, n_layer: True,
    "bias": lambda name, n_layer: name.endswith(".bias"),
    "top2": _in_the_top,  # FT-Top2: the last two blocks, and the layer norm behind them
}


def default_method(lora_dim: int) -> str:
    """LoRA with a rank, else full fine-tuning, as released."""
    return "lora" if lora_dim > 0 else "full"


def trained_names(model: GPT2LMModel, method: str) -> list[str]:
    """Names of the parameters that ``method`` trains, in the order of ``named_parameters()``."""
    trains = METHODS[method]
    return [name for name, _ in model.named_parameters() if trains(name, model.config.n_layer)]


def choose_trainable(model: GPT2LMModel, method: str) -> None:
    """Freezes all parameters but those that ``method`` trains."""
    chosen = set(trained_names(model, method))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
