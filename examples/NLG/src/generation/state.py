"""The hypotheses of a batch of prompts: what a step of the search does to them, and when a prompt is finished.

A step extends every live hypothesis by every token, keeps the K best by summed log-probability, and sets those that end
aside. Of the ended ones only the best survives, judged by ``score / length ** length_penalty``; hypotheses that never
end compete at the full length T. ``reference.py`` is the same search in its plainest form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from generation.penalties import NOTHING, penalize
from generation.settings import BeamSettings, Hypothesis

# (step from 1, scores (B, K), tokens (B, K, step)) after the choice of a step, before ended hypotheses are set aside
Trace = Callable[[int, Tensor, Tensor], None]

OF_A_PROMPT = ("lengths", "scores", "tokens", "best_value", "best_length", "best_tokens")


class NoContinuation(ValueError):
    """No hypothesis of a prompt has a probability above 0."""


class BeamState:
    """The hypotheses of B prompts. Steps write in place and wait for nothing, so that a GPU can replay them.

    Attributes:
        lengths: (B,) tokens of the prompts.
        step: (1,) tokens generated, at most T; on the device.
        scores: (B, K) float32 sums of log-probabilities, -inf for a hypothesis that has ended.
        tokens: (B, K, T) generated tokens, the newest last, ``NOTHING`` before the first.
        best_value, best_length, best_tokens: (B,), (B,), (B, T): best ended hypothesis; -inf if there is none.

    Args:
        lengths: of prompts that have just passed the model.
        logits: (B, V) behind them.
    """

    def __init__(self, settings: BeamSettings, lengths: Tensor, logits: Tensor, trace: Trace | None = None) -> None:
        (B, V), K, T, device = logits.shape, settings.beam, settings.eval_len, lengths.device
        self.settings, self.trace, self.lengths = settings, trace, lengths
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.tokens = torch.full((B, K, T), NOTHING, device=device)
        self.best_value = torch.full((B,), -torch.inf, device=device)
        self.best_length = torch.zeros_like(lengths)
        self.best_tokens = torch.zeros(B, T, dtype=torch.int64, device=device)
        known = sorted({token for token in settings.eos_token_ids if 0 <= token < V})
        self.eos = torch.tensor(known, dtype=torch.int64, device=device)
        self.divisors = torch.tensor(settings.divisors(), device=device)  # (T + 1,) float32
        # (T + 1,) the largest divisor of any length above t; nothing follows T itself
        largest = self.divisors[1:].flip(0).cummax(0).values.flip(0)
        self.largest_to_come = torch.cat([largest, self.divisors[-1:]])
        self.scores, self.tokens[:, :, -1] = _top_log_probabilities(self._penalized(logits, self.tokens[:, 0, :0]), K)
        self._finish_step()

    @property
    def newest(self) -> Tensor:
        """(B, K) last token of every hypothesis."""
        return self.tokens[:, :, -1]

    @property
    def positions(self) -> Tensor:
        """(B, 1) position of ``newest`` in the sequence."""
        return (self.lengths + self.step - 1)[:, None]

    def next_step(self, logits: Tensor) -> Tensor:
        """Extends the hypotheses by one token, from (B, K, V) logits.

        The K best of the K * V extensions are among the K best of each hypothesis, since adding a hypothesis' score
        keeps the order of its extensions, rounding included.

        Returns:
            (B, K) which hypothesis each of the new ones continues.
        """
        B, K, V = logits.shape
        added, token = _top_log_probabilities(self._penalized(logits.view(B * K, V), self.tokens.flatten(0, 1)), K)
        candidates = (self.scores[:, :, None] + added.view(B, K, K)).flatten(1)  # (B, K * K)
        scores, chosen = candidates.topk(K, dim=1)
        parents = chosen // K  # (B, K)
        token = token.view(B, K * K).gather(1, chosen)  # (B, K)
        followed = self.tokens.gather(1, parents[:, :, None].expand_as(self.tokens))
        self.tokens[:, :, :-1] = followed[:, :, 1:]
        self.tokens[:, :, -1] = token
        self.scores.copy_(scores)
        self._finish_step()
        return parents

    def _penalized(self, logits: Tensor, generated: Tensor) -> Tensor:
        settings = self.settings
        return penalize(
            logits,
            generated,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            forbidden=self.eos if settings.min_length > 0 else None,
            forbid_now=self.step < settings.min_length,
        )

    def _finish_step(self) -> None:
        """Judges the hypotheses that end with their newest token, after T tokens all; takes them out of the beam."""
        self.step += 1
        if self.trace is not None:
            step = int(self.step)
            self.trace(step, self.scores, self.tokens[:, :, -step:])
        for ended in (torch.isin(self.newest, self.eos), self.step >= self.settings.eval_len):
            self._offer(ended)
            self.scores.masked_fill_(ended, -torch.inf)

    def _offer(self, ended: Tensor) -> None:
        """Keeps the best of the ended hypotheses, (B, K) or (1,) for all, where strictly better than the best so far.

        Those that end now have the same length, so the best score among them has the best value.
        """
        score, number = torch.where(ended, self.scores, -torch.inf).max(dim=1)
        value = score / self.divisors.index_select(0, self.step)
        better = value > self.best_value  # (B,)
        tokens = self.tokens.gather(1, number[:, None, None].expand(-1, 1, self.tokens.size(2)))[:, 0]  # (B, T)
        self.best_value.copy_(torch.where(better, value, self.best_value))
        self.best_length.copy_(torch.where(better, self.step, self.best_length))
        self.best_tokens.copy_(torch.where(better[:, None], tokens, self.best_tokens))

    def finished(self) -> Tensor:
        """(B,) whether nothing that the search may still do can change the result of a prompt.

        Let s be the best live score after t tokens. Log-probabilities are logarithms of float32 numbers <= 1, hence
        <= 0, and float32 addition is monotone: any score that descends from the live hypotheses is <= s <= 0. It will
        be divided by the divisor of a length in t + 1 ... T (T for those that never end), and division by a positive
        number is monotone in both arguments, rounding included: for s <= 0 no quotient exceeds s / (largest of these
        divisors). That largest divisor is T ** p for a length penalty p > 0, 1 for p = 0, (t + 1) ** p for p < 0. Being
        replaced takes a strictly greater value. If all hypotheses have ended, s = -inf and the bound holds trivially.
        """
        if not self.settings.early_stop:
            return (self.step >= self.settings.eval_len).expand_as(self.best_value)
        return self.best_value >= self.scores.amax(dim=1) / self.largest_to_come.index_select(0, self.step)

    def keep(self, slots: Sequence[int]) -> None:
        """The prompt in slot ``slots[i]`` moves to slot i, the others are dropped."""
        for name in OF_A_PROMPT:
            setattr(self, name, getattr(self, name)[slots])

    def results(self, slots: Sequence[int]) -> list[Hypothesis]:
        """The best hypotheses of the prompts in ``slots``.

        Raises:
            NoContinuation: there is none.
        """
        columns = (self.best_length, self.best_value, self.best_tokens)
        length, value, tokens = (column[slots].tolist() for column in columns)
        if -torch.inf in value:
            raise NoContinuation(
                "no continuation of a prompt has a probability above 0: the weights are not finite, or every token is "
                "forbidden (no_repeat_ngram_size, min_length)"
            )
        return [Hypothesis(ids[len(ids) - n :], score) for n, score, ids in zip(length, value, tokens)]


def _top_log_probabilities(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most probable tokens of each row: (R, k) log-probabilities, descending, and (R, k) ids.

    The logarithm of the softmax, as released, and not its more exact fusion: an underflow to 0 becomes -inf. A row
    that is -inf everywhere gives -inf.
    """
    probabilities, tokens = logits.softmax(dim=-1).topk(k, dim=-1)
    return probabilities.clamp_max(1.0).log().nan_to_num(nan=-torch.inf, neginf=-torch.inf), tokens
