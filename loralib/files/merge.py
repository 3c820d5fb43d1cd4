"""Turns trained weights into a plain model: a base's folder with the update, or with all weights of a checkpoint."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.files.folder import new_folder
from loralib.files.pairing import (
    EMBEDDING,
    LM_HEAD,
    SHARED_KEY,
    adapts_content_alone,
    architecture_of,
    base_model,
    fitted,
    full_name,
    is_quantised,
    labels_of,
    tops_of,
)
from loralib.files.reading import MASK, Adapter, Model, canonical

_NOT_COPIED = re.compile(
    r"\..*|README\.md|(adapter_)?config\.json|.*\.(safetensors|bin|pth?|h5|msgpack|ot|onnx|gguf|index\.json)"
)


@dataclass(frozen=True)
class _Job:
    """A tensor of the new model: shape and dtype, the file of the base that it goes with, and how to compute it."""

    meta: Tensor
    file: Path
    compute: Callable[[], Tensor]


def merge(base: Path, adapter: Adapter, out: Path) -> None:
    """Writes a plain model: the base with the update, biases and heads of an adapter, file by file.

    Sums are in float32 or wider and rounded once to the dtype of the base. Embeddings that are tied to the output layer
    part from it where only one of the two was trained, and DeBERTa-v2's positions get projections of their own.

    Raises:
        ValueError: not of this base; a quantised base; NaN or infinite values in a merged tensor.
    """
    model, config = base_model(base)
    adapter, removed = fitted(adapter, model, config)
    jobs = {
        full_name(removed, key): _Job(model.meta[key], file, partial(model.__getitem__, key))
        for key, file in model.where.items()
    }
    _untie(jobs, adapter, config)
    if adapts_content_alone(adapter, config):
        config["share_att_key"] = False
        for match in [match for name in jobs if (match := SHARED_KEY.fullmatch(name))]:
            jobs[f"{match[1]}.pos_{match[2]}_proj.{match[3]}"] = jobs[match[0]]
    first = jobs[f"{next(iter(adapter.layers))}.weight"]
    for name, tensor in adapter.further.items():
        job = jobs.get(name, replace(first, file=model.files[-1]))
        if name.partition(".")[0] in tops_of(adapter) and (name not in jobs or job.meta.shape != tensor.shape):
            raise ValueError(f"{adapter.path}: {name} of shape {tuple(tensor.shape)} has no place in {base}")
        meta = torch.empty_like(tensor, dtype=job.meta.dtype, device="meta")
        jobs[name] = _Job(meta, job.file, partial(_finite, name, tensor, meta.dtype))
    for path, layer in adapter.layers.items():
        job = jobs[f"{path}.weight"]
        jobs[f"{path}.weight"] = replace(job, compute=partial(_merged, path, layer, job.compute))
    labels, old = labels_of(adapter), labels_of(adapter, config)
    if labels and labels != old and (len(labels) != len(old) or "labels" in adapter.settings):
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        config["problem_type"] = "regression" if len(labels) == 1 else "single_label_classification"
    if architecture := architecture_of(adapter, config):
        config["architectures"] = [architecture]
    _write_model(out, base, model, jobs, config)


def replace_weights(base: Path, weights: Model, out: Path) -> None:
    """Writes a plain model: a base's folder with the weights of a file that has all, as after full fine-tuning.

    Raises:
        ValueError: a weight that one of the two lacks, or of another shape; a quantised base; NaN or infinite values.
    """
    model, config = base_model(base)
    names = (zip(canonical(x.path, x.meta), x.where) for x in (model, weights))
    own, given = ({name: key for name, key in pairs if not MASK.fullmatch(name)} for pairs in names)
    for name in [name for name in given.keys() - own.keys() if name.startswith("lm_head.")]:
        table = given.get("transformer.wte.weight")
        if table is None or not torch.equal(weights[given.pop(name)], weights[table]):
            raise ValueError(f"{weights.path}: {name} is not the embedding, to which {base} ties it")
    if odd := sorted(own.keys() ^ given.keys()):
        where = base if odd[0] in own else weights.path
        raise ValueError(
            f"{weights.path} is a plain model without LoRA factors, and not one like {base}: only {where} has {odd[0]}"
        )
    jobs = {key: _Job(model.meta[key], file, partial(model.__getitem__, key)) for key, file in model.where.items()}
    for name, key in own.items():
        shapes = tuple(weights.meta[given[name]].shape), tuple(model.meta[key].shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"{weights.path}: {name} has shape {shapes[0]}, in {base} {shapes[1]}")
        if weights.meta[given[name]].is_floating_point() and is_quantised(model.meta[key].dtype):
            raise ValueError(f"{base} has {name} in {model.meta[key].dtype}; take the model before it was quantised")
        take = partial(_taken, name, weights, given[name], model.meta[key].dtype)
        jobs[key] = replace(jobs[key], compute=take)
    _write_model(out, base, model, jobs, config)


def _merged(path: str, layer: LoRALayer, compute: Callable[[], Tensor]) -> Tensor:
    meta, weight = layer.weight, compute()
    layer.weight = nn.Parameter(weight, requires_grad=False)
    try:
        return _finite(f"{path}.weight", layer.merged_weight, weight.dtype)
    finally:
        layer.weight = meta  # lets the base's file go


def _taken(name: str, weights: Model, key: str, dtype: torch.dtype) -> Tensor:
    return _finite(name, weights[key], dtype)


def _finite(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = tensor.to(dtype)
    if not rounded.isfinite().all():
        raise ValueError(f"{name} has NaN or infinite values once merged in {dtype}; nothing was written")
    return rounded


def _untie(jobs: dict[str, _Job], adapter: Adapter, config: dict[str, Any]) -> None:
    """Gives a tied output layer its own weight where the adapter changes it or the embedding."""
    changed = {*adapter.further, *(f"{path}.weight" for path in adapter.layers)}
    embeddings = [name for name in jobs if EMBEDDING.fullmatch(name)]
    head = next((name for name in (*jobs, *changed) if LM_HEAD.fullmatch(name)), "lm_head.weight")
    changed &= {*embeddings, head}
    architecture = architecture_of(adapter, config)
    if not changed or config.get("tie_word_embeddings") is False or architecture.endswith("Classification"):
        return
    if not architecture.endswith(("CausalLM", "LMHeadModel")) or len(embeddings) != 1:
        raise ValueError(
            f"{adapter.path} changes {min(changed)}, which other layers may share; save the base untied first, with "
            "tie_word_embeddings false"
        )
    if head not in jobs or config.get("tie_word_embeddings"):
        jobs[head] = jobs[embeddings[0]]
    config["tie_word_embeddings"] = False


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_model(out: Path, base: Path, model: Model, jobs: dict[str, _Job], config: dict[str, Any]) -> None:
    """A folder with these tensors, the base's small files and this config."""
    with new_folder(out) as folder:
        n, weight_map = len(model.files), dict[str, str]()
        for i, file in enumerate(model.files, start=1):
            written = folder / ("model.safetensors" if n == 1 else f"model-{i:05d}-of-{n:05d}.safetensors")
            _write_safetensors(written, {name: job for name, job in jobs.items() if job.file == file})
            weight_map |= {name: written.name for name, job in jobs.items() if job.file == file}
        if n > 1:
            size = {"total_size": sum(job.meta.nbytes for job in jobs.values())}
            _write_json(folder / "model.safetensors.index.json", {"metadata": size, "weight_map": weight_map})
        for file in base.iterdir():
            if file.is_file() and not _NOT_COPIED.fullmatch(file.name):
                shutil.copyfile(file, folder / file.name)
        _write_json(folder / "config.json", config)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_safetensors(path: Path, jobs: Mapping[str, _Job]) -> None:
    """Writes a safetensors file with one tensor at a time in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, job in jobs.items():
        dtype = (
            str(job.meta.dtype).removeprefix("torch.").replace("uint", "u").replace("float", "f").replace("int", "i")
        )
        start, end = end, end + job.meta.nbytes
        header[name] = {
            "dtype": dtype.removesuffix("fn").upper(),  # "BF16", "I64", "F8_E4M3"
            "shape": list(job.meta.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for job in jobs.values():
            tensor = job.compute().contiguous()
            stream.write((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))
            del tensor  # before the next one is computed
        stream.flush()
        os.fsync(stream.fileno())
