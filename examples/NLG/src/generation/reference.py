"""Beam search in its plainest form: one prompt, Python lists, every hypothesis recomputed from its first token.

This is what ``search.py`` computes, without all that makes it fast; tests hold the two equal. It never stops early.
"""

from __future__ import annotations

import math

import torch
from gpt2.model import GPT2LMModel

from generation.settings import BeamSettings, Hypothesis


@torch.no_grad()
def reference_search(model: GPT2LMModel, prompt: list[int], settings: BeamSettings) -> Hypothesis:
    """Best continuation of a prompt; without tokens and with score -inf where every one is forbidden."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]  # sum of log-probabilities, tokens
    best = Hypothesis([], -math.inf)
    for step in range(1, settings.eval_len + 1):
        candidates = []
        for score, tokens in alive:
            logits = model(torch.tensor([[*prompt, *tokens]]))[0][0, -1]  # (V,)
            penalize_simply(logits, tokens, settings)
            for token, log_probability in enumerate(logits.softmax(-1).log().tolist()):
                candidates.append((score + log_probability, [*tokens, token]))
        candidates.sort(key=lambda candidate: -candidate[0])
        alive = []
        for score, tokens in candidates[: settings.beam]:
            ends = tokens[-1] in settings.eos_token_ids
            if not ends:
                alive.append((score, tokens))
            if ends or step == settings.eval_len:
                best = max(best, Hypothesis(tokens, score / step**settings.length_penalty), key=lambda h: h.score)
    return best


def penalize_simply(logits: torch.Tensor, tokens: list[int], settings: BeamSettings) -> None:
    """Changes the (V,) logits of the token after ``tokens``, those generated so far."""
    for token in set(tokens):
        logits[token] *= settings.repetition_penalty if logits[token] < 0 else 1 / settings.repetition_penalty
    if len(tokens) < settings.min_length:
        logits[[token for token in settings.eos_token_ids if token < len(logits)]] = -math.inf
    if (n := settings.no_repeat_ngram_size) > 0 and len(tokens) >= n:
        ngrams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
        recent = tokens[len(tokens) - n + 1 :]  # n - 1 tokens
        logits[[ngram[-1] for ngram in ngrams if ngram[:-1] == recent]] = -math.inf
