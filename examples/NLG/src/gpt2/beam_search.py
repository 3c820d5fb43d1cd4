"""Beam search over batches of prompts: equal results for every batch size, and nothing computed that no result needs.

Equal prompts are searched once. A prompt passes the model once, not once a hypothesis, and leaves its batch as soon as
no hypothesis can win any more. ``beam_state`` is the search itself, ``beam_cache`` its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gpt2.beam_cache import BeamCache
from gpt2.beam_model import DecodingModel
from gpt2.beam_settings import BeamSettings, Hypothesis
from gpt2.beam_state import BeamState, Trace
from gpt2.model import GPT2LMModel

__all__ = ["BeamSettings", "Hypothesis", "batches_by_length", "beam_search", "merged_lora", "search_batch"]

# Asking whether a prompt is decided waits for the device. Where that stops a queue of kernels, ask every few steps.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 4}


def beam_search(
    model: GPT2LMModel, prompts: Sequence[Sequence[int]], settings: BeamSettings, *, batch_size: int = 1
) -> list[Hypothesis]:
    """Best continuation of every prompt, in the order of ``prompts``.

    Args:
        prompts: token ids, at least one each. Equal prompts are searched once.
        batch_size: prompts searched together; changes results by rounding only.

    Raises:
        ValueError: an empty prompt, or sizes that the model does not have.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(tuple(prompt), []).append(row)
    results: dict[int, Hypothesis] = {}
    decoder = DecodingModel(model)
    for batch in batches_by_length(list(rows), batch_size):
        for prompt, hypothesis in zip(batch, search_batch(decoder, batch, settings)):
            results.update(dict.fromkeys(rows[prompt], hypothesis))
    return [results[row] for row in range(len(prompts))]


def batches_by_length(prompts: Sequence[tuple[int, ...]], batch_size: int) -> list[list[tuple[int, ...]]]:
    """Cuts prompts into batches of near length, the longest first: if memory is short, it shows at once."""
    ordered = sorted(prompts, key=len, reverse=True)
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


@torch.no_grad()
def search_batch(
    model: GPT2LMModel | DecodingModel,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    *,
    trace: Trace | None = None,
) -> list[Hypothesis]:
    """Searches all prompts side by side, with LoRA merged into the weights meanwhile.

    Args:
        prompts: B lists of token ids, none empty.
        trace: called once a step. Its rows are the prompts in the given order until the first one leaves.

    Returns:
        B hypotheses, in the order of ``prompts``.

    Raises:
        ValueError: an empty prompt, or sizes that the model does not have.
    """
    if not all(prompts):
        raise ValueError("a prompt is empty: there is nothing to continue")
    decoder = DecodingModel.of(model)
    width = max(map(len, prompts))
    settings.check_fits(decoder.config, width)
    device = decoder.wte.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)  # (B,)
    padded = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)  # (B, P)
    cache = BeamCache(
        decoder.config, lengths, width=width, beam=settings.beam, steps=settings.eval_len - 1, dtype=decoder.wte.dtype
    )
    state = BeamState(settings, decoder.config.vocab_size, lengths, cache)
    results: dict[int, Hypothesis] = {}
    check_every = STEPS_BETWEEN_CHECKS.get(device.type, 1)
    hidden = decoder.hidden(padded, torch.arange(width, device=device), cache.attends())  # (B, P, C)
    cache.end_prompt()
    last = hidden[torch.arange(len(prompts), device=device), lengths - 1]  # (B, C)
    state.first_step(decoder.logits(last), trace)
    for step in range(1, settings.eval_len):  # tokens generated so far
        if settings.early_stop and step % check_every == 0:
            results |= state.release_decided()
            if state.size == 0:
                break
        cache.begin_step()
        hidden = decoder.hidden(state.newest, state.positions, cache.attends())  # (B', K, C)
        state.next_step(decoder.logits(hidden), trace)
    results |= state.release_all()
    return [results[row] for row in range(len(prompts))]


@contextmanager
def merged_lora(model: GPT2LMModel) -> Iterator[None]:
    """Inside the ``with`` block LoRA costs nothing: its update is part of the weights (paper, Section 4.1).

    Layers that are merged already stay so afterwards, so blocks may be nested.
    """
    layers = [layer for layer in model.lora_layers() if not layer.merged]
    for layer in layers:
        layer.merge()
    try:
        yield
    finally:
        for layer in layers:
            layer.unmerge()
