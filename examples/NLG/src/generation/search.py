"""Beam search of prompts in batches: equal results for every size of the batch.

Nothing is computed that no result needs. A prompt passes the model once, not once a hypothesis, and leaves the batch as
soon as no hypothesis can win any more. ``state`` is the search itself, ``cache`` its memory, ``decoding_model`` the
weights, ``reference`` the same search in forty plain lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from gpt2.model import GPT2LMModel

from generation.cache import BeamCache
from generation.decoding_model import DecodingModel
from generation.settings import BeamSettings, Hypothesis
from generation.state import BeamState, Trace

__all__ = ["BeamSettings", "Hypothesis", "Search"]

# Asking whether a prompt is finished waits for the device. Where that stops a queue of kernels, ask every few steps.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 4}


class Search:
    """A search of prompts in batches, the longest first: if memory is short, it shows at once.

    Iterating over it yields (number of the prompt, its best hypothesis), of each prompt as soon as it is finished.

    Args:
        model: decoded with its LoRA inside the weights; is not altered.
        prompts: lists of token ids, none empty.
        batch_size: prompts searched together.
        trace: called once a step. Its rows are the prompts of the batch, the longest first, until the first one leaves.
        static: keep all sizes, as a CUDA graph needs it; on a GPU the steps then are such a graph, which no recorded
            run has tried yet.

    Attributes:
        steps: taken so far.
        cache: of the current batch.

    Raises:
        ValueError: an empty prompt, or sizes that the model does not have.
    """

    def __init__(
        self,
        model: GPT2LMModel | DecodingModel,
        prompts: Sequence[Sequence[int]],
        settings: BeamSettings,
        *,
        batch_size: int,
        trace: Trace | None = None,
        static: bool = False,
    ) -> None:
        if not all(prompts):
            raise ValueError("a prompt is empty: there is nothing to continue")
        self.prompts, self.settings, self.batch_size = prompts, settings, batch_size
        self.trace, self.static, self.steps = trace, static, 0
        self.model = DecodingModel.of(model)
        self.device = self.model.wte.device
        settings.check_fits(self.model.config, max(map(len, prompts), default=0))

    def __iter__(self) -> Iterator[tuple[int, Hypothesis]]:
        order = sorted(range(len(self.prompts)), key=lambda number: -len(self.prompts[number]))
        for start in range(0, len(order), self.batch_size):
            yield from self._search_batch(order[start : start + self.batch_size])

    def _search_batch(self, numbers: list[int]) -> Iterator[tuple[int, Hypothesis]]:
        """Takes the numbers of the prompts; ``numbers[slot]`` is the one in that slot of the batch from then on."""
        self._begin([self.prompts[number] for number in numbers])
        take_step = replayed(self._step, self.device) if self.static and self.trace is None else self._step
        for step in range(1, self.settings.eval_len + 1):
            if step == self.settings.eval_len or step % STEPS_BETWEEN_CHECKS.get(self.device.type, 1) == 0:
                finished = self.state.finished().tolist()
                if all(finished) or (any(finished) and not self.static):
                    leaving = [slot for slot, over in enumerate(finished) if over]
                    yield from zip([numbers[slot] for slot in leaving], self.state.results(leaving))
                    if all(finished):
                        return
                    slots = _remaining(finished)
                    numbers = [numbers[slot] for slot in slots]
                    self.state.keep(slots)
                    self.cache.keep(slots)
            take_step()
            self.steps += 1

    @torch.no_grad()
    def _begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """The prompts pass the model, and get their first tokens."""
        lengths = torch.tensor(list(map(len, prompts)), device=self.device)  # (B,)
        width = max(map(len, prompts))
        padded = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.device)
        self.cache = BeamCache(
            self.model.config,
            lengths,
            width=width,
            beam=self.settings.beam,
            steps=self.settings.eval_len - 1,
            dtype=self.model.wte.dtype,
            static=self.static,
        )
        positions = torch.arange(width, device=self.device)
        hidden = self.model.hidden(padded, positions, self.cache.prompt_attention())  # (B, P, C)
        last = hidden[torch.arange(len(prompts), device=self.device), lengths - 1]  # (B, C)
        self.state = BeamState(self.settings, lengths, self.model.logits(last), self.trace)

    @torch.no_grad()
    def _step(self) -> None:
        """One more token for every hypothesis."""
        self.cache.begin_step()
        hidden = self.model.hidden(self.state.newest, self.state.positions, self.cache.step_attention())  # (B, K, C)
        self.cache.follow(self.state.next_step(self.model.logits(hidden)))


def _remaining(finished: Sequence[bool]) -> list[int]:
    """Slots that are not finished, the last of them in those that become free: so the fewest keys and values move."""
    slots = [slot for slot, over in enumerate(finished) if not over]
    size = len(slots)
    last = [slot for slot in slots if slot >= size]
    return [last.pop() if finished[slot] else slot for slot in range(size)]


def replayed(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """On a GPU a step is one CUDA graph: hundreds of small kernels start with one call. Elsewhere it is itself.

    Args:
        step: reads and writes the same memory at every call, and asks the device nothing.
    """
    if device.type != "cuda":
        return step
    graph, calls = torch.cuda.CUDAGraph(), 0

    def replay() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:  # a first one as it is, beside the main queue: recording needs libraries that are set up
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                step()
            torch.cuda.current_stream(device).wait_stream(side)
            return
        if calls == 2:  # recording computes nothing
            with torch.cuda.graph(graph):
                step()
        graph.replay()

    return replay
