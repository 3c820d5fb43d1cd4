"""A stock transformers model with the update folded into its weights."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import loralib


def merged_model(model: PreTrainedModel) -> PreTrainedModel:
    """An unmodified transformers model that computes what ``model`` computes with its LoRA, to rounding.

    DeBERTa-v2 with ``share_att_key`` sends relative positions through the projections that LoRA adapts, but without
    the update. There the copy gets position projections of its own (``share_att_key=False``), made of the frozen ones.
    """
    config = copy.deepcopy(model.config)
    unshare = config.model_type == "deberta-v2" and getattr(config, "share_att_key", False)
    if unshare:
        config.share_att_key = False
    state = model.state_dict()
    merged: dict[str, Tensor] = {name: value for name, value in state.items() if ".lora_" not in name}
    for path, module in model.named_modules():
        if isinstance(module, loralib.LoRALayer):
            merged[f"{path}.{module.weight_name}"] = module.merged_weight
    stock = type(model)(config).float().eval()
    if unshare:
        for name in stock.state_dict():
            for projection in ("query_proj", "key_proj"):
                if f".pos_{projection}." in name:
                    merged[name] = state[name.replace(f".pos_{projection}.", f".{projection}.")]
    stock.load_state_dict(merged)
    return stock


def export_merged(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes ``merged_model`` and the tokenizer, for ``from_pretrained``."""
    merged_model(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
