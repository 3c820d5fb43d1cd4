"""Base model, then LoRA or adapters, then trained weights, then what is trainable: one order, always."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from examples.common.errors import UserError, warn
from glue.adapters import add_adapters
from glue.checkpoint import Description, describe, fingerprint, read_trained
from glue.encoders import in_head, last_layer, renew_head, starts_fresh
from glue.flags import ModelArguments
from glue.lora import InterleavedLinear, add_lora
from glue.trainable import ADAPTER, BIAS, HEAD, LORA, mark_trainable
from glue.weights import check_base, load_trained, read_adapter, resolve_lora, resolve_targets


@dataclass
class TaskModel:
    """A model ready for training or evaluation. ``head_is_trained``: its last layer came from a file."""

    model: PreTrainedModel
    description: Description
    tags: tuple[str, ...]
    head_is_trained: bool


def load_tokenizer(args: ModelArguments) -> PreTrainedTokenizerBase:
    """The model's tokenizer; GPT-2, which has no padding token, pads with its end-of-text token."""
    tokenizer: PreTrainedTokenizerBase = _from_hub(
        AutoTokenizer, args.tokenizer_name or args.model_name_or_path, args, use_fast=args.use_fast_tokenizer
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
    return tokenizer


def model_labels(args: ModelArguments) -> dict[str, int] | None:
    """Label names to ids of the given file of trained weights, else of the model; None where neither names them."""
    for path, kinds in ((args.lora_path, (LORA,)), (args.adapter_path, (ADAPTER, BIAS, HEAD))):
        description = describe(path, kinds) if path else None
        if description and description.labels:
            return {label: index for index, label in enumerate(description.labels)}
    config = _from_hub(AutoConfig, args.config_name or args.model_name_or_path, args)
    names: dict[str, int] = config.label2id or {}
    if not isinstance(names, dict) or not all(isinstance(index, int) for index in names.values()):
        raise UserError(
            f"--model_name_or_path {args.model_name_or_path}: label2id of its config names no ids of labels"
        )
    return None if all(name.startswith("LABEL_") for name in names) else names


def weight_files(args: ModelArguments) -> dict[str, Path]:
    """Local files of weights that a run starts from, by flag and name; none for a model of the hub."""
    found = {}
    for flag in ("model_name_or_path", "lora_path", "adapter_path"):
        path = Path(getattr(args, flag) or "")
        files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.bin")]
        found.update({f"{flag} {file.name}": file for file in files} if getattr(args, flag) else {})
    return found


def build_model(
    args: ModelArguments,
    *,
    task: str | None,
    labels: tuple[str, ...],
    cls_dropout: float | None,
    pad_token_id: int | None,
) -> TaskModel:
    """Builds the model that the flags describe.

    Args:
        labels: names by id; empty for regression.
        cls_dropout: DeBERTa's dropout before the classifier; None: the model's ``hidden_dropout_prob``.
        pad_token_id: set where the model's config has none.

    Raises:
        UserError: a model, file or combination that does not work.
    """
    model, head_is_trained = _load_base(args, labels, cls_dropout, pad_token_id)
    base, base_fingerprint = args.model_name_or_path, fingerprint(model)
    kinds = {LORA: args.apply_lora, ADAPTER: args.apply_adapter, BIAS: args.apply_bitfit, HEAD: args.train_head_only}
    tags = tuple(tag for tag, on in kinds.items() if on)
    if tags:
        last_layer(model)  # refuses a model whose head cannot be told
    r, alpha = 0, 0.0
    targets: tuple[str, ...] = ()
    file = None
    if args.apply_lora:
        file = read_trained(args.lora_path, (LORA,)) if args.lora_path else None
        r, alpha = resolve_lora(file, args.lora_r, args.lora_alpha)
        if file is not None:
            check_base(file, base, base_fingerprint)
        chosen = resolve_targets(file, args.lora_targets, model.config.model_type)
        targets = add_lora(model, r=r, lora_alpha=alpha, targets=chosen)
    if args.apply_adapter:
        add_adapters(model, adapter_type=args.adapter_type, adapter_size=args.adapter_size)
    if file is not None:
        head_is_trained = load_trained(model, file.tensors, tags=(LORA,), source=str(file.path))
    if args.adapter_path:
        file = read_adapter(args.adapter_path, task)
        check_base(file, base, base_fingerprint)
        needed = next(tag for tag in (ADAPTER, BIAS, HEAD) if tag in tags)
        head_is_trained = load_trained(model, file.tensors, tags=(needed,), source=str(file.path))
    mark_trainable(model, tags)
    # its loss is a batch mean, whatever its signature suggests to the Trainer
    model.accepts_loss_kwargs = False  # type: ignore[assignment]
    description = Description(
        method="+".join(tags) or "full",
        base=base,
        base_fingerprint=base_fingerprint,
        r=r,
        lora_alpha=alpha,
        targets=targets,
        num_heads=next((m.num_heads for m in model.modules() if isinstance(m, InterleavedLinear)), 0),
        adapter_type=args.adapter_type if args.apply_adapter else "",
        adapter_size=args.adapter_size if args.apply_adapter else 0,
        task=task,
        labels=labels,
    )
    return TaskModel(model, description, tags, head_is_trained)


def _load_base(
    args: ModelArguments, labels: tuple[str, ...], cls_dropout: float | None, pad_token_id: int | None
) -> tuple[PreTrainedModel, bool]:
    """The plain base model, and whether its head was in the file."""
    name = args.model_name_or_path
    config = _from_hub(AutoConfig, args.config_name or name, args)
    config.num_labels = len(labels) or 1
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if labels else "regression"
    if cls_dropout is not None:
        if config.model_type not in ("deberta", "deberta-v2"):
            raise UserError(f"--cls_dropout is DeBERTa's; this model is {config.model_type}")
        config.cls_dropout = cls_dropout
    if config.pad_token_id is None:
        config.pad_token_id = pad_token_id
    model, info = _from_hub(
        AutoModelForSequenceClassification,
        name,
        args,
        config=config,
        dtype=torch.float32,  # published half-precision weights still train in float32
        ignore_mismatched_sizes=True,  # a head for other labels; its rules follow
        output_loading_info=True,
    )
    _check_loading(model, info, name)
    head_is_trained = not any(in_head(model, key) for key in info["missing_keys"])
    if info["mismatched_keys"]:
        head_is_trained = False
        renew_head(model)
        warn(f"{name}: its head is for other labels; {starts_fresh(model)}.* starts fresh")
    return model, head_is_trained


def position_limit(model: PreTrainedModel) -> int:
    """Most tokens that the model has position embeddings for; RoBERTa's kind counts from its padding id on."""
    config = model.config
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or not getattr(config, "position_biased_input", True):
        return sys.maxsize  # relative positions only
    tables = (module for name, module in model.named_modules() if name.endswith("embeddings.position_embeddings"))
    padding = getattr(next(tables, None), "padding_idx", None)
    return int(limit) if padding is None else int(limit) - padding - 1


def _check_loading(model: PreTrainedModel, info: dict[str, set[str]], name: str) -> None:
    base = f"{model.base_model_prefix}."
    foreign = sorted(key for key in info["unexpected_keys"] if "lora_" in key or "adapter" in key)
    if foreign:
        raise UserError(
            f"{name} holds {foreign[0]} and would lose it; give the plain base to --model_name_or_path "
            "and the trained part (cut out by utils/split_lora.py) to --lora_path or --adapter_path"
        )
    missing = sorted(key for key in info["missing_keys"] if not in_head(model, key))
    if missing:
        raise UserError(f"{name}: {len(missing)} weights of the base model are missing, first {missing[0]}")
    wrong = sorted(
        str(key) for key in info["mismatched_keys"] if str(key if isinstance(key, str) else key[0]).startswith(base)
    )
    if wrong:
        raise UserError(f"{name}: shapes of its weights do not fit its config: {wrong[0]}")


def _from_hub(factory: object, name: str, args: ModelArguments, **options: object):  # type: ignore[no-untyped-def]
    try:
        return factory.from_pretrained(  # type: ignore[attr-defined]
            name, cache_dir=args.cache_dir, revision=args.model_revision, token=args.use_auth_token or None, **options
        )
    except Exception as error:  # a damaged file raises whatever its content happens to call for
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"--model_name_or_path {name}: {reason}") from None
