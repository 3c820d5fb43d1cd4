"""Times of alternatives, taken in turn in one process, so that what slows the machine down slows all of them down."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Times = dict[str, list[float]]  # seconds of each alternative, one for each round


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles over rounds of how many times longer, or larger, one alternative is than another."""

    median: float
    low: float
    high: float
    rounds: int


def side_by_side(
    alternatives: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device | str = "cpu",
    calls: int = 1,
    warm_up: int = 1,
    cpu_time: bool = False,
) -> Times:
    """Runs each alternative once a round, the first place going round, so that none always has the warmest caches.

    Args:
        alternatives: functions by name; what they return is dropped.
        rounds: times that every alternative is measured.
        device: where they compute; a GPU is waited for.
        calls: calls in one measurement, for functions too short for the clock.
        warm_up: unmeasured calls before the first round.
        cpu_time: seconds of CPU of this process over all its threads instead of seconds of the wall clock.

    Returns:
        Seconds of one call, by name and round.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    names = list(alternatives)
    for name in names * warm_up:
        alternatives[name]()
    times: Times = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            wait_for(device)
            start = clock()
            for _ in range(calls):
                alternatives[name]()
            wait_for(device)
            times[name].append((clock() - start) / calls)
    return times


def ratio(times: Times, one: str, other: str) -> Ratio:
    """How many times the seconds of ``other`` those of ``one`` are: above 1, ``one`` is slower."""
    return spread([a / b for a, b in zip(times[one], times[other], strict=True)])


def spread(values: list[float]) -> Ratio:
    """Median and quartiles; with fewer than three values the extremes stand for the quartiles."""
    if len(values) < 3:
        return Ratio(statistics.median(values), min(values), max(values), len(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high, len(values))


def wait_for(device: torch.device | str) -> None:
    """Returns when everything given to the device has been computed."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
