"""LoRA on a finished model: the modules that are named become LoRA layers where they stand, and plain ones again.

A module keeps its identity, hooks, Parameter objects and keys; its class changes, and ``lora_A`` and ``lora_B`` come
beside its parameters. So everything that refers to it goes on working.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from loralib.adopt import LayerSettings, become, check_blocks, plain_again, template
from loralib.base import LoRALayer
from loralib.beside import keep_differentiable
from loralib.targets import (
    ALL_LINEAR,
    Pattern,
    all_linear,
    as_patterns,
    check_keys_are_used,
    first_match,
    listed,
    matching,
    select,
)
from loralib.utils import check_bias_mode, lora_layers, mark_only_lora_as_trainable

_Model = TypeVar("_Model", bound=nn.Module)
Blocks = Sequence[bool]
Sizes = Sequence[int]


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
    block_sizes: Sizes | Mapping[str, Sizes] | None = None,
    freeze: bool = True,
    trainable: Pattern | Sequence[Pattern] = (),
    bias: str = "none",
    merge_weights: bool = False,
    lora_init: str = "released",
    lora_dtype: torch.dtype | None = None,
    use_rslora: bool = False,
) -> _Model:
    """Puts LoRA on the modules of a model that ``targets`` names, in place; either on all of them or on none.

    ``nn.Linear`` becomes ``Linear`` or, with ``enable_lora``, ``MergedLinear``; transformers' ``Conv1D`` the same with
    ``fan_in_fan_out``; ``nn.Embedding`` and ``nn.Conv1d/2d/3d`` become their namesakes; ``nn.MultiheadAttention`` gets
    LoRA on its input and output projections. A linear layer of another kind (4- and 8-bit weights of bitsandbytes or
    torchao, offloaded by accelerate, with a forward pass of its own) keeps its code and has the update added to its
    output. Device and training mode stay. Random numbers are drawn for the factors alone, in the order of
    ``model.named_modules()``.

    Layers are not merged in eval mode unless ``merge_weights`` asks for it: a merged layer costs a second tensor of the
    weight's size. A weight tied to another module stays tied, because LoRA layers never write to it: with LoRA on an
    embedding, a tied output head goes on with the frozen table.

    Call it after loading pretrained weights and after resizing embeddings, and before wrapping the model (DDP, FSDP,
    ``torch.compile``). An ``nn.Embedding`` has no dropout. Of a DeBERTa-v2 with ``share_att_key``, ``query_proj`` also
    serves the relative positions, to which the released code gives no update.

    Args:
        model: changed in place.
        targets: one pattern or several. A name is the end of a module's dotted name in whole components: ``query``,
            ``attn.c_attn``. Anything with other characters, or compiled, is a regular expression for such an end.
            ``"all-linear"``: every linear layer but the output head.
        r, alpha: rank and numerator of the scale, alpha / r.
        dropout: probability of dropping an input of the low-rank branch, in train mode.
        exclude: patterns of targets to leave alone.
        rank_pattern, alpha_pattern: pattern to rank or alpha; the first key that matches a module wins.
        enable_lora: for a fused projection, whether each of its output blocks has an update; one sequence for all
            targets, or pattern to sequence for some. r is the rank of one block.
        block_sizes: features of each of these blocks, where they differ (grouped queries): one sequence, or pattern to
            sequence. None: equal blocks.
        freeze: whether everything but the factors is frozen (``mark_only_lora_as_trainable``); if not, the adopted
            weights alone are.
        trainable: patterns of modules, such as a new head, whose parameters train all the same.
        bias: ``none``, ``all`` or ``lora_only``: which biases train all the same.
        merge_weights: whether ``eval()`` merges (see ``LoRALayer``).
        lora_init: a name in ``loralib.INITIALIZERS``.
        lora_dtype: of the factors; None: that of each weight, and float32 where that is a half or quantised one, since
            small steps of an optimiser are lost in 8 bits of mantissa.
        use_rslora: scale by alpha / sqrt(r) instead (Kalajdzievski 2023, arXiv:2312.03732).

    Returns:
        The same model.

    Raises:
        ValueError: a pattern that matches nothing; a module that is used elsewhere under a name that is not a target;
            blocks that are not those of the model; settings that do not fit.
        TypeError: a target of a kind that LoRA cannot adapt, or that has LoRA already.
        NotImplementedError: unknown ``bias``.
        The model, its parameters and the random state are untouched then.
    """
    check_bias_mode(bias)
    if not freeze and (bias != "none" or trainable):
        raise ValueError("trainable and bias say what freeze=True leaves trainable; with freeze=False leave them out")
    settings = LayerSettings(
        r,
        alpha,
        dropout,
        merge_weights=merge_weights,
        lora_init=lora_init,
        lora_dtype=lora_dtype,
        use_rslora=use_rslora,
    )
    heads = as_patterns("trainable", trainable)
    patterns = all_linear(model, heads) if targets == ALL_LINEAR else as_patterns("targets", targets)
    chosen = _with_output_projections(model, _chosen(model, patterns, as_patterns("exclude", exclude)))
    per_module = _settings_of(chosen, settings, rank_pattern, alpha_pattern, enable_lora, block_sizes)
    layers = prepare(model, per_module)
    trained = _head_parameters(model, heads, layers)
    for layer in layers.values():
        layer.reset_lora_parameters()
    put_in(model, layers)
    if freeze:
        mark_only_lora_as_trainable(model, bias)
        for parameter in trained:
            parameter.requires_grad_(True)
    return model


def remove_lora(model: _Model, *, merge: bool = True, untie: bool = False) -> _Model:
    """Makes plain layers of all LoRA layers, so that the model has the keys that it had before.

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
        ValueError: no LoRA layer; a tied weight without ``untie``; a layer whose weight cannot take the update.
        Nothing is changed then.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA layer")
    if merge and not untie:
        _refuse_tied(model, layers)
    weights: dict[str, nn.Parameter | None] = dict.fromkeys(layers)
    if merge:
        for name, layer in layers.items():
            try:
                weights[name] = nn.Parameter(layer.merged_weight, requires_grad=False) if layer.has_lora else None
            except RuntimeError as error:
                raise ValueError(f"{name}: {error}") from None
    for name, layer in layers.items():
        plain_again(layer, weights[name])
    return model


