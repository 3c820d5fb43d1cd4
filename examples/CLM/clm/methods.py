"""What is trained: low-rank updates, everything, the head, the biases, or the last two blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import loralib
from clm.heads import HEAD
from clm.model import embedding_weights
from examples.common.errors import UserError
from loralib.targets import ALL_LINEAR, Pattern, all_linear

# Query and value projections (Hu et al. 2021, Section 4.2), by the names that the kinds of models give them.
QUERY_VALUE = (("q_proj", "v_proj"), ("query", "value"), ("query_key_value",), ("qkv_proj",), ("c_attn",))


@dataclass(frozen=True)
class Lora:
    """Settings of new factors. ``targets``: names of modules, ``all-linear`` among them; None: query and value."""

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    init: str = "released"
    targets: Sequence[str] | None = None
    path: str | None = None  # an adapter folder instead of all this


def apply_method(model: PreTrainedModel, method: str, lora: Lora, train_blocks: int | None = None) -> None:
    """Freezes all of a model but what ``method`` trains; a classifier's new head trains always.

    ======  ==================================================================================================
    lora    updates of the targets; with ``train_blocks`` of those in the last N blocks
    full    everything; with ``train_blocks`` the last N blocks alone
    head    the classifier, or the output layer of the language model: with tied weights the embedding too
    bias    all biases (Ben Zaken et al. 2021); with ``train_blocks`` of the last N blocks
    top2    the last two blocks, without the final norm: FT^Top2 of Hu et al. 2021, Table 3
    ======  ==================================================================================================

    Raises:
        UserError: targets, ranks or an adapter that do not fit the model; a model without biases.
    """
    heads = [HEAD] if hasattr(model, HEAD) else []
    if method == "lora":
        _add_lora(model, lora, heads, train_blocks)
        return
    last = 2 if method == "top2" else train_blocks
    prefix, blocks = find_blocks(model) if last is not None else ("", nn.ModuleList())
    if last is not None and last > len(blocks):
        raise UserError(f"--train_blocks {last}: the model has {len(blocks)} blocks")
    inside = tuple(f"{prefix}.{index}." for index in range(len(blocks) - (last or 0), len(blocks)))
    output = model.get_output_embeddings() if method == "head" and not heads else None
    if method == "head" and not heads and output is None:
        raise UserError("--method head: the model has no output layer")
    of_output = {id(parameter) for parameter in output.parameters()} if output is not None else set()
    trained = 0
    for name, parameter in model.named_parameters():
        chosen = id(parameter) in of_output
        if method != "head":
            chosen = (last is None or name.startswith(inside)) and (method != "bias" or name.endswith("bias"))
        trained += chosen
        parameter.requires_grad_(chosen or any(name.startswith(f"{head}.") for head in heads))
    if method == "bias" and not trained:
        raise UserError(f"--method bias: a {model.config.model_type} model has no biases; use another method")


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name and list of the transformer blocks."""
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise UserError(f"a {model.config.model_type} model has no list of {count} blocks, so none can be chosen")


def train_rows(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Trains the embeddings of some tokens; all other rows keep their bytes.

    Their gradient is zero, and without weight decay (``ClmTrainer``) Adam then leaves them where they are.
    """
    mask: Tensor | None = None

    def only_rows(gradient: Tensor) -> Tensor:
        nonlocal mask
        if mask is None or mask.device != gradient.device:
            mask = torch.zeros(len(gradient), 1, dtype=gradient.dtype, device=gradient.device)
            mask[list(ids)] = 1
        return gradient * mask

    for weight in embedding_weights(model):
        weight.requires_grad_(True)
        weight.register_hook(only_rows)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: trained in the model, trained in a classifier's head, and all."""
    counts = {"trained": 0, "trained_in_head": 0, "all": 0}
    for name, parameter in model.named_parameters():
        n = getattr(parameter, "quant_state", None)
        size = n.shape.numel() if n is not None else parameter.numel()  # two weights of 4 bits are one number
        counts["all"] += size
        if parameter.requires_grad:
            counts["trained_in_head" if name.startswith(f"{HEAD}.") else "trained"] += size
    return counts


def _add_lora(model: PreTrainedModel, lora: Lora, heads: list[str], train_blocks: int | None) -> None:
    try:
        if lora.path is not None:
            loralib.load_adapter(model, lora.path)
            return
        targets, enable = _targets(model, lora.targets, heads)
        loralib.apply_lora(
            model,
            targets,
            lora.r,
            lora.alpha,
            dropout=lora.dropout,
            enable_lora=enable,
            exclude=_early_blocks(model, train_blocks) if train_blocks is not None else (),
            trainable=heads,
            lora_init=lora.init,
        )
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(f"{'--lora_path' if lora.path else '--lora_targets'}: {error}") from None


def _targets(
    model: PreTrainedModel, names: Sequence[str] | None, heads: Sequence[Pattern]
) -> tuple[list[Pattern], dict[str, tuple[bool, ...]] | None]:
    """Patterns of the modules to adapt, and which blocks of a fused projection."""
    if names:
        named: list[Pattern] = [name for name in names if name != ALL_LINEAR]
        return (all_linear(model, heads) + named if ALL_LINEAR in names else named), None
    if model.config.model_type == "gpt2":
        return ["attn.c_attn"], {"attn.c_attn": (True, False, True)}  # query and value of the fused three
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for group in QUERY_VALUE:
        if present.issuperset(group):
            return list(group), None
    raise UserError(
        f"a {model.config.model_type} model has no query and value projections known here; name the targets"
    )


def _early_blocks(model: PreTrainedModel, last: int) -> list[Pattern]:
    prefix, blocks = find_blocks(model)
    if last > len(blocks):
        raise UserError(f"--train_blocks {last}: the model has {len(blocks)} blocks")
    early = "|".join(map(str, range(len(blocks) - last)))
    return [re.compile(rf"{re.escape(prefix)}\.({early})\..*")] if early else []
