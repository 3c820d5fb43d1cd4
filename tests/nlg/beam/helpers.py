"""Tiny models, the recorded cases, and a beam search that is simple, slow and independent of the one under test."""

from __future__ import annotations

import json
import math

import torch
from generation.search import BeamSettings
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


@torch.no_grad()
def simple_search(model: GPT2LMModel, prompt: list[int], s: BeamSettings) -> tuple[list[int], float]:
    """Plain beam search of one prompt on Python lists: every hypothesis is recomputed from its first token.

    Never stops early, and LoRA is not merged.
    """
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    best_value, best_tokens = -math.inf, []
    for step in range(s.eval_len):
        candidates = []
        for score, tokens in live:
            logits = model(torch.tensor([[*prompt, *tokens]]))[0][0, -1]
            if s.repetition_penalty != 1.0:
                for token in set(tokens):
                    logits[token] *= s.repetition_penalty if logits[token] < 0 else 1 / s.repetition_penalty
            if step < s.min_length:
                logits[[t for t in s.eos_token_ids if t < len(logits)]] = -math.inf
            n = s.no_repeat_ngram_size
            if n > 0:
                seen = {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
                for token in range(len(logits)):
                    if (*tokens[len(tokens) - n + 1 :], token)[-n:] in seen and len(tokens) >= n - 1:
                        logits[token] = -math.inf
            for token, added in enumerate(logits.softmax(-1).log().tolist()):
                candidates.append((score + added, [*tokens, token]))
        candidates.sort(key=lambda candidate: -candidate[0])
        live = []
        for score, tokens in candidates[: s.beam]:
            value = score / len(tokens) ** s.length_penalty
            if tokens[-1] not in s.eos_token_ids:
                live.append((score, tokens))
            elif value > best_value:
                best_value, best_tokens = value, tokens
    for score, tokens in live:
        value = score / s.eval_len**s.length_penalty
        if value > best_value:
            best_value, best_tokens = value, tokens
    return best_tokens, best_value
