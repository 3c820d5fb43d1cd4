"""Turns trained weights into what others open: a PEFT folder, or a plain model with the update in its weights."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.checkpoint import save_adapter
from loralib.embedding import Embedding
from loralib.files.folder import is_running
from loralib.files.reading import CONFIG, MASK, PEFT, Adapter, Model, canonical, model_files, read_json
from loralib.linear import MergedLinear

# kinds of transformers' models with projections stored (in, out), and the names of these
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
_EMBEDDING = re.compile(r"(.*\.)?(wte|embed_tokens|word_embeddings|embed_in|tok_embeddings|shared)\.weight")
_LM_HEAD = re.compile(r"(.*\.)?(lm_head|embed_out)\.weight")
_LABEL_HEAD = re.compile(r"(classifier|score)\..*")
_SHARED_KEY = re.compile(r"(deberta\..*attention\.self)\.(query|key)_proj\.(weight|bias)")
_INTERLEAVED = re.compile(r"deberta\..*\.in_proj")
_NOT_COPIED = re.compile(
    r"\..*|README\.md|(adapter_)?config\.json|.*\.(safetensors|bin|pth?|h5|msgpack|ot|onnx|gguf|index\.json)"
)


@dataclass(frozen=True)
class _Job:
    """A tensor of the new model: shape and dtype, the file of the base that it goes with, and how to compute it."""

    meta: Tensor
    file: Path
    compute: Callable[[], Tensor]


def export(adapter: Adapter, base: str, out: Path, *, fan_in_fan_out: bool = False) -> list[str]:
    """Writes a PEFT folder from a checkpoint in another layout.

    Args:
        base: folder of the base model, against which all is checked, or its name on the hub, which is only noted.
        fan_in_fan_out: square weights of a base of no known kind are stored (in, out).

    Returns:
        What the user should know beside, a sentence each.

    Raises:
        ValueError: unknown alpha or blocks; not of this base; something that PEFT's format has no form for.
    """
    if adapter.kind == PEFT:
        raise ValueError(f"{adapter.path} is a PEFT folder already; its {CONFIG} names the base model")
    config: dict[str, Any] = {}
    notes, names = [], [f"{path}.weight" for path in known_layers(adapter)]
    if Path(base).is_dir():
        model, config = _base_model(Path(base))
        adapter, removed = _fitted(adapter, model, config, fan_in_fan_out)
        names = [_full(removed, key) for key in model.where]
    elif base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ValueError(f"--base {base} is no folder")
    else:
        for path, layer in adapter.layers.items():
            in_gpt2 = path.startswith("transformer.h.") and path.endswith(_CONV1D)
            layer.fan_in_fan_out = fan_in_fan_out or in_gpt2  # type: ignore[assignment]
        unknown = "" if _architecture(adapter, config) else "; AutoPeftModel cannot open it, PeftModel can"
        notes = [f"{base} is no folder, so nothing was compared with it{unknown}"]
    if _adapts_content_alone(adapter, config or {"share_att_key": True}):
        raise ValueError(
            f"{adapter.path} adapts projections that DeBERTa-v2 shares between content and positions, for the content "
            "alone; PEFT would adapt both. Use merge, which parts them"
        )
    if (n := len(_labels(adapter))) and config and n != len(_labels(adapter, config)):
        notes.append(f"the head has {n} labels, {base} has not: open the folder with num_labels={n}")
    skeleton, bias, heads = _skeleton(adapter, names, config, base)
    with _new_folder(out) as folder:
        save_adapter(skeleton, folder, bias=bias, modules_to_save=heads)
    return notes


def merge(base: Path, adapter: Adapter, out: Path) -> None:
    """Writes a plain model: the base with the update, biases and heads of an adapter, file by file.

    Sums are in float32 or wider and rounded once to the dtype of the base. Embeddings that are tied to the output layer
    part from it where only one of the two was trained, and DeBERTa-v2's positions get projections of their own.

    Raises:
        ValueError: not of this base; a quantised base; NaN or infinite values in a merged tensor.
    """
    model, config = _base_model(base)
    adapter, removed = _fitted(adapter, model, config)
    jobs = {
        _full(removed, key): _Job(model.meta[key], file, partial(model.__getitem__, key))
        for key, file in model.where.items()
    }
    _untie(jobs, adapter, config)
    if _adapts_content_alone(adapter, config):
        config["share_att_key"] = False
        for match in [match for name in jobs if (match := _SHARED_KEY.fullmatch(name))]:
            jobs[f"{match[1]}.pos_{match[2]}_proj.{match[3]}"] = jobs[match[0]]
    first = jobs[f"{next(iter(adapter.layers))}.weight"]
    for name, tensor in adapter.further.items():
        job = jobs.get(name, replace(first, file=model.files[-1]))
        if name.partition(".")[0] in _tops(adapter) and (name not in jobs or job.meta.shape != tensor.shape):
            raise ValueError(f"{adapter.path}: {name} of shape {tuple(tensor.shape)} has no place in {base}")
        meta = torch.empty_like(tensor, dtype=job.meta.dtype, device="meta")
        jobs[name] = _Job(meta, job.file, partial(_finite, name, tensor, meta.dtype))
    for path, layer in adapter.layers.items():
        job = jobs[f"{path}.weight"]
        jobs[f"{path}.weight"] = replace(job, compute=partial(_merged, path, layer, job.compute))
    labels, old = _labels(adapter), _labels(adapter, config)
    if labels and labels != old and (len(labels) != len(old) or "labels" in adapter.settings):
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        config["problem_type"] = "regression" if len(labels) == 1 else "single_label_classification"
    if architecture := _architecture(adapter, config):
        config["architectures"] = [architecture]
    _write_model(out, base, model, jobs, config)


def replace_weights(base: Path, weights: Model, out: Path) -> None:
    """Writes a plain model: a base's folder with the weights of a file that has all, as after full fine-tuning.

    Raises:
        ValueError: a weight that one of the two lacks, or of another shape; a quantised base; NaN or infinite values.
    """
    model, config = _base_model(base)
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
        if weights.meta[given[name]].is_floating_point() and _is_quantised(model.meta[key].dtype):
            raise ValueError(f"{base} has {name} in {model.meta[key].dtype}; take the model before it was quantised")
        take = partial(_taken, name, weights, given[name], model.meta[key].dtype)
        jobs[key] = replace(jobs[key], compute=take)
    _write_model(out, base, model, jobs, config)


# --- adapter and base ------------------------------------------------------------------------------------------------


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


def _base_model(folder: Path) -> tuple[Model, dict[str, Any]]:
    files = model_files(folder) if (folder / "config.json").is_file() else []
    if not files:
        raise ValueError(f"{folder} is no folder of a base model, with config.json and model.safetensors or such")
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise ValueError(f"{folder} is quantised; take the model that it was made from, and quantise the result")
    return Model(folder, files), config


def _is_quantised(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point or dtype.itemsize < 2


def _fitted(adapter: Adapter, model: Model, config: Mapping[str, Any], square: bool = False) -> tuple[Adapter, str]:
    """The adapter under the whole model's names, checked, and the prefix that names in the model's files lack."""
    known = model.where
    wanted = [f"{path}.weight" for path in known_layers(adapter)]
    wanted = [name for name in wanted if name in known or not _LM_HEAD.fullmatch(name)]  # a tied head is not stored
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
    ((removed, added),), tops = fits, _tops(adapter)
    if added:
        parts: Any = (adapter.layers, adapter.further, adapter.base)
        parts = ({added * (name.partition(".")[0] in tops) + name: x for name, x in part.items()} for part in parts)
        adapter = replace(adapter, **dict(zip(("layers", "further", "base"), parts)))
    keys = {_full(removed, key): key for key in known}
    embedding = next((key for key in known if _EMBEDDING.fullmatch(key)), "")
    for path, layer in adapter.layers.items():
        key = keys.get(f"{path}.weight", embedding)
        shape, own = tuple(model.meta[key].shape) if key else (), tuple(layer.weight.shape)
        if shape not in (own, own[::-1]) or (isinstance(layer, Embedding) and shape != own):
            raise ValueError(f"{adapter.path}: {path} is an update of {own}, the weight in {model.path} is {shape}")
        dtype = model.meta[key].dtype
        if _is_quantised(dtype):
            raise ValueError(f"{model.path} has {path} in {dtype}; take the model before it was quantised")
        transposed = shape != own or (own[0] == own[1] and adapter.settings.get("fan_in_fan_out", square))
        if own[0] == own[1] and config.get("model_type") in _CONV1D_MODELS:
            transposed = path.endswith(_CONV1D)
        layer.fan_in_fan_out = transposed  # type: ignore[assignment]
    for name, tensor in adapter.base.items():
        key = keys.get(name, "")
        same = torch.equal(tensor.to(model.meta[key].dtype), model[key]) if key else name.startswith("lm_head.")
        if not same and tensor.is_floating_point():
            raise ValueError(f"{adapter.path} holds other frozen weights than {model.path}, first {name}")
    return adapter, removed


def _full(removed: str, key: str) -> str:
    """A name in the base's files as the whole model has it; heads stand outside of what the prefix names."""
    return key if _LM_HEAD.fullmatch(key) or _LABEL_HEAD.fullmatch(key) else removed + key


