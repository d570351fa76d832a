"""How strong the evidence of a few seeds is, against other libraries, loops over all cases, and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from hardlab.analysis import evidence
from hardlab.analysis.intervals import interval

DRAWN = [np.random.default_rng(n).normal(0.5, 1, n) for n in (2, 3, 5, 6, 9)]


@pytest.mark.parametrize("x", DRAWN, ids=len)
@pytest.mark.parametrize("threshold", [0.0, 1.25])
def test_the_p_of_a_mean_is_scipys_and_its_interval_ends_at_the_threshold_where_p_is_the_level(x, threshold) -> None:
    p = evidence.t_test(x, threshold)
    assert p == pytest.approx(stats.ttest_1samp(x, threshold).pvalue)
    at = interval(x, 1 - p)
    assert min(abs(at.lo - threshold), abs(at.hi - threshold)) == pytest.approx(0, abs=1e-9)


def test_values_without_a_spread_are_on_the_threshold_or_surely_off_it() -> None:
    assert evidence.t_test([2, 2, 2], 2) == 1.0
    assert evidence.t_test([2, 2, 2], 1) == 0.0
    assert np.isnan(evidence.t_test([2]))


@pytest.mark.parametrize("x", [x for x in DRAWN if len(x) >= 6], ids=len)
def test_the_sign_flip_test_counts_all_changes_of_sign(x) -> None:
    means = [abs(np.mean(np.multiply(x - 0.1, signs))) for signs in itertools.product((-1, 1), repeat=len(x))]
    counted = np.mean(np.array(means) >= abs(np.mean(x - 0.1)) - 1e-12)
    assert evidence.sign_flip_test(x, 0.1) == pytest.approx(counted)


def test_five_seeds_are_too_few_for_a_sign_flip_test() -> None:
    assert np.isnan(evidence.sign_flip_test([1, 2, 3, 4, 5]))
    assert evidence.sign_flip_test([1, 2, 3, 4, 5, 6]) == 2 / 2**6


def test_the_pooled_spread_is_that_of_an_analysis_of_variance() -> None:
    groups = [[1.0, 2, 4], [10.0, 10.5], [7.0], [3.0, 3, 3, 9]]
    within = sum((v - np.mean(g)) ** 2 for g in groups for v in g)
    spread, free = evidence.pooled_spread(groups)
    assert (spread, free) == (pytest.approx(np.sqrt(within / 6)), 6)
    f = stats.f_oneway(*groups).statistic  # between / within, each over its degrees of freedom
    mean = np.mean([v for g in groups for v in g])
    between = sum(len(g) * (np.mean(g) - mean) ** 2 for g in groups)
    assert spread**2 == pytest.approx(between / 3 / f)
    half = stats.t.ppf(0.975, free) * spread / np.sqrt(3)
    pooled = evidence.pooled_interval(groups[0], spread, free)
    assert pooled == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half, 3))
    assert evidence.pooled_spread([[1.0], []])[1] == 0


@pytest.mark.parametrize(("size", "spread"), [(1.73, 0.85), (1.0, 1.0), (3.0, 1.0), (-2.0, 1.5)])
def test_so_many_seeds_find_a_difference_in_four_of_five_trials_and_one_less_does_not(
    size: float, spread: float
) -> None:
    n = evidence.seeds_for(size, spread)

    def found(seeds: int) -> float:
        x = np.random.default_rng(0).normal(size, spread, (200_000, seeds))
        t = x.mean(1) / (x.std(1, ddof=1) / np.sqrt(seeds))
        return float((abs(t) > stats.t.ppf(0.975, seeds - 1)).mean())

    assert found(n) > 0.8 - 0.004
    assert found(n - 1) < 0.8 + 0.004


def test_no_size_and_no_spread_need_no_seeds_and_a_tiny_size_more_than_are_asked_for() -> None:
    assert evidence.seeds_for(0, 1) == evidence.seeds_for(1, 0) == evidence.seeds_for(np.nan, 1) == 0
    assert evidence.seeds_for(0.01, 1) == evidence.MOST


def test_q_is_the_least_level_at_which_benjamini_hochberg_rejects() -> None:
    p = np.array([0.03, 0.001, np.nan, 0.2, 0.012, 0.9])
    q = evidence.corrected(p)
    assert np.isnan(q[2])
    tested = np.sort(p[~np.isnan(p)])
    for level in np.linspace(0.001, 0.999, 499):
        under = [k for k, v in enumerate(tested, 1) if v <= level * k / len(tested)]
        limit = tested[max(under) - 1] if under else -1.0
        assert ((q <= level) == (p <= limit))[~np.isnan(p)].all()
    assert np.isnan(evidence.corrected([np.nan])).all()


def test_surely_above_is_welchs_interval_and_values_without_spread_are_a_number() -> None:
    x, y = [40.0, 41, 42.5], [35.0, 37, 36, 38]
    sx, sy = np.var(x, ddof=1) / 3, np.var(y, ddof=1) / 4
    free = (sx + sy) ** 2 / (sx**2 / 2 + sy**2 / 3)
    low = np.mean(x) - np.mean(y) - stats.t.ppf(0.975, free) * np.sqrt(sx + sy)
    for shift in (low - 0.01, low + 0.01):  # to either side of the limit
        assert evidence.surely_above(x, np.array(y) + shift) == (shift < low)
    half = stats.t.ppf(0.975, 2) * np.std(x, ddof=1) / np.sqrt(3)
    for reached in (np.mean(x) - half - 0.01, np.mean(x) - half + 0.01):
        assert (
            evidence.surely_above(x, [reached] * 3)
            == evidence.surely_above(x, [reached])
            == (reached < np.mean(x) - half)
        )
    assert evidence.surely_above([2, 2], [1, 1]) and not evidence.surely_above([1, 1], [1, 1])
    assert not evidence.surely_above([50], [1, 2]) and not evidence.surely_above([50, 51], [])
