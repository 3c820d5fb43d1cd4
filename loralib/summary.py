"""How many parameters train, and as what: adapter, bias, head; published counts differ in which they include."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from loralib.utils import is_bias, is_lora, own_parameters


@dataclass(frozen=True)
class TrainableSummary:
    """Numbers of parameters, shared ones counted once.

    Attributes:
        adapter: trainable factors of LoRA layers.
        bias: trainable biases of modules in which nothing else trains but LoRA.
        head: all others that train, such as a classifier with its biases.
        frozen: all that do not train.
    """

    adapter: int
    bias: int
    head: int
    frozen: int

    @property
    def trainable(self) -> int:
        """adapter + bias + head."""
        return self.adapter + self.bias + self.head

    @property
    def total(self) -> int:
        """All parameters of the model, LoRA's included."""
        return self.trainable + self.frozen

    def __str__(self) -> str:
        """One line: the parts, their sum, and its share of the total."""
        share = 100 * self.trainable / self.total if self.total else 0.0
        return (
            f"adapter {self.adapter:,} + bias {self.bias:,} + head {self.head:,} "
            f"= {self.trainable:,} trainable of {self.total:,} ({share:.2f} %)"
        )


def trainable_summary(model: nn.Module) -> TrainableSummary:
    """Counts the parameters of a model by what they are trained as.

    Args:
        model: any module, with or without LoRA layers.
    """
    counts = {"adapter": 0, "bias": 0, "head": 0, "frozen": 0}
    seen: set[int] = set()
    for _, module, name, parameter in own_parameters(model):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            counts[_part(module, name, parameter)] += parameter.numel()
    return TrainableSummary(**counts)


def _part(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if not parameter.requires_grad:
        return "frozen"
    if is_lora(module, name):
        return "adapter"
    return "bias" if is_bias(name) and not _trains_more_than_biases(module) else "head"


def _trains_more_than_biases(module: nn.Module) -> bool:
    return any(
        parameter is not None and parameter.requires_grad and not is_bias(name) and not is_lora(module, name)
        for name, parameter in module._parameters.items()
    )
