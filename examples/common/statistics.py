"""Runs summed up over seeds: mean, median, standard deviation and the intervals that tables print."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """One figure over n seeds. ``sd`` (n - 1 in the denominator) and ``half_width`` are None for one seed.

    Attributes:
        half_width: the interval of the mean by Student's t is mean ± half_width.
        low, high: smallest and largest value. They enclose the median of all such runs with probability ``coverage``,
            whatever the distribution.
    """

    values: list[float]
    mean: float
    median: float
    low: float
    high: float
    coverage: float
    sd: float | None
    half_width: float | None

    @property
    def n(self) -> int:
        return len(self.values)


def summarise(values: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Summary of at least one value; ``confidence`` is that of ``half_width``."""
    n = len(values)
    sd = statistics.stdev(values) if n > 1 else None
    return Summary(
        values=list(values),
        mean=statistics.fmean(values),
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        coverage=median_coverage(n),
        sd=sd,
        half_width=None if sd is None else t_quantile(confidence, n - 1) * sd / math.sqrt(n),
    )


def median_coverage(n: int) -> float:
    """How likely the range of n values holds the median: it does not if all lie on one side of it, 2 * (1/2)^n."""
    return 1 - 2.0 ** (1 - n)


def t_quantile(confidence: float, degrees: int) -> float:
    """The t that encloses the share ``confidence`` of Student's distribution between -t and t."""
    from scipy.stats import t  # a second to import: only where a table is made

    return float(t.ppf((1 + confidence) / 2, degrees))
