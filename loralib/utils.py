"""Which parameters of a model are LoRA's: what is trained, and what goes into an adapter file."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from loralib.base import LoRALayer

BIAS_MODES = ("none", "all", "lora_only")


def mark_only_lora_as_trainable(model: nn.Module, bias: str = "none") -> None:
    """Freezes every parameter but those of LoRA, which become trainable even if they were frozen before.

    A parameter is LoRA's if its own name begins with ``lora_`` and its module is a ``LoRALayer``; names of parents do
    not count.

    Args:
        model: changed in place.
        bias: ``none``; ``all``: also every bias of the model, that is every parameter whose own name has the word
            ``bias`` (``bias``, ``in_proj_bias``, ``bias_ih_l0``); ``lora_only``: also the bias of each layer that has
            LoRA factors.

    Raises:
        NotImplementedError: another value of ``bias``; nothing is frozen then.
    """
    check_bias_mode(bias)
    trainable = {
        id(parameter)
        for _, module, name, parameter in own_parameters(model)
        if is_lora(module, name) or _is_chosen_bias(module, name, bias)
    }
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trainable)


def lora_state_dict(model: nn.Module, bias: str = "none") -> dict[str, Tensor]:
    """The part of ``model.state_dict()`` that ``mark_only_lora_as_trainable`` trains, for an adapter file.

    Values are unmerged in every mode of the model, and share memory with its parameters.

    Args:
        model: any module.
        bias: as in ``mark_only_lora_as_trainable``.

    Returns:
        Keys and tensors in the order of the state dict; with ``lora_only`` a bias follows ``lora_A`` of its layer.

    Raises:
        NotImplementedError: another value of ``bias``.
    """
    check_bias_mode(bias)
    state_dict = model.state_dict()
    chosen: list[str] = []
    for prefix, module, name, _ in own_parameters(model):
        if is_lora(module, name):
            chosen.append(prefix + name)
            if bias == "lora_only" and name == "lora_A" and getattr(module, "bias", None) is not None:
                chosen.append(f"{prefix}bias")
        elif bias == "all" and _is_chosen_bias(module, name, bias):
            chosen.append(prefix + name)
    return {key: state_dict[key] for key in chosen}


def check_bias_mode(bias: str) -> None:
    """Refuses an unknown bias mode with the list of known ones."""
    if bias not in BIAS_MODES:
        raise NotImplementedError(f"unknown bias mode {bias!r}; choose from {', '.join(BIAS_MODES)}")


def own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(prefix of the keys, module, own name, parameter) in the order of the state dict, shared ones repeated."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield (f"{path}." if path else ""), module, name, parameter


def is_lora(module: nn.Module, name: str) -> bool:
    """Whether the parameter called ``name`` in ``module`` is one of LoRA's."""
    return isinstance(module, LoRALayer) and name.startswith("lora_")


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias by its own name: ``bias``, ``in_proj_bias``, ``bias_ih_l0``."""
    return "bias" in name.split("_")


def _is_chosen_bias(module: nn.Module, name: str, bias: str) -> bool:
    if bias == "all":
        return is_bias(name)
    return bias == "lora_only" and name == "bias" and isinstance(module, LoRALayer) and module.has_lora