def _tops(adapter: Adapter) -> set[str]:
    """First parts of the adapted modules' names: those of the base model, which a head does not have."""
    return {path.partition(".")[0] for path in adapter.layers}


def _architecture(adapter: Adapter, config: Mapping[str, Any]) -> str:
    """Name of the whole model's class: that of the base, unless the adapter brings a head; empty if not known."""
    names = config.get("architectures") or [""]
    name = str(names[0]) if isinstance(names, list) and re.fullmatch(r"\w+", str(names[0])) else ""
    if any(map(_LABEL_HEAD.fullmatch, adapter.further)) and not name.endswith("ForTokenClassification"):
        return re.sub(r"(LMHeadModel|Model|For[A-Z]\w*)$", "", name) + "ForSequenceClassification"
    in_gpt2 = all(path.startswith("transformer.h.") for path in adapter.layers)
    return "GPT2LMHeadModel" if in_gpt2 and name in ("", "GPT2Model") else name


def _labels(adapter: Adapter, config: Mapping[str, Any] | None = None) -> list[str]:
    """Names of the labels of the adapter's head, none without a head; those of a config if that is given."""
    if config is not None:
        known = config.get("id2label")
        return list(known.values()) if isinstance(known, dict) else ["LABEL_0", "LABEL_1"]
    heads = [t for name, t in adapter.further.items() if _LABEL_HEAD.fullmatch(name) and t.ndim == 2]
    labels, n = adapter.settings.get("labels"), len(heads[-1]) if heads else 0
    return list(map(str, labels)) if isinstance(labels, list) and len(labels) == n else [f"LABEL_{i}" for i in range(n)]


