"""LoRA on a finished model: layers are replaced by name, keep Parameters and keys, and can be taken away again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from loralib.adopt import LayerSettings, lora_layer, plain_layer
from loralib.base import LoRALayer
from loralib.targets import Pattern, as_patterns, check_keys_are_used, first_match, listed, matching, select
from loralib.utils import check_bias_mode, mark_only_lora_as_trainable

_Model = TypeVar("_Model", bound=nn.Module)
Blocks = Sequence[bool]


def apply_lora(
    model: _Model,
    targets: Pattern | Sequence[Pattern],
    r: int,
    alpha: float,
    *,
    dropout: float = 0.0,
    exclude: Pattern | Sequence[Pattern] = (),
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    enable_lora: Blocks | Mapping[str, Blocks] | None = None,
    freeze: bool = True,
    trainable: Pattern | Sequence[Pattern] = (),
    bias: str = "none",
    merge_weights: bool = True,
    lora_init: str = "released",
    lora_dtype: torch.dtype | None = None,
) -> _Model:
    """Puts LoRA on the modules of a model that ``targets`` names, in place; either on all of them or on none.

    ``nn.Linear`` becomes ``Linear`` or, with ``enable_lora``, ``MergedLinear``; transformers' ``Conv1D`` the same with
    ``fan_in_fan_out``; ``nn.Embedding`` and ``nn.Conv1d/2d/3d`` become their namesakes. The new layers hold the very
    Parameter objects of the old ones, so all keys stay and only ``lora_A`` and ``lora_B`` come after them. Device,
    dtype and training mode stay too: on a model in eval mode the layers are merged, and train after ``model.train()``.
    Random numbers are drawn for the factors alone, in the order of ``model.named_modules()``.

    A weight tied to another module stays tied, because LoRA layers never write to it: with LoRA on an embedding, a
    tied output head goes on with the frozen table. Code that reads ``module.weight`` sees the frozen weight.

    Call it after loading pretrained weights and before wrapping (DDP, FSDP, ``torch.compile``) and hooking the model.
    An ``nn.Embedding`` has no dropout. Of a DeBERTa-v2 with ``share_att_key``, ``query_proj`` also serves the relative
    positions, to which the released code gives no update.

    Args:
        model: changed in place.
        targets: one pattern or several. A name is the end of a module's dotted name in whole components: ``query``,
            ``attn.c_attn``. Anything with other characters, or compiled, is a regular expression for such an end.
        r, alpha: rank and numerator of the scale, alpha / r.
        dropout: probability of dropping an input of the low-rank branch, in train mode.
        exclude: patterns of targets to leave alone.
        rank_pattern, alpha_pattern: pattern to rank or alpha; the first key that matches a module wins.
        enable_lora: for a fused projection, whether each of its equal output blocks has an update; one sequence for
            all targets, or pattern to sequence for some. r is the rank of one block.
        freeze: whether everything but the factors is frozen (``mark_only_lora_as_trainable``); if not, the adopted
            weights alone are.
        trainable: patterns of modules, such as a new head, whose parameters train all the same.
        bias: ``none``, ``all`` or ``lora_only``: which biases train all the same.
        merge_weights: whether ``eval()`` merges (see ``LoRALayer``).
        lora_init: a name in ``loralib.INITIALIZERS``.
        lora_dtype: of the factors; None: that of each weight. Take float32 to train on a half-precision model.

    Returns:
        The same model.

    Raises:
        ValueError: a pattern that matches nothing; a module that is used elsewhere under a name that is not a target,
            that carries hooks, or that a fused kernel of torch reads around; settings that do not fit.
        TypeError: a target of a kind that LoRA cannot adapt, or that has LoRA already.
        NotImplementedError: unknown ``bias``.
        The model, its parameters and the random state are untouched then.
    """
    check_bias_mode(bias)
    if not freeze and (bias != "none" or trainable):
        raise ValueError("trainable and bias say what freeze=True leaves trainable; with freeze=False leave them out")
    settings = LayerSettings(r, alpha, dropout, None, merge_weights, lora_init, lora_dtype)
    chosen = _chosen(model, as_patterns("targets", targets), as_patterns("exclude", exclude))
    per_module = _settings_of(chosen, settings, rank_pattern, alpha_pattern, enable_lora)
    layers = prepare(model, per_module)
    heads = _heads(model, as_patterns("trainable", trainable), layers)
    for layer in layers.values():
        layer.reset_lora_parameters()
    put_in(model, layers)
    if freeze:
        mark_only_lora_as_trainable(model, bias)
        for head in heads:
            head.requires_grad_(True)
    return model


def remove_lora(model: _Model, *, merge: bool = True, untie: bool = False) -> _Model:
    """Puts plain layers back in place of all LoRA layers, so that the model has the keys that it had before.

    Layers get the class that they had before ``apply_lora``; those built by hand become the torch class, an (in, out)
    weight being transposed for ``nn.Linear``. What is frozen stays frozen.

    Args:
        model: changed in place.
        merge: whether the update is added to the weights, computed in float32 or wider and rounded once; else it is
            dropped, and the model has its old Parameter objects and computes as before ``apply_lora``.
        untie: allows merging into a weight that another module uses too. That module keeps the old weight, so the
            two are no longer tied (switch off ``tie_word_embeddings`` in a transformers config, or it ties them again).

    Returns:
        The same model.

    Raises:
        ValueError: no LoRA layer; the model itself is one; a tied weight without ``untie``; hooks on a LoRA layer.
        Nothing is changed then.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA layer")
    if merge and not untie:
        _refuse_tied(model, layers)
    plain = {}
    for name, layer in layers.items():
        _refuse_root(name)
        try:
            plain[name] = plain_layer(layer, merge)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    _replace(model, plain)
    return model


