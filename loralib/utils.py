"""Which parameters of a model are LoRA's: what is trained, counted and saved, and files of the released package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.conv import ConvLoRA

BIAS_MODES = ("none", "all", "lora_only")
_Model = TypeVar("_Model", bound=nn.Module)


def mark_only_lora_as_trainable(model: nn.Module, bias: str = "none") -> None:
    """Freezes every parameter without ``lora_`` in its full name.

    So, as released, not only LoRA layers train, but whatever a model calls so itself (``lora_A_img``, a block named
    ``lora_q``). Of these, the parameters with ``lora_`` in their own name become trainable even if they were frozen
    before; others stay as they are.

    Args:
        model: changed in place.
        bias: ``none``; ``all``: also every parameter with ``bias`` in its full name; ``lora_only``: also the bias of
            each LoRA layer that has factors.

    Raises:
        NotImplementedError: another value of ``bias``; nothing is frozen then.
    """
    check_bias_mode(bias)
    biases = _biases_of_lora_layers(model) if bias == "lora_only" else set()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.requires_grad_(False)
        if "lora_" in name.rpartition(".")[2] or name in biases or (bias == "all" and "bias" in name):
            parameter.requires_grad_(True)


def lora_state_dict(model: nn.Module, bias: str = "none") -> dict[str, Tensor]:
    """The part of ``model.state_dict()`` with ``lora_`` in its names, for an adapter file.

    Values are unmerged in every mode of the model, and share memory with its parameters.

    Args:
        model: any module.
        bias: as in ``mark_only_lora_as_trainable``. With ``lora_only`` the bias that stands beside each name with
            ``lora_`` in it.

    Returns:
        Keys and tensors in the order of the state dict; with ``lora_only`` a bias follows the first factor beside it.

    Raises:
        NotImplementedError: another value of ``bias``.
    """
    check_bias_mode(bias)
    state_dict = model.state_dict()
    if bias != "lora_only":
        return {k: v for k, v in state_dict.items() if "lora_" in k or (bias == "all" and "bias" in k)}
    chosen: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if "lora_" in key:
            chosen[key] = value
            beside = key.rpartition("lora_")[0] + "bias"
            if beside in state_dict:
                chosen[beside] = state_dict[beside]
    return chosen


def check_bias_mode(bias: str) -> None:
    """Refuses an unknown bias mode with the list of known ones."""
    if bias not in BIAS_MODES:
        raise NotImplementedError(f"unknown bias mode {bias!r}; choose from {', '.join(BIAS_MODES)}")


def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """The LoRA layers of a model by name, in the order of ``named_modules()``; one used twice by its first name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALayer)}


def _biases_of_lora_layers(model: nn.Module) -> set[str]:
    return {
        f"{name}.bias".lstrip(".")
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, LoRALayer) and module.has_lora
    }


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block the model computes with its pretrained weights alone, as DPO wants it.

    Holds for all threads that use the model. A region that gradient checkpointing runs again must contain the whole
    block.
    """
    with ExitStack() as stack:
        for layer in lora_layers(model).values():
            stack.enter_context(layer.lora_disabled())
        yield


# --- files of other programs -----------------------------------------------------------------------------------------


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the plain model with the updates merged in, which the model without LoRA loads strictly.

    It is what ``model.eval(); model.state_dict()`` gives in the released package, less the factors. A weight that a
    layer shares with another module is merged under the name of the layer alone.

    Returns:
        Keys of the model without LoRA; merged weights are new tensors, all others share memory with the model.
    """
    state_dict: dict[str, Tensor] = dict(model.state_dict())
    for path, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, LoRALayer) and layer.has_lora:
            prefix = f"{path}." if path else ""
            state_dict[prefix + layer.weight_name] = layer.merged_weight
            del state_dict[f"{prefix}lora_A"], state_dict[f"{prefix}lora_B"]
    return state_dict


