"""Tiny causal language models of six kinds with random weights, a tiny tokenizer, and a few rows of data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

CLM = REPOSITORY / "examples" / "CLM"
END = "<|end|>"
KINDS = ("gpt2", "llama", "qwen2", "mistral", "gpt_neox", "opt")
WIDTH, LAYERS, POSITIONS = 16, 3, 64
TEXTS = ["name: Blue Spice, food: French", "Blue Spice serves French food.", "a good film", "a bad film", "yes no"]
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    + f"{{% if m['role'] == 'assistant' %}}{END}{{% endif %}}\n"
    + "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@lru_cache
def _bpe() -> str:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS * 3, vocab_size=300, special_tokens=[END], show_progress=False)
    return str(bpe._tokenizer.to_str())


def tiny_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """Byte-level, 300 tokens, end token 0, no padding token."""
    from tokenizers import Tokenizer

    found = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe()), **{"eos_token": END, "model_max_length": POSITIONS, **special}
    )
    found.chat_template = CHAT
    return found


def tiny_model(kind: str = "gpt2", seed: int = 0, **more: Any) -> PreTrainedModel:
    """Three blocks of width 16 with four heads."""
    options: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer()),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "max_position_embeddings": POSITIONS,
    }
    if kind == "gpt2":
        options |= {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": POSITIONS}
        options |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
        options.pop("max_position_embeddings")
    else:
        options |= {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
        options |= {"ffn_dim": 32, "dropout": 0.0} if kind == "opt" else {"intermediate_size": 32}
        options |= {"word_embed_proj_dim": WIDTH} if kind == "opt" else {}
        options |= {"num_key_value_heads": 2} if kind in ("llama", "qwen2", "mistral") else {}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**options, "pad_token_id": None, **more})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # weights large enough that outputs differ by more than rounding
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def save_base(folder: Path, kind: str = "gpt2", **more: Any) -> str:
    """A folder that ``from_pretrained`` opens."""
    tiny_model(kind, **more).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def write_jsonl(path: Path, rows: Iterable[object]) -> str:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(n: int) -> list[dict[str, str]]:
    """Prompts and responses of several lengths."""
    foods = ("French", "Fast", "Good", "Bad film")
    return [
        {"prompt": f"food: {foods[i % 4]}" + " Blue" * (i % 3), "response": f"serves {foods[i % 4]} food."}
        for i in range(n)
    ]


def films(n: int) -> list[dict[str, str]]:
    """Texts with labels that are one token each."""
    return [
        {"text": f"a {('bad', 'good')[i % 2]} film" + " food" * (i % 3), "label": ("no", "yes")[i % 2]}
        for i in range(n)
    ]


def words(world: Path, *flags: object, base: str = "gpt2", train: str = "pairs.jsonl") -> list[str]:
    """Flags of ``run_clm.py`` for four steps; later ones count."""
    found = ["--model_name_or_path", world / base, "--do_train", "--train_file", world / train, "--max_steps", 4]
    found += ["--per_device_train_batch_size", 4, "--learning_rate", "1e-2", "--lora_r", 2, "--disable_tqdm", "true"]
    return [str(word) for word in (*found, *flags)]


def run(world: Path, monkeypatch: pytest.MonkeyPatch, *flags: object, **files: str) -> None:
    """Runs ``main()`` of ``run_clm.py`` in this process; errors come as exceptions."""
    import run_clm

    monkeypatch.setattr(sys, "argv", ["run_clm.py", *words(world, *flags, **files)])
    run_clm.main()


def run_two(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a program and its flags in two processes, as a user would."""
    launcher = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHON_EXEC": PYTHON}
    result = subprocess.run(
        [*launcher, *map(str, command)], capture_output=True, text=True, check=False, timeout=240, env=environment
    )
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result
