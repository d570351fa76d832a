"""Ratios of times and their intervals."""

from __future__ import annotations

import statistics

import pytest

from hardlab.workbook.timing import Ratio, Seconds


def test_a_ratio_is_that_of_the_medians_and_lies_in_its_interval() -> None:
    slow, fast = Seconds([4.0, 4.4, 3.8, 9.0, 4.2]), Seconds([2.0, 2.1, 1.9, 4.5, 2.2])
    ratio = slow / fast
    assert isinstance(ratio, Ratio) and ratio == statistics.median(slow.rounds) / statistics.median(fast.rounds)
    lo, hi = ratio.interval
    assert 1.8 < lo <= ratio <= hi < 2.3


def test_a_drift_that_both_feel_does_not_widen_the_interval() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert (Seconds([3 * d for d in drift]) / Seconds(drift)).interval == pytest.approx((3.0, 3.0))
    apart = (Seconds([3 * d for d in drift]) / Seconds(drift[::-1])).interval
    assert apart[1] > 4 * apart[0]


def test_one_round_against_several_has_an_interval_of_the_several() -> None:
    lo, hi = (Seconds([10.0]) / Seconds([1.0, 2.0, 4.0])).interval
    assert (lo, hi) == (2.5, 10.0)


def test_the_interval_of_a_median_lies_among_its_rounds_and_closes_with_their_spread() -> None:
    low, high = Seconds([1.0, 1.1, 0.9, 3.0, 1.0]).interval
    assert 0.9 <= low <= 1.0 <= high <= 3.0
    assert Seconds([2.0]).interval == Seconds([2.0, 2.0, 2.0]).interval == (2.0, 2.0)