def _adapts_content_alone(adapter: Adapter, config: Mapping[str, Any]) -> bool:
    """Whether the update is for content only where DeBERTa-v2 sends positions, too, through the adapted projections."""
    adapted = any(_SHARED_KEY.fullmatch(f"{path}.weight") for path in adapter.layers)
    return adapted and bool(config.get("share_att_key")) and adapter.kind != PEFT


def _skeleton(
    adapter: Adapter, names: list[str], config: Mapping[str, Any], base: str
) -> tuple[nn.Module, str, list[str]]:
    """For ``save_adapter``: a model of empty modules but for what the adapter has; which biases; and which heads."""
    kind: dict[str, Any] = {"__module__": "transformers", "main_input_name": "input_ids", "name_or_path": base}
    kind["config"] = SimpleNamespace(is_encoder_decoder=config.get("is_encoder_decoder", False))
    model = type(_architecture(adapter, config) or "PreTrainedModel", (nn.Module,), kind)()
    tops, biases, heads = _tops(adapter), set[str](), set[str]()

    def put(path: str, new: nn.Module | None = None) -> nn.Module:
        parent, _, last = path.rpartition(".")
        module = put(parent) if parent else model
        if new is not None or last not in dict(module.named_children()):
            module.add_module(last, new or nn.Module())
        return module.get_submodule(last)

    try:
        for name in names:
            put(name.rpartition(".")[0])
        for path, layer in adapter.layers.items():
            put(path, layer)
        for name, tensor in adapter.further.items():
            path, _, last = name.rpartition(".")
            top, _, inside = path.partition(".")
            pooled = top in tops and inside.partition(".")[0] == "pooler"  # of the base model, but a part of the head
            (biases if top in tops and not pooled else heads).add(inside if pooled else path)
            if not path or (path in biases and last != "bias"):
                raise ValueError(f"PEFT's format has no place for {name}, which was trained beside LoRA")
            setattr(put(path), last, nn.Parameter(tensor, requires_grad=False))
    except (KeyError, ValueError) as error:  # torch refuses names such as "forward" or ""
        raise ValueError(f"{adapter.path}: {error.args[0]}") from None
    bias = "none" if not biases else "lora_only" if biases <= adapter.layers.keys() else "all"
    return model, bias, sorted({path.partition(".")[0] for path in heads})


# --- merging ---------------------------------------------------------------------------------------------------------


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
    embeddings = [name for name in jobs if _EMBEDDING.fullmatch(name)]
    head = next((name for name in (*jobs, *changed) if _LM_HEAD.fullmatch(name)), "lm_head.weight")
    changed &= {*embeddings, head}
    architecture = _architecture(adapter, config)
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
    with _new_folder(out) as folder:
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


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends without an error; before that it is a hidden ``.partial`` one.

    Those of killed processes are removed.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder; choose another --out")
    parent = path.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{glob.escape(path.name)}.*.*.partial"):
        if not is_running(left.name.split(".")[-3]):
            shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".partial", dir=parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
