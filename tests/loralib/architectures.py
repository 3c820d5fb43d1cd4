"""Tiny models of transformers' architectures with random weights, and the layers of each that LoRA adapts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

VOCABULARY = 99
IDS = torch.tensor([[3, 1, 4, 15, 9, 26, 5, 35], [2, 71, 8, 28, 18, 2, 84, 5]])
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """One row of the comparison with PEFT.

    Attributes:
        model: name of a class of transformers.
        targets: what gets LoRA; the query and value projections or, where these are fused, the fused one.
        sizes: what the config is made with.
        inputs: arguments of a forward pass.
        fan_in_fan_out: what PEFT needs to be told of transformers' ``Conv1D``.
        generates: whether the model has a ``generate``.
        fused: arguments of ``apply_lora`` for LoRA on blocks of a fused projection.
        tied: whether a target's weight is also that of the output head.
    """

    model: str
    targets: Sequence[str]
    sizes: Mapping[str, Any]
    inputs: Callable[[], Inputs] = field(default=lambda: {"input_ids": IDS})
    fan_in_fan_out: bool = False
    generates: bool = False
    fused: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False


def decoder_inputs() -> Inputs:
    return {"input_ids": IDS, "decoder_input_ids": IDS[:, :6].flip(0)}


def pictures() -> Inputs:
    return {"pixel_values": _noise(2, 3, 8, 8)}


def pictures_and_texts() -> Inputs:
    return {"input_ids": IDS, "pixel_values": _noise(2, 3, 8, 8)}


def spectrograms() -> Inputs:
    return {"input_features": _noise(2, 8, 32), "decoder_input_ids": IDS[:, :6]}


def waves() -> Inputs:
    return {"input_values": _noise(2, 160)}


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# sizes under the names that most configs use
HEADS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MLP = HEADS | {"intermediate_size": 40}
ENCODER = MLP | {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": 0}
DECODER = MLP | TOKENS | {"vocab_size": VOCABULARY, "max_position_embeddings": 32}
GROUPED = DECODER | {"num_key_value_heads": 2, "head_dim": 8}
GPT = TOKENS | {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
SEQ2SEQ = TOKENS | {
    **{"vocab_size": VOCABULARY, "d_model": 32, "max_position_embeddings": 32, "decoder_start_token_id": 1},
    **{f"{side}_{size}": n for side in ("encoder", "decoder") for size, n in
       {"layers": 2, "attention_heads": 4, "ffn_dim": 40}.items()},
}  # fmt: skip
T5 = TOKENS | {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4,
               "decoder_start_token_id": 1}  # fmt: skip
PATCHES = MLP | {"image_size": 8, "patch_size": 4}


def _lm(model: str, targets: Sequence[str], sizes: Mapping[str, Any], **kwargs: Any) -> Architecture:
    return Architecture(model, targets, sizes, generates=True, **kwargs)


def _seq2seq(model: str, targets: Sequence[str], sizes: Mapping[str, Any], **kwargs: Any) -> Architecture:
    return _lm(model, targets, sizes, inputs=decoder_inputs, **kwargs)


Q_V = ["q_proj", "v_proj"]
QUERY_VALUE = ["query", "value"]
DEBERTA = ENCODER | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}

ARCHITECTURES: dict[str, Architecture] = {
    # decoders
    "GPT-2": _lm("GPT2LMHeadModel", ["c_attn"], GPT, fan_in_fan_out=True),
    "GPT-Neo": _lm("GPTNeoForCausalLM", Q_V, TOKENS | {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 40,
        "max_position_embeddings": 32, "window_size": 4, "attention_types": [[["global", "local"], 1]],
    }),
    "GPT-J": _lm("GPTJForCausalLM", Q_V, GPT | {"rotary_dim": 4}),
    "GPT-NeoX": _lm("GPTNeoXForCausalLM", ["query_key_value"], DECODER),
    "OPT": _lm("OPTForCausalLM", Q_V, TOKENS | HEADS | {
        "vocab_size": VOCABULARY, "ffn_dim": 40, "max_position_embeddings": 32, "word_embed_proj_dim": 32,
    }),
    "BLOOM": _lm("BloomForCausalLM", ["query_key_value"], TOKENS | {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4,
    }),
    "Llama": _lm("LlamaForCausalLM", Q_V, GROUPED),
    "Mistral": _lm("MistralForCausalLM", Q_V, GROUPED | {"sliding_window": 4}),
    "Mixtral": _lm("MixtralForCausalLM", Q_V, GROUPED | {"num_local_experts": 3, "num_experts_per_tok": 2,
                                                           "experts_implementation": "eager"}),
    "Qwen2": _lm("Qwen2ForCausalLM", Q_V, GROUPED),
    "Qwen3": _lm("Qwen3ForCausalLM", Q_V, GROUPED),
    "Gemma": _lm("GemmaForCausalLM", Q_V, GROUPED),
    "Gemma-2": _lm("Gemma2ForCausalLM", Q_V, GROUPED | {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    "Phi": _lm("PhiForCausalLM", Q_V, DECODER),
    "Phi-3": _lm("Phi3ForCausalLM", ["qkv_proj"], DECODER | {"num_key_value_heads": 2}),
    "Falcon": _lm(
        "FalconForCausalLM", ["query_key_value"], TOKENS | HEADS | {"vocab_size": VOCABULARY}
    ),
    "StableLM": _lm("StableLmForCausalLM", Q_V, DECODER | {"num_key_value_heads": 2}),
    "OLMo": _lm("OlmoForCausalLM", Q_V, GROUPED),
    "Granite": _lm("GraniteForCausalLM", Q_V, GROUPED),
    "Mamba": _lm("MambaForCausalLM", ["in_proj", "x_proj"], TOKENS | {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4,
    }),
    "RWKV": _lm("RwkvForCausalLM", ["key", "value", "receptance"], TOKENS | {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 32,
    }),
    "Mamba-2": _lm("Mamba2ForCausalLM", ["in_proj"], TOKENS | {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "head_dim": 8,
        "num_heads": 8, "n_groups": 2, "chunk_size": 4,
    }),
    "GPT-BigCode": _lm("GPTBigCodeForCausalLM", ["c_attn"], GPT),
    "Gemma-3": _lm("Gemma3ForCausalLM", Q_V, GROUPED | {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    # encoders
    "ModernBERT": Architecture("ModernBertForMaskedLM", ["Wqkv"], ENCODER | {
        "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
    }),
    "BERT": Architecture("BertForSequenceClassification", QUERY_VALUE, ENCODER),
    "RoBERTa": Architecture("RobertaForMaskedLM", QUERY_VALUE, ENCODER),
    "DistilBERT": Architecture("DistilBertForMaskedLM", ["q_lin", "v_lin"], {
        "vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40,
        "max_position_embeddings": 32, "pad_token_id": 0,
    }),
    "ALBERT": Architecture("AlbertForMaskedLM", QUERY_VALUE, ENCODER | {"embedding_size": 16}),
    "ELECTRA": Architecture("ElectraForMaskedLM", QUERY_VALUE, ENCODER | {"embedding_size": 16}),
    "DeBERTa": Architecture("DebertaForMaskedLM", ["in_proj"], DEBERTA),
    "DeBERTa-v2": Architecture("DebertaV2ForMaskedLM", ["query_proj", "value_proj"], DEBERTA | {
        "share_att_key": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm",
    }),
    # encoder-decoders
    "T5": _seq2seq("T5ForConditionalGeneration", ["q", "v"], T5),
    "Switch Transformers": _seq2seq("SwitchTransformersForConditionalGeneration", ["q", "v", "wi", "wo"], T5 | {
        "num_decoder_layers": 2, "num_experts": 3, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
        "expert_capacity": 16, "router_jitter_noise": 0.0,
    }),
    "BART": _seq2seq("BartForConditionalGeneration", Q_V, SEQ2SEQ),
    "mBART": _seq2seq("MBartForConditionalGeneration", Q_V, SEQ2SEQ),
    "Pegasus": _seq2seq("PegasusForConditionalGeneration", Q_V, SEQ2SEQ),
    "Whisper": _lm("WhisperForConditionalGeneration", Q_V, SEQ2SEQ | {
        "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32,
    }, inputs=spectrograms),
    # pictures and sound
    "ViT": Architecture("ViTForImageClassification", ["q_proj", "v_proj"], PATCHES, pictures),
    "CLIP": Architecture("CLIPModel", Q_V, {
        "text_config": MLP | TOKENS | {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "eos_token_id": 5},
        "vision_config": PATCHES, "projection_dim": 16,
    }, pictures_and_texts),
    "Wav2Vec2": Architecture("Wav2Vec2ForCTC", Q_V, MLP | {
        "vocab_size": 32, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3],
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False,
    }, waves),
}  # fmt: skip


QUERY_AND_VALUE = [True, False, True]  # of a fused projection
VARIANTS = {
    "GPT-2, blocks": replace(ARCHITECTURES["GPT-2"], fused={"enable_lora": QUERY_AND_VALUE}),
    "ModernBERT, blocks": replace(ARCHITECTURES["ModernBERT"], fused={"enable_lora": QUERY_AND_VALUE}),
    "Phi-3, blocks": replace(
        ARCHITECTURES["Phi-3"], fused={"enable_lora": QUERY_AND_VALUE, "block_sizes": [32, 16, 16]}
    ),
    "GPT-BigCode, blocks": replace(
        ARCHITECTURES["GPT-BigCode"], fused={"enable_lora": QUERY_AND_VALUE, "block_sizes": [32, 8, 8]}
    ),
    "GPT-2, embedding": replace(ARCHITECTURES["GPT-2"], targets=["wte"], tied=True),
    "Gemma-2, embedding": replace(ARCHITECTURES["Gemma-2"], targets=["embed_tokens"], tied=True),
    "BERT, embedding": replace(ARCHITECTURES["BERT"], targets=["word_embeddings"]),
}
ROWS = ARCHITECTURES | VARIANTS


@cache
def _built(name: str) -> Any:
    import transformers

    row = ROWS[name]
    cls = getattr(transformers, row.model)
    config = cls.config_class(**row.sizes)
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))):
        for key, value in vars(part).items():
            if "drop" in key and isinstance(value, float):
                setattr(part, key, 0.0)
    torch.manual_seed(0)
    return cls(config).double().eval()


def base(name: str) -> Any:
    """A new copy of the model of that name, without LoRA: float64, in eval mode, no dropout."""
    return copy.deepcopy(_built(name))
