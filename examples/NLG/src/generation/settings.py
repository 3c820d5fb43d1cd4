"""How to search, and what a search finds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpt2.config import GPT2Config


@dataclass(frozen=True)
class BeamSettings:
    """How to search.

    Attributes:
        beam: K, hypotheses kept for each prompt.
        eval_len: T, most tokens to generate.
        length_penalty: exponent of the length that divides the score of an ended hypothesis; 0: the plain sum.
        no_repeat_ngram_size, repetition_penalty: see ``penalties``.
        min_length: no end-of-text before that many tokens.
        eos_token_ids: a hypothesis ends with any of these; ids beyond the vocabulary never occur.
        early_stop: stop where nothing can change the result any more: saves time only.

    Raises:
        ValueError: a value that cannot be searched with.
    """

    beam: int = 1
    eval_len: int = 256
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 4
    repetition_penalty: float = 1.0
    min_length: int = 0
    eos_token_ids: tuple[int, ...] = (50256,)
    early_stop: bool = True

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("eval_len", 1), ("no_repeat_ngram_size", 0), ("min_length", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
        # beyond this the division would leave the range of float32
        if not abs(self.length_penalty * math.log10(self.eval_len + 1)) <= 30:
            raise ValueError(f"length_penalty {self.length_penalty} is too far from 0 for eval_len {self.eval_len}")

    def check_fits(self, config: GPT2Config, longest_prompt: int) -> None:
        """Raises ValueError where vocabulary or positions of the model do not suffice."""
        if self.beam > config.vocab_size:
            raise ValueError(f"beam {self.beam} is wider than the vocabulary of {config.vocab_size} tokens")
        if longest_prompt + self.eval_len > config.n_positions:
            raise ValueError(
                f"a prompt of {longest_prompt} tokens and eval_len {self.eval_len} exceed the "
                f"{config.n_positions} positions of the model"
            )

    def divisors(self) -> list[float]:
        """``length ** length_penalty`` for lengths 0 ... T; that of length 0 is never used."""
        return [1.0, *(length**self.length_penalty for length in range(1, self.eval_len + 1))]


@dataclass(frozen=True)
class Hypothesis:
    """Best continuation of a prompt: tokens, the end-of-text included, and its sum of log-probabilities (nats),
    divided by ``len(tokens) ** length_penalty``.
    """

    tokens: list[int]
    score: float
