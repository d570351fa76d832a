"""How strong the evidence of a few seeds is: tests of a mean, a pooled spread, power, and correction for many tests.

Values are one a seed, differences paired by seed. scipy.stats takes a second to import, so it is imported where needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

from hardlab.analysis.intervals import Interval, interval

LEVEL, POWER = 0.05, 0.8
FEW = 5  # seeds below which a spread pooled over the claims of one measure says more than their own
FLIPS = 6  # seeds from which a sign-flip test can fall below 5 %: the least two-sided p is 2 / 2**6 = 0.031
MOST = 200  # seeds that are asked for at most


def t_test(values: Sequence[float] | np.ndarray, threshold: float = 0.0) -> float:
    """Two-sided p of Student's t-test that the mean is the threshold, as ``interval`` has it; NaN below two values."""
    x = np.asarray(values, dtype=np.float64) - threshold
    if len(x) < 2:
        return float("nan")
    if np.ptp(x) == 0:  # values without a spread lie on the threshold, or surely off it
        return 1.0 if x[0] == 0 else 0.0
    x = x / 2.0 ** np.clip(np.frexp(np.abs(x).max())[1], -1000, 1000)  # so that squares stay inside float64
    return float(2 * stdtr(len(x) - 1, -abs(x.mean()) / (x.std(ddof=1) / np.sqrt(len(x)))))


def sign_flip_test(values: Sequence[float] | np.ndarray, threshold: float = 0.0) -> float:
    """Exact two-sided p under all changes of sign, which asks for symmetry alone; NaN below ``FLIPS`` values."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64) - threshold
    if len(x) < FLIPS:
        return float("nan")
    test = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf, batch=1 << 14
    )
    return float(test.pvalue)


def pooled_spread(groups: Iterable[Sequence[float] | np.ndarray]) -> tuple[float, int]:
    """Standard deviation of values within their groups, and its degrees of freedom; (NaN, 0) without any."""
    each = [np.asarray(g, dtype=np.float64) for g in groups if len(g) > 1]
    free = sum(len(x) - 1 for x in each)
    if not free:
        return float("nan"), 0
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in each)
    return float(np.sqrt(squares / free)), free


def pooled_interval(values: Sequence[float] | np.ndarray, spread: float, free: int) -> Interval:
    """Mean and 95 % t-interval by a spread that others were pooled for, with its degrees of freedom."""
    x = np.asarray(values, dtype=np.float64)
    half = float(stdtrit(free, 1 - LEVEL / 2)) * spread / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def seeds_for(size: float, spread: float, power: float = POWER, level: float = LEVEL) -> int:
    """Seeds with which a paired t-test finds a difference of this size and spread so often; at most ``MOST``.

    0 where nothing can be said: no size, or no spread.
    """
    if not (np.isfinite(size) and np.isfinite(spread) and spread > 0 and size != 0):
        return 0
    n = np.arange(2, MOST + 1)
    shift, limit = abs(size) / spread * np.sqrt(n), stdtrit(n - 1, 1 - level / 2)
    enough = 1 - nctdtr(n - 1, shift, limit) + nctdtr(n - 1, shift, -limit) >= power
    return int(n[np.argmax(enough)]) if enough.any() else MOST


def corrected(ps: Sequence[float] | np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q of each p, in their order; NaN stays NaN and is no test."""
    from scipy import stats

    p = np.asarray(ps, dtype=np.float64)
    q, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def surely_above(values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> bool:
    """Whether the 95 % interval of the difference of two means of unpaired values lies above 0 (Welch).

    Values that are all alike, such as an accuracy on raw pixels, have no spread and may be single.
    """
    from scipy import stats

    x, y = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if len(x) < 2 or not len(y):
        return False
    if np.ptp(y) == 0:
        return interval(x - y[0]).lo > 0
    if np.ptp(x) == 0:
        return interval(y - x[0]).hi < 0
    return bool(stats.ttest_ind(x, y, equal_var=False).confidence_interval(1 - LEVEL).low > 0)
