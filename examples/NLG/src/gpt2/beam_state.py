"""The hypotheses of a batch of prompts: what a step of the search does to them, and when a prompt is decided.

A step extends every live hypothesis by every token, keeps the K best by summed log-probability, and sets those that end
aside. Of the ended ones only the best survives, judged by ``score / length ** length_penalty``; hypotheses that never
end compete at the full length T.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gpt2.beam_cache import BeamCache
from gpt2.beam_penalties import penalize
from gpt2.beam_settings import BeamSettings, Hypothesis

# (step from 1, scores (B, K), tokens (B, K, step)) after the choice of a step, before ended hypotheses are set aside
Trace = Callable[[int, Tensor, Tensor], None]


class NoContinuation(ValueError):
    """No hypothesis of a prompt has a probability above 0."""


class BeamState:
    """The hypotheses of the B prompts that are still undecided, after ``step`` tokens each.

    Attributes:
        scores: (B, K) float32 sums of log-probabilities, -inf for a hypothesis that has ended.
        tokens: (B, K, T), the first ``step`` columns filled.
        best_value, best_length, best_tokens: (B,), (B,), (B, T): best ended hypothesis; -inf if there is none.
        prompt: (B,) which prompt stands in each place.
    """

    def __init__(self, settings: BeamSettings, vocab_size: int, lengths: Tensor, cache: BeamCache) -> None:
        B, K, T, device = lengths.numel(), settings.beam, settings.eval_len, lengths.device
        self.settings, self.cache, self.lengths, self.step = settings, cache, lengths, 0
        self.scores = torch.zeros(B, K, device=device)
        self.tokens = torch.zeros(B, K, T, dtype=torch.int64, device=device)
        self.best_value = torch.full((B,), -torch.inf, device=device)
        self.best_length = torch.zeros(B, dtype=torch.int64, device=device)
        self.best_tokens = torch.zeros(B, T, dtype=torch.int64, device=device)
        self.prompt = torch.arange(B, device=device)
        known = sorted({token for token in settings.eos_token_ids if 0 <= token < vocab_size})
        self.eos = torch.tensor(known, dtype=torch.int64, device=device)
        self.divisors = settings.divisors()

    @property
    def size(self) -> int:
        """Prompts that are still searched."""
        return self.prompt.numel()

    @property
    def newest(self) -> Tensor:
        """(B, K) last token of every hypothesis."""
        return self.tokens[:, :, self.step - 1]

    @property
    def positions(self) -> Tensor:
        """(B, 1) position of ``newest`` in the sequence."""
        return (self.lengths + self.step - 1)[:, None]

    def first_step(self, logits: Tensor, trace: Trace | None) -> None:
        """The K best first tokens from (B, V) logits behind the prompt."""
        K = self.settings.beam
        self.scores, first = _top_log_probabilities(self._penalized(logits, self.tokens[:, 0, :0]), K)
        self.tokens[:, :, 0] = first
        self._finish_step(trace)

    def next_step(self, logits: Tensor, trace: Trace | None) -> None:
        """Extends the hypotheses by one token, from (B, K, V) logits.

        The K best of the K * V extensions are among the K best of each hypothesis, since adding a hypothesis' score
        keeps the order of its extensions, rounding included.
        """
        B, K, V = logits.shape
        generated = self.tokens[:, :, : self.step].flatten(0, 1)  # (B * K, step)
        added, token = _top_log_probabilities(self._penalized(logits.view(B * K, V), generated), K)
        candidates = (self.scores[:, :, None] + added.view(B, K, K)).flatten(1)  # (B, K * K)
        self.scores, chosen = candidates.topk(K, dim=1)
        parents = chosen // K  # (B, K)
        self.cache.follow(parents)
        self.tokens = self.tokens.gather(1, parents[:, :, None].expand_as(self.tokens))
        self.tokens[:, :, self.step] = token.view(B, K * K).gather(1, chosen)
        self._finish_step(trace)

    def _penalized(self, logits: Tensor, generated: Tensor) -> Tensor:
        return penalize(
            logits,
            generated,
            repetition_penalty=self.settings.repetition_penalty,
            no_repeat_ngram_size=self.settings.no_repeat_ngram_size,
            forbidden=self.eos if self.step < self.settings.min_length else None,
        )

    def _finish_step(self, trace: Trace | None) -> None:
        """Judges the hypotheses that end with their newest token, and takes them out of the beam."""
        self.step += 1
        if trace is not None:
            trace(self.step, self.scores, self.tokens[:, :, : self.step])
        ended = torch.isin(self.newest, self.eos)  # (B, K)
        # Those that end now have the same length, so the best score among them has the best value
        self._offer(torch.where(ended, self.scores, -torch.inf).max(dim=1), self.step)
        self.scores = self.scores.masked_fill(ended, -torch.inf)

    def _offer(self, candidate: tuple[Tensor, Tensor], length: int) -> None:
        """Keeps a hypothesis of each prompt, (score, its number in the beam), where strictly better than the best."""
        score, number = candidate
        value = score / self.divisors[length]
        better = value > self.best_value  # (B,)
        tokens = self.tokens[torch.arange(self.size, device=number.device), number]  # (B, T)
        self.best_value = torch.where(better, value, self.best_value)
        self.best_length = torch.where(better, length, self.best_length)
        self.best_tokens = torch.where(better[:, None], tokens, self.best_tokens)

    def decided(self) -> Tensor:
        """(B,) whether nothing that the search may still do can change the result of a prompt.

        Let s be the best live score after t tokens. Log-probabilities are logarithms of float32 numbers <= 1, hence
        <= 0, and float32 addition is monotone: any score that descends from the live hypotheses is <= s <= 0. It will
        be divided by the divisor of a length in t + 1 ... T (T for those that never end), and division by a positive
        number is monotone in both arguments, rounding included: for s <= 0 no quotient exceeds s / (largest of these
        divisors). That largest divisor is T ** p for a length penalty p > 0, 1 for p = 0, (t + 1) ** p for p < 0. Being
        replaced takes a strictly greater value. If all hypotheses have ended, s = -inf and the bound holds trivially.
        """
        bound = self.scores.amax(dim=1) / max(self.divisors[self.step + 1 :])
        return self.best_value >= bound

    def release_decided(self) -> dict[int, Hypothesis]:
        """Takes the decided prompts out of the batch; the only place where a step waits for the device."""
        decided = self.decided().tolist()
        leaving = [place for place, is_decided in enumerate(decided) if is_decided]
        if not leaving:
            return {}
        results = self._results(leaving)
        size = self.size - len(leaving)
        # The last prompts move into the holes, so that the fewest keys and values are copied
        holes = [place for place in leaving if place < size]
        movers = [place for place in range(size, self.size) if not decided[place]]
        order = list(range(size))
        for hole, mover in zip(holes, movers):
            order[hole] = mover
        device = self.prompt.device
        self.cache.move(torch.tensor(holes, device=device), torch.tensor(movers, device=device), size)
        index = torch.tensor(order, dtype=torch.int64, device=device)
        for name in ("lengths", "scores", "tokens", "best_value", "best_length", "best_tokens", "prompt"):
            setattr(self, name, getattr(self, name)[index])
        return results

    def release_all(self) -> dict[int, Hypothesis]:
        """Results of the prompts still here; their live hypotheses compete as if they had ended at length T."""
        if self.step == self.settings.eval_len and self.size > 0:
            self._offer(self.scores.max(dim=1), self.settings.eval_len)
        return self._results(list(range(self.size)))

    def _results(self, places: list[int]) -> dict[int, Hypothesis]:
        index = torch.tensor(places, dtype=torch.int64, device=self.prompt.device)
        columns = (self.prompt, self.best_length, self.best_value, self.best_tokens)
        prompt, length, value, tokens = (column[index].tolist() for column in columns)
        if -torch.inf in value:
            raise NoContinuation(
                "no continuation of a prompt has a probability above 0: the weights are not finite, or every token is "
                "forbidden (no_repeat_ngram_size, min_length)"
            )
        return {row: Hypothesis(ids[:n], score) for row, n, score, ids in zip(prompt, length, value, tokens)}


def _top_log_probabilities(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most probable tokens of each row: (R, k) log-probabilities, descending, and (R, k) ids.

    The logarithm of the softmax, as released, and not its more exact fusion: an underflow to 0 becomes -inf. A row
    that is -inf everywhere gives -inf.
    """
    probabilities, tokens = logits.softmax(dim=-1).topk(k, dim=-1)
    return probabilities.clamp_max(1.0).log().nan_to_num(nan=-torch.inf, neginf=-torch.inf), tokens
