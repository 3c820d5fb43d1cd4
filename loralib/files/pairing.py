"""An adapter and the base model that it belongs to: names, shapes, heads and labels, told from the files of both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loralib.base import LoRALayer
from loralib.embedding import Embedding
from loralib.files.reading import PEFT, Adapter, Model, model_files, read_json
from loralib.linear import MergedLinear

# kinds of transformers' models with projections stored (in, out), and the names of these
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
EMBEDDING = re.compile(r"(.*\.)?(wte|embed_tokens|word_embeddings|embed_in|tok_embeddings|shared)\.weight")
LM_HEAD = re.compile(r"(.*\.)?(lm_head|embed_out)\.weight")
LABEL_HEAD = re.compile(r"(classifier|score)\..*")
SHARED_KEY = re.compile(r"(deberta\..*attention\.self)\.(query|key)_proj\.(weight|bias)")
_INTERLEAVED = re.compile(r"deberta\..*\.in_proj")


def known_layers(adapter: Adapter) -> dict[str, LoRALayer]:
    """The layers.

    Raises:
        ValueError: there are none, or alpha or blocks are not known.
    """
    advice = {
        "--alpha": "alpha; give --alpha (of the released files: 32 for GPT-2 and DeBERTa, 16 for RoBERTa)",
        "--enable_lora": "which blocks of its fused layers are adapted; give --enable_lora, such as 1,0,1",
    }
    if not adapter.layers:
        raise ValueError(f"{adapter.path} has no LoRA factors ({adapter.kind})")
    for flag in adapter.unknown:
        raise ValueError(f"{adapter.path} does not say {advice[flag]}")
    for path, layer in adapter.layers.items():
        if isinstance(layer, MergedLinear) and _INTERLEAVED.fullmatch(path):
            raise ValueError(
                f"{adapter.path}: {path} has query, key and value head by head, so blocks do not say where its update "
                "goes; give the folder or file that the GLUE example wrote, which does"
            )
    return adapter.layers


def base_model(folder: Path) -> tuple[Model, dict[str, Any]]:
    files = model_files(folder) if (folder / "config.json").is_file() else []
    if not files:
        raise ValueError(f"{folder} is no folder of a base model, with config.json and model.safetensors or such")
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise ValueError(f"{folder} is quantised; take the model that it was made from, and quantise the result")
    return Model(folder, files), config


def is_quantised(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point or dtype.itemsize < 2


def fitted(adapter: Adapter, model: Model, config: Mapping[str, Any], square: bool = False) -> tuple[Adapter, str]:
    """The adapter under the whole model's names, checked, and the prefix that names in the model's files lack."""
    known = model.where
    wanted = [f"{path}.weight" for path in known_layers(adapter)]
    wanted = [name for name in wanted if name in known or not LM_HEAD.fullmatch(name)]  # a tied head is not stored
    choices = {("", "")}  # what to take from the adapter's names, and what to put before them
    for key in known if wanted else ():
        if key.endswith(f".{wanted[0]}"):
            choices.add(("", key.removesuffix(wanted[0])))
        elif wanted[0].endswith(f".{key}"):
            choices.add((wanted[0].removesuffix(key), ""))
    fits = [(a, b) for a, b in choices if all(x.startswith(a) and b + x.removeprefix(a) in known for x in wanted)]
    fits = [("", "")] if ("", "") in fits else fits
    if len(fits) != 1:
        raise ValueError(
            f"{adapter.path} fits {len(fits)} parts of {model.path}, expected one: {wanted[0]} has {len(choices) - 1} "
            f"counterparts among names such as {next(iter(known))}"
        )
    ((removed, added),), tops = fits, tops_of(adapter)
    if added:
        parts: Any = (adapter.layers, adapter.further, adapter.base)
        parts = ({added * (name.partition(".")[0] in tops) + name: x for name, x in part.items()} for part in parts)
        adapter = replace(adapter, **dict(zip(("layers", "further", "base"), parts)))
    keys = {full_name(removed, key): key for key in known}
    embedding = next((key for key in known if EMBEDDING.fullmatch(key)), "")
    for path, layer in adapter.layers.items():
        key = keys.get(f"{path}.weight", embedding)
        shape, own = tuple(model.meta[key].shape) if key else (), tuple(layer.weight.shape)
        if shape not in (own, own[::-1]) or (isinstance(layer, Embedding) and shape != own):
            raise ValueError(f"{adapter.path}: {path} is an update of {own}, the weight in {model.path} is {shape}")
        dtype = model.meta[key].dtype
        if is_quantised(dtype):
            raise ValueError(f"{model.path} has {path} in {dtype}; take the model before it was quantised")
        transposed = shape != own or (own[0] == own[1] and adapter.settings.get("fan_in_fan_out", square))
        if own[0] == own[1] and config.get("model_type") in _CONV1D_MODELS:
            transposed = path.endswith(CONV1D)
        layer.fan_in_fan_out = transposed  # type: ignore[assignment]
    for name, tensor in adapter.base.items():
        key = keys.get(name, "")
        same = torch.equal(tensor.to(model.meta[key].dtype), model[key]) if key else name.startswith("lm_head.")
        if not same and tensor.is_floating_point():
            raise ValueError(f"{adapter.path} holds other frozen weights than {model.path}, first {name}")
    return adapter, removed


def full_name(removed: str, key: str) -> str:
    """A name in the base's files as the whole model has it; heads stand outside of what the prefix names."""
    return key if LM_HEAD.fullmatch(key) or LABEL_HEAD.fullmatch(key) else removed + key


def tops_of(adapter: Adapter) -> set[str]:
    """First parts of the adapted modules' names: those of the base model, which a head does not have."""
    return {path.partition(".")[0] for path in adapter.layers}


def architecture_of(adapter: Adapter, config: Mapping[str, Any]) -> str:
    """Name of the whole model's class: that of the base, unless the adapter brings a head; empty if not known."""
    names = config.get("architectures") or [""]
    name = str(names[0]) if isinstance(names, list) and re.fullmatch(r"\w+", str(names[0])) else ""
    if any(map(LABEL_HEAD.fullmatch, adapter.further)) and not name.endswith("ForTokenClassification"):
        return re.sub(r"(LMHeadModel|Model|For[A-Z]\w*)$", "", name) + "ForSequenceClassification"
    in_gpt2 = all(path.startswith("transformer.h.") for path in adapter.layers)
    return "GPT2LMHeadModel" if in_gpt2 and name in ("", "GPT2Model") else name


def labels_of(adapter: Adapter, config: Mapping[str, Any] | None = None) -> list[str]:
    """Names of the labels of the adapter's head, none without a head; those of a config if that is given."""
    if config is not None:
        known = config.get("id2label")
        return list(known.values()) if isinstance(known, dict) else ["LABEL_0", "LABEL_1"]
    heads = [t for name, t in adapter.further.items() if LABEL_HEAD.fullmatch(name) and t.ndim == 2]
    labels, n = adapter.settings.get("labels"), len(heads[-1]) if heads else 0
    return list(map(str, labels)) if isinstance(labels, list) and len(labels) == n else [f"LABEL_{i}" for i in range(n)]


def adapts_content_alone(adapter: Adapter, config: Mapping[str, Any]) -> bool:
    """Whether the update is for content only where DeBERTa-v2 sends positions, too, through the adapted projections."""
    adapted = any(SHARED_KEY.fullmatch(f"{path}.weight") for path in adapter.layers)
    return adapted and bool(config.get("share_att_key")) and adapter.kind != PEFT