def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """The LoRA layers of a model by name, in the order of ``named_modules()``; one used twice by its first name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALayer)}


def prepare(model: nn.Module, per_module: Mapping[str, LayerSettings]) -> dict[str, LoRALayer]:
    """LoRA layers for the named modules, not put in yet, their factors not filled; neither changes the model.

    Raises:
        ValueError, TypeError: as in ``apply_lora``; the message begins with the name of the module.
    """
    layers = {}
    for name, settings in per_module.items():
        _refuse_root(name)
        _refuse_fast_path(model.get_submodule(name.rpartition(".")[0]), name)
        try:
            layers[name] = lora_layer(model.get_submodule(name), settings)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} {error}") from None
    return layers


def put_in(model: nn.Module, layers: Mapping[str, LoRALayer]) -> None:
    """Replaces modules by the layers made for them, wherever they are used, and freezes the adopted weights."""
    _replace(model, layers)
    for layer in layers.values():
        layer.weight.requires_grad_(False)


def _replace(model: nn.Module, new: Mapping[str, nn.Module]) -> None:
    by_old = {id(model.get_submodule(name)): module for name, module in new.items()}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in by_old:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, by_old[id(module)])


def _chosen(model: nn.Module, targets: Sequence[Pattern], exclude: Sequence[Pattern]) -> list[str]:
    """Names of the target modules; a module with several names appears once, and all of its names must be targets."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            names.setdefault(id(module), []).append(name)
    selected = set(select([name for group in names.values() for name in group], targets, exclude))
    chosen = []
    for group in names.values():
        hit = [name for name in group if name in selected]
        if hit and len(hit) < len(group):
            left = [name for name in group if name not in selected]
            raise ValueError(f"{hit[0]} is the same module as {listed(left)}; target all of its names, or none")
        chosen += hit[:1]
    return chosen


def _settings_of(
    names: Sequence[str],
    settings: LayerSettings,
    rank_pattern: Mapping[str, int] | None,
    alpha_pattern: Mapping[str, float] | None,
    enable_lora: Blocks | Mapping[str, Blocks] | None,
) -> dict[str, LayerSettings]:
    blocks: Mapping[str, Blocks] = enable_lora if isinstance(enable_lora, Mapping) else {}
    blocks_of_all = None if isinstance(enable_lora, Mapping) else enable_lora
    check_keys_are_used("rank_pattern", rank_pattern or (), names)
    check_keys_are_used("alpha_pattern", alpha_pattern or (), names)
    check_keys_are_used("enable_lora", blocks, names)
    return {
        name: replace(
            settings,
            r=first_match(rank_pattern, name, settings.r),
            lora_alpha=first_match(alpha_pattern, name, settings.lora_alpha),
            enable_lora=first_match(blocks, name, blocks_of_all),
        )
        for name in names
    }


def _heads(model: nn.Module, trainable: Sequence[Pattern], layers: Mapping[str, LoRALayer]) -> list[nn.Parameter]:
    names = [name for name, _ in model.named_modules()]
    adopted = {id(layer.weight): name for name, layer in layers.items()}
    heads = []
    for module in (module for pattern in trainable for module in matching(names, pattern, "trainable")):
        for parameter in model.get_submodule(module).parameters():
            if id(parameter) in adopted:
                raise ValueError(
                    f"trainable module {module} uses the weight of {adopted[id(parameter)]}, which LoRA keeps frozen"
                )
            heads.append(parameter)
    return heads


def _refuse_root(name: str) -> None:
    if not name:
        raise ValueError("the model itself is the layer and cannot be replaced in place; wrap it in a module")


def _refuse_fast_path(parent: nn.Module, name: str) -> None:
    if isinstance(parent, nn.TransformerEncoderLayer) and torch.backends.mha.get_fastpath_enabled():
        raise ValueError(
            f"{name} belongs to an nn.TransformerEncoderLayer, whose fused kernel for inference reads the weight and "
            "would leave LoRA out; call torch.backends.mha.set_fastpath_enabled(False) first"
        )


def _refuse_tied(model: nn.Module, layers: Mapping[str, LoRALayer]) -> None:
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        others = [user for user in users[id(layer.weight)] if user != name]
        if others and layer.has_lora:
            raise ValueError(f"{name} shares its weight with {listed(others)}; merging unties them: pass untie=True")
