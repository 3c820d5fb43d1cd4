"""Tiny models, and the cases recorded from the released program."""

from __future__ import annotations

import json

import torch
from generation.search import BeamSettings, Hypothesis, Search
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from safetensors.torch import load_file

from tests.shared_data import GOLDEN

NLG = GOLDEN / "nlg"
TINY = GPT2Config(vocab_size=101, n_positions=64, n_embd=32, n_layer=2, n_head=4)
RECORDED = json.loads((NLG / "beam_cases.json").read_text())
# Those named BUGGY show the released program's wrong rows at batch sizes above 1
CASES = {case["settings"]["name"]: case for case in RECORDED["cases"] if "BUGGY" not in case["settings"]["name"]}


def recorded_model(*, lora: bool) -> GPT2LMModel:
    """The model that the cases were recorded with."""
    model = GPT2LMModel(TINY, LoRAConfig(r=4 if lora else 0, alpha=32))
    tensors = load_file(NLG / "tiny_beam_gpt2.safetensors")
    model.transformer.load_state_dict({n: t for n, t in tensors.items() if lora or ".lora_" not in n})
    return model.eval()


def settings_of(case: dict, **changes: object) -> BeamSettings:
    recorded = case["settings"]
    values = {
        "beam": recorded["beam"],
        "eval_len": case["eval_len"],
        "length_penalty": recorded["length_penalty"],
        "no_repeat_ngram_size": recorded["no_repeat_ngram_size"],
        "repetition_penalty": recorded["repetition_penalty"],
        "min_length": recorded["min_length"],
        "eos_token_ids": tuple(recorded["eos_token_id"]),
    }
    return BeamSettings(**{**values, **changes})


def random_model(seed: int, *, vocab_size: int = 11, std: float = 0.6) -> GPT2LMModel:
    """Random weights, large enough that the predictions differ much from token to token and ends are common."""
    torch.manual_seed(seed)
    model = GPT2LMModel(
        GPT2Config(vocab_size=vocab_size, n_positions=32, n_embd=16, n_layer=2, n_head=2), LoRAConfig(r=2, alpha=4)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" not in name:
                parameter.normal_(std=std)
    return model.eval()


def beam_search(model, prompts, settings, *, batch_size=1, trace=None) -> list[Hypothesis]:
    """Best continuation of every prompt, in the order of ``prompts``."""
    found = dict(Search(model, prompts, settings, batch_size=batch_size, trace=trace))
    return [found[number] for number in range(len(prompts))]