def prepare(model: nn.Module, per_module: Mapping[str, LayerSettings]) -> dict[str, LoRALayer]:
    """What the named modules will become, with empty factors of their own; the model is left as it is.

    Raises:
        ValueError, TypeError: as in ``apply_lora``; the message begins with the name of the module.
    """
    layers = {}
    for name, settings in per_module.items():
        parent = model.get_submodule(name.rpartition(".")[0]) if name else None
        try:
            check_blocks(model, name, settings.enable_lora, settings.block_sizes)
            layers[name] = template(model.get_submodule(name), parent, name.rpartition(".")[2], settings)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} {error}") from None
    return layers


def put_in(model: nn.Module, layers: Mapping[str, LoRALayer]) -> None:
    """Makes the modules what ``prepare`` gave for them, and freezes their weights."""
    for name, layer in layers.items():
        become(model.get_submodule(name), layer)
    keep_differentiable(model)


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


def _with_output_projections(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The names, and after each ``nn.MultiheadAttention`` that of its output projection."""
    with_outputs = []
    for name in names:
        with_outputs.append(name)
        if isinstance(model.get_submodule(name), nn.MultiheadAttention):
            with_outputs.append(f"{name}.out_proj")
    return list(dict.fromkeys(with_outputs))


def _settings_of(
    names: Sequence[str],
    settings: LayerSettings,
    rank_pattern: Mapping[str, int] | None,
    alpha_pattern: Mapping[str, float] | None,
    enable_lora: Blocks | Mapping[str, Blocks] | None,
    block_sizes: Sizes | Mapping[str, Sizes] | None,
) -> dict[str, LayerSettings]:
    patterns: dict[str, tuple[Mapping[str, Any], Any]] = {
        field: (value, default) if isinstance(value, Mapping) else ({}, default if value is None else value)
        for field, value, default in (
            ("rank_pattern", rank_pattern, settings.r),
            ("alpha_pattern", alpha_pattern, settings.lora_alpha),
            ("enable_lora", enable_lora, None),
            ("block_sizes", block_sizes, None),
        )
    }
    for argument, (mapping, _) in patterns.items():
        check_keys_are_used(argument, mapping, names)
    chosen = {}
    for name in names:
        r, lora_alpha, enabled, sizes = (first_match(mapping, name, default) for mapping, default in patterns.values())
        chosen[name] = replace(settings, r=r, lora_alpha=lora_alpha, enable_lora=enabled, block_sizes=sizes)
    return chosen


def _head_parameters(
    model: nn.Module, patterns: Sequence[Pattern], layers: Mapping[str, LoRALayer]
) -> list[nn.Parameter]:
    names = [name for name, _ in model.named_modules()]
    adopted = {id(layer._stored_weight()): name for name, layer in layers.items()}
    heads = []
    for module in (module for pattern in patterns for module in matching(names, pattern, "trainable")):
        for parameter in model.get_submodule(module).parameters():
            if id(parameter) in adopted:
                raise ValueError(
                    f"trainable module {module} uses the weight of {adopted[id(parameter)]}, which LoRA keeps frozen"
                )
            heads.append(parameter)
    return heads


def _refuse_tied(model: nn.Module, layers: Mapping[str, LoRALayer]) -> None:
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        others = [user for user in users[id(layer._stored_weight())] if user != name]
        if others and layer.has_lora:
            raise ValueError(f"{name} shares its weight with {listed(others)}; merging unties them: pass untie=True")
