"""Prompts in, texts out: transformers' ``generate`` on batches of prompts of similar length, each with its adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

import loralib
from clm.batches import Collator
from clm.model import position_limit
from examples.common.errors import UserError, warn


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue. ``adapter``: name, or None for the base; ``where``: of the row, for messages."""

    where: str
    ids: list[int]
    adapter: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How texts are drawn; names and meanings are those of transformers' ``GenerationConfig``.

    ``temperature``, ``top_k`` or ``top_p`` other than None: sampling. All that is not given here is switched off,
    whatever the model's own ``generation_config.json`` says.
    """

    max_new_tokens: int = 128
    num_beams: int = 1
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    num_return_sequences: int = 1

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return not self.temperature == self.top_k == self.top_p

    def check(self) -> None:
        """Raises a ``UserError`` for values that have no meaning."""
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("temperature", "repetition_penalty"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"--{name} must be above 0, got {value}; leave --temperature out for greedy decoding")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"--top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top_p must be above 0 and at most 1, got {self.top_p}")
        if self.no_repeat_ngram_size < 0:
            raise UserError(f"--no_repeat_ngram_size must be at least 0, got {self.no_repeat_ngram_size}")
        if self.num_return_sequences > max(self.num_beams, 1) and not self.samples:
            raise UserError(f"--num_return_sequences {self.num_return_sequences} needs as many beams, or sampling")

    def config(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
        """For ``generate``; ends at the tokenizer's end token and at those that the model names."""
        named: Any = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            do_sample=self.samples,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=0 if self.top_k is None else self.top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            length_penalty=self.length_penalty,
            num_return_sequences=self.num_return_sequences,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )


def check_lengths(prompts: Sequence[Prompt], decoding: Decoding, limit: int) -> None:
    """Refuses a prompt that leaves no room for a token; warns where there is less room than was asked for.

    Raises:
        UserError: names the row.
    """
    for prompt in prompts:
        if not prompt.ids:
            raise UserError(f"{prompt.where}: the prompt has no tokens")
        if len(prompt.ids) >= limit:
            raise UserError(
                f"{prompt.where}: the prompt has {len(prompt.ids)} tokens and leaves no room for an answer within the "
                f"model's {limit}; shorten it"
            )
    longest = max(len(prompt.ids) for prompt in prompts)
    if longest + decoding.max_new_tokens > limit:
        warn(f"the longest prompts have {longest} tokens: their answers end at the model's limit of {limit}")


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    batch_size: int = 8,
    adapters: loralib.Adapters | None = None,
    streamer: Any = None,
    done: Collection[int] = (),
) -> Iterator[dict[int, list[str]]]:
    """Yields the texts of each batch by index of their prompts, longest prompts first.

    Padding is on the left and masked, so greedy texts and beams do not depend on the batch, up to rounding. Samples
    do: a seed gives the same texts for the same prompts and batch size. Each batch has a seed of its own, so that
    those that are left give the same samples without the others.

    Args:
        done: prompts that have their texts; batches of such alone are left out.
        adapters: of ``model``, where prompts name some.
        streamer: of transformers, for a single prompt.
    """
    limit = position_limit(model)
    check_lengths(prompts, decoding, limit)
    collator = Collator(tokenizer.pad_token_id, side="left")
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index].ids), index))
    config = decoding.config(model, tokenizer)
    continued: Any = model.generate
    seed = torch.initial_seed()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        if all(index in done for index in chosen):
            continue
        if start:
            torch.manual_seed(seed + start)
        batch = collator([{"input_ids": prompts[index].ids} for index in chosen])
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        T = inputs["input_ids"].shape[1]
        config.max_new_tokens = min(decoding.max_new_tokens, limit - T)
        with contextlib.ExitStack() as stack:
            if adapters is not None:
                stack.enter_context(adapters.rows([prompts[index].adapter for index in chosen]))
            found: Any = continued(**inputs, generation_config=config, streamer=streamer)
        texts = tokenizer.batch_decode(found[:, T:], skip_special_tokens=True)
        n = decoding.num_return_sequences
        yield {index: texts[row * n : (row + 1) * n] for row, index in enumerate(chosen)}
