"""Beam search with a batch of places that prompts take in turn: equal results for every size of the batch.

Nothing is computed that no result needs. Equal prompts are searched once. A prompt passes the model once, not once a
hypothesis, leaves its place as soon as no hypothesis can win any more, and the next prompt takes that place.
``beam_state`` is the search itself, ``beam_cache`` its memory, ``beam_model`` the weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from gpt2.model import GPT2LMModel
from torch import Tensor

from generation.cache import BeamCache
from generation.decoding_model import DecodingModel
from generation.settings import BeamSettings, Hypothesis
from generation.state import BeamState, Trace

__all__ = ["BeamSettings", "Hypothesis", "Search", "beam_search", "search_batch"]

# Asking whether a prompt is decided waits for the device. Where that stops a queue of kernels, ask every few steps.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 4}


def beam_search(
    model: GPT2LMModel | DecodingModel,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    *,
    batch_size: int = 1,
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
    distinct = list(rows)
    for number, hypothesis in Search(model, distinct, settings, places=batch_size):
        results.update(dict.fromkeys(rows[distinct[number]], hypothesis))
    return [results[row] for row in range(len(prompts))]


def search_batch(
    model: GPT2LMModel | DecodingModel,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    *,
    trace: Trace | None = None,
) -> list[Hypothesis]:
    """Searches all prompts side by side; see ``Search``. Returns one hypothesis a prompt, in their order."""
    found = dict(Search(model, prompts, settings, places=len(prompts), trace=trace))
    return [found[number] for number in range(len(prompts))]


class Search:
    """A search of prompts, the longest first: if memory is short, it shows at once.

    Iterating over it yields (number of the prompt, its best hypothesis) in the order in which they are decided.

    Args:
        model: decoded with its LoRA inside the weights; is not altered.
        prompts: lists of token ids, none empty.
        places: prompts searched side by side.
        trace: called once a step. Its rows are the prompts, the longest first, until the first one leaves.
        refill: whether waiting prompts take free places at once, or only when all places are free.
        static: keep all sizes, as a CUDA graph needs it; on a GPU the steps then are such a graph, which no recorded
            run has tried yet.

    Raises:
        ValueError: an empty prompt, or sizes that the model does not have.
    """

    def __init__(
        self,
        model: GPT2LMModel | DecodingModel,
        prompts: Sequence[Sequence[int]],
        settings: BeamSettings,
        *,
        places: int,
        trace: Trace | None = None,
        refill: bool = True,
        static: bool = False,
    ) -> None:
        if not all(prompts):
            raise ValueError("a prompt is empty: there is nothing to continue")
        self.prompts, self.settings, self.trace, self.refill = prompts, settings, trace, refill
        self.width = max(map(len, prompts), default=0)
        self.model = DecodingModel.of(model)
        settings.check_fits(self.model.config, self.width)
        self.device = self.model.wte.device
        self.static = static
        self.waiting = deque(sorted(range(len(prompts)), key=lambda number: -len(prompts[number])))
        self.inside: list[int | None] = [None] * min(places, len(prompts))  # number of the prompt at each place
        self.ages = [0] * len(self.inside)  # what ``state.ages`` holds, without asking the device
        self.cache = BeamCache(
            self.model.config,
            places=len(self.inside),
            width=self.width,
            beam=settings.beam,
            steps=settings.eval_len - 1,
            dtype=self.model.wte.dtype,
            device=self.device,
            static=self.static,
        )
        self.state: BeamState | None = None
        self.steps = 0

    def __iter__(self) -> Iterator[tuple[int, Hypothesis]]:
        step = replayed(self._step, self.device) if self.static and self.trace is None else self._step
        while True:
            with torch.no_grad():
                if None in self.inside:
                    self._fill_places()
                if all(number is None for number in self.inside):
                    return
                found = self._leave()
                if not found:
                    step()
                    self.steps += 1
                    self.ages = [age + 1 for age in self.ages]
            yield from found

    @property
    def _check_now(self) -> bool:
        full = any(age >= self.settings.eval_len for age, number in zip(self.ages, self.inside) if number is not None)
        return full or self.steps % STEPS_BETWEEN_CHECKS.get(self.device.type, 1) == 0

    def _leave(self) -> list[tuple[int, Hypothesis]]:
        """Frees the places of decided prompts; the only place where a step waits for the device."""
        if not self._check_now or self.state is None:
            return []
        decided = self.state.decided().tolist()
        leaving = [place for place, number in enumerate(self.inside) if number is not None and decided[place]]
        if not leaving:
            return []
        numbers = [self.inside[place] for place in leaving]
        for place in leaving:
            self.inside[place] = None
        results = self.state.results(self._index(leaving))
        return [(number, result) for number, result in zip(numbers, results) if number is not None]

    def _fill_places(self) -> None:
        """Waiting prompts take the free places; places that stay free are given up, unless sizes are to be kept."""
        free = [place for place, number in enumerate(self.inside) if number is None]
        if self.waiting and (self.refill or len(free) == len(self.inside)):
            count = min(len(free), len(self.waiting))
            self._admit(free[:count], [self.waiting.popleft() for _ in range(count)])
            free = free[count:]
        if free and not self.static and (self.refill or not self.waiting):
            self._give_up(free)

    def _admit(self, places: list[int], numbers: list[int]) -> None:
        """Prompts pass the model together, and take places."""
        prompts = [self.prompts[number] for number in numbers]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)  # (n,)
        width = max(map(len, prompts))
        padded = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.device)
        index = self._index(places)
        self.cache.admit(index, lengths)
        attends = self.cache.prompt_attends(index)
        hidden = self.model.hidden(padded, torch.arange(width, device=self.device), attends)  # (n, P, C)
        last = hidden[torch.arange(len(prompts), device=self.device), lengths - 1]  # (n, C)
        newcomers = BeamState(self.settings, lengths, self.model.logits(last), self.trace)
        if self.state is None:
            self.state = newcomers
        else:
            self.state.put(index, newcomers)
        for place, number in zip(places, numbers):
            self.inside[place], self.ages[place] = number, 1

    def _give_up(self, free: list[int]) -> None:
        """The last prompts move into the holes, so that the fewest keys and values are copied."""
        size = len(self.inside) - len(free)
        holes = [place for place in free if place < size]
        movers = [place for place in range(size, len(self.inside)) if self.inside[place] is not None]
        for hole, mover in zip(holes, movers):
            self.inside[hole], self.ages[hole] = self.inside[mover], self.ages[mover]
        self.inside, self.ages = self.inside[:size], self.ages[:size]
        if self.state is not None:
            self.state.move(self._index(holes), self._index(movers), size)
        self.cache.move(self._index(holes), self._index(movers), size)

    def _step(self) -> None:
        """One more token for every hypothesis."""
        assert self.state is not None
        self.cache.begin_step()
        hidden = self.model.hidden(self.state.newest, self.state.positions, self.cache.step_attends())  # (B, K, C)
        parents = self.state.next_step(self.model.logits(hidden))
        self.cache.follow(parents, self.state.over)

    def _index(self, places: list[int]) -> Tensor:
        return torch.tensor(places, dtype=torch.int64, device=self.device)


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