def load_released_state_dict(
    model: _Model, state_dict: Mapping[str, Tensor], *, saved_in_eval: bool = False, strict: bool = True
) -> _Model:
    """Loads a state dict that the released package wrote.

    In eval mode, unless ``merge_weights=False``, its state dicts hold merged weights beside the factors, so that
    loading them counts the update twice. Nothing in the file tells; who wrote it must know (the trainer of transformers
    saves right after evaluation, in eval mode).

    Args:
        model: has the LoRA layers of the file.
        state_dict: names of a layer's convolution may be those of any version (``conv.weight``, ``weight``).
        saved_in_eval: subtract the update from the weights of the file.
        strict: as in ``load_state_dict``.

    Returns:
        The same model.

    Raises:
        RuntimeError: as ``load_state_dict``.
    """
    model.load_state_dict(state_dict, strict=strict)
    if saved_in_eval:
        with torch.no_grad():
            for path, layer in lora_layers(model).items():
                names = {f"{path}.{name}".lstrip(".") for name in ("weight", "conv.weight")}
                if layer.has_lora and not names.isdisjoint(state_dict):
                    layer._stored_weight().sub_(layer.delta_weight())
    return model


def released_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with the keys of the released sources (main at c4593f0), which their layers load strictly.

    They differ for convolutions alone, whose weight and bias stand there a second time as ``conv.weight`` and
    ``conv.bias``. Package 0.1.2 has only these.
    """
    state_dict: dict[str, Tensor] = dict(model.state_dict())
    for path, layer in lora_layers(model).items():
        if isinstance(layer, ConvLoRA):
            prefix = f"{path}." if path else ""
            for name in ("weight", "bias"):
                if prefix + name in state_dict:
                    state_dict[f"{prefix}conv.{name}"] = state_dict[prefix + name]
    return state_dict


# --- counting and optimisation ---------------------------------------------------------------------------------------


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0, **shared: Any) -> list[dict[str, Any]]:
    """Groups for an optimiser that give B a larger learning rate than A (LoRA+, Hayou et al. 2024, arXiv:2402.12354).

    Args:
        model: its parameters that train are in the groups.
        lr: learning rate per optimiser step of A and of everything else that trains.
        ratio: that of B over that of A.
        **shared: further options of both groups, such as ``weight_decay``.

    Returns:
        Two groups for ``torch.optim.AdamW(groups)``: all but B, and B. For embeddings, whose roles of A and B are
        swapped, the larger rate goes to A.

    Raises:
        ValueError: no factor trains.
    """
    fast = {
        id(layer.lora_A if isinstance(layer, nn.Embedding) else layer.lora_B)
        for layer in lora_layers(model).values()
        if layer.has_lora
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not any(id(parameter) in fast for parameter in trained):
        raise ValueError("no factor of a LoRA layer trains in this model")
    return [
        {"params": [p for p in trained if id(p) not in fast], "lr": lr, **shared},
        {"params": [p for p in trained if id(p) in fast], "lr": lr * ratio, **shared},
    ]


@dataclass(frozen=True)
class TrainableSummary:
    """Numbers of parameters, shared ones counted once; published counts differ in which of these they include.

    Attributes:
        adapter: trainable parameters of LoRA.
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
        model: any module.
    """
    counts = {"adapter": 0, "bias": 0, "head": 0, "frozen": 0}
    for name, parameter in model.named_parameters():
        counts[_part(model, name, parameter)] += parameter.numel()
    return TrainableSummary(**counts)


def _part(model: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if not parameter.requires_grad:
        return "frozen"
    if "lora_" in name:
        return "adapter"
    path, _, own_name = name.rpartition(".")
    beside = model.get_submodule(path)._parameters.items()
    others = [n for n, p in beside if p is not None and p.requires_grad and "bias" not in n and "lora_" not in n]
    return "bias" if "bias" in own_name and not others else "head"
