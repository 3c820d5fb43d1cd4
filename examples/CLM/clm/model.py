"""Tokenizer and base model: loaded strictly, with an end token, a padding id, and embeddings for added tokens."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from clm.heads import HEAD, classifier_class
from examples.common.errors import UserError


def load_tokenizer(
    name: str, *, eos_token: str | None = None, add_tokens: tuple[str, ...] = (), **hub: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer, which surely has an end token; one without a padding token pads with the end token's id.

    Args:
        eos_token: the end token where it is not, or wrongly, recorded.
        add_tokens: new special tokens.
        **hub: options of ``from_pretrained``.

    Raises:
        UserError: no tokenizer there, no end token, or one that the vocabulary lacks.
    """
    tokenizer: PreTrainedTokenizerBase = _from_pretrained(AutoTokenizer, name, **hub)
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise UserError(f"--eos_token {eos_token}: no token of {name}")
        tokenizer.eos_token = eos_token
    if tokenizer.eos_token is None or tokenizer.eos_token_id is None:
        raise UserError(f"{name}: the tokenizer names no end token; give one of its tokens to --eos_token")
    if add_tokens:
        taken = [token for token in add_tokens if token in tokenizer.get_vocab()]
        if taken:
            raise UserError(f"--add_tokens {taken[0]}: {name} has this token already; leave it out")
        tokenizer.add_special_tokens({"additional_special_tokens": list(add_tokens)})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name: str, **hub: Any) -> PreTrainedConfig:
    """The config of a causal language model; a ``UserError`` where there is none."""
    config: PreTrainedConfig = _from_pretrained(AutoConfig, name, **hub)
    if config.is_encoder_decoder or config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise UserError(f"{name} is a {config.model_type} model, no causal language model; see examples/NLU for BERTs")
    return config


def load_model(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    labels: tuple[str, ...] = (),
    dropout: float = 0.0,
    bias: bool = False,
    dtype: torch.dtype = torch.float32,
    load_in_4bit: bool = False,
    **hub: Any,
) -> PreTrainedModel:
    """A language model, or with ``labels`` a classifier.

    Args:
        dropout, bias: of the classifier's head.
        dtype: of the weights. load_in_4bit: but for embeddings and heads, NF4 instead.
        **hub: options of ``from_pretrained``.

    Raises:
        UserError: no such model, another kind of model, missing weights, no bitsandbytes.
    """
    config = load_config(name, **hub)
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, **hub}
    if load_in_4bit:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError("--load_in_4bit needs the package bitsandbytes: pip install bitsandbytes")
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=[HEAD, "lm_head", "embed_out"],
        )
    factory: Any = AutoModelForCausalLM
    if labels:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        config.problem_type = "single_label_classification"
        config.pad_token_id = tokenizer.pad_token_id
        config.last_token_dropout = dropout
        config.last_token_bias = bias or getattr(config, "last_token_bias", False)
        factory = classifier_class(config)
    model, info = _from_pretrained(factory, name, config=config, **options)
    own = f"{HEAD}." if labels else "\0"
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(own))
    mismatched = [str(key) for key in info["mismatched_keys"]]
    if missing or mismatched:
        first = (missing + mismatched)[0]
        raise UserError(f"{name}: {len(missing) + len(mismatched)} weights are missing or of another shape: {first}")
    if load_in_4bit:
        model._hf_peft_config_loaded = True  # by which transformers knows that adapters, not 4-bit weights, train
    model.config.use_cache = False
    fit_embeddings(model, len(tokenizer))
    return model


@torch.no_grad()
def fit_embeddings(model: PreTrainedModel, n_tokens: int) -> None:
    """Gives added tokens embeddings: the mean of all others, so that no random number decides what a base computes."""
    known = len(embedding_weights(model)[0])
    if n_tokens <= known:
        return
    model.resize_token_embeddings(n_tokens, mean_resizing=False)
    for weight in embedding_weights(model):
        weight[known:] = weight[:known].float().mean(0).to(weight.dtype)


def embedding_weights(model: PreTrainedModel) -> list[nn.Parameter]:
    """The tables (V, D) of input embedding and output layer; one where they are tied or there is no output layer."""
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    return list({id(layer.weight): layer.weight for layer in layers if layer is not None}.values())


def position_limit(model: PreTrainedModel) -> int:
    """Most tokens that the model was built for."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize)


def weight_files(*folders: str | None) -> dict[str, Path]:
    """Local files of weights that a run starts from, by name; none for a model of the hub."""
    return {str(path): path for folder in folders if folder for path in sorted(Path(folder).glob("*.safetensors"))}


def _from_pretrained(factory: Any, name: str, **options: Any) -> Any:
    try:
        return factory.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{name}: {reason}") from None
    except Exception as error:  # safetensors and tokenizers have kinds of their own for damaged files
        if type(error).__name__ != "SafetensorError" and type(error) is not Exception:
            raise
        raise UserError(f"{name}: {error}") from None
