"""Summaries over seeds: hand-computed figures, known quantiles of Student's t, how often a range holds the median."""

from __future__ import annotations

import math

import numpy as np
import pytest

from examples.common.statistics import summarise, t_quantile

# Two-sided 95 % and 99 % quantiles as printed in tables of Student's t
T_TABLE = [
    *((0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 3, 3.182), (0.95, 4, 2.776), (0.95, 9, 2.262), (0.95, 29, 2.045)),
    *((0.99, 1, 63.657), (0.99, 2, 9.925), (0.99, 10, 3.169)),
]


@pytest.mark.parametrize(("confidence", "degrees", "expected"), T_TABLE)
def test_t_quantiles_are_those_of_the_tables(confidence, degrees, expected):
    assert round(t_quantile(confidence, degrees), 3) == expected


def test_quantiles_of_one_and_two_degrees_follow_their_formulas():
    """F(t) = 1/2 + atan(t)/pi for one degree, 1/2 + t / (2 sqrt(2 + t^2)) for two."""
    for confidence in (0.5, 0.9, 0.95, 0.999):
        one, two = (t_quantile(confidence, degrees) for degrees in (1, 2))
        assert 2 * math.atan(one) / math.pi == pytest.approx(confidence, rel=1e-9)
        assert two / math.sqrt(2 + two**2) == pytest.approx(confidence, rel=1e-9)


def test_a_summary_by_hand():
    summary = summarise([68.65, 68.85, 68.87])
    assert summary.n == 3
    assert summary.mean == pytest.approx(68.79)  # 206.37 / 3
    # deviations -0.14, 0.06, 0.08: squares sum to 0.0296, over n - 1 = 2
    assert summary.sd == pytest.approx(math.sqrt(0.0148))
    assert summary.half_width == pytest.approx(4.302652730 * math.sqrt(0.0148 / 3))


def test_one_seed_has_no_interval():
    summary = summarise([2.5])
    assert (summary.mean, summary.sd, summary.half_width) == (2.5, None, None)


def test_equal_seeds_have_an_interval_of_no_width():
    assert summarise([0.25] * 4).half_width == 0


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_smallest_and_largest_hold_the_median_as_often_as_is_said(n):
    draws = np.random.default_rng(0).exponential(size=(20000, n))
    held = np.mean((draws.min(axis=1) <= math.log(2)) & (draws.max(axis=1) >= math.log(2)))
    expected = summarise(list(draws[0])).coverage
    assert held == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 20000))  # 5 standard errors
