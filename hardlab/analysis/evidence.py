"""The strength of the evidence of a few seeds: tests of a mean, pooled spread, power, correction for multiple tests.

There is one value per seed; differences are paired by seed. scipy.stats takes half a second to import, longer than all
verdicts take to compute, so these few lines stand in for it; the tests hold each to scipy.stats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

from hardlab.analysis.intervals import Interval, interval

LEVEL, POWER = 0.05, 0.8
FEW = 5  # with fewer seeds, a spread pooled over the claims of one measure is more reliable than their own
FLIPS = 6  # with so many seeds a sign-flip test can fall below 5 %: the smallest two-sided p is 2 / 2**6 = 0.031
MOST = 200  # most seeds that `seeds_for` asks for


def t_test(values: Sequence[float] | np.ndarray, threshold: float = 0.0) -> float:
    """Two-sided p of Student's t-test that the mean is ``threshold``; NaN below two values.

    It agrees with ``interval``: p < 0.05 if the 95 % interval does not contain the threshold.
    """
    x = np.asarray(values, dtype=np.float64) - threshold
    if len(x) < 2:
        return float("nan")
    if np.ptp(x) == 0:  # equal values lie on the threshold, or certainly off it
        return 1.0 if x[0] == 0 else 0.0
    x = x / 2.0 ** np.clip(np.frexp(np.abs(x).max())[1], -1000, 1000)  # so that squares stay inside float64
    return float(2 * stdtr(len(x) - 1, -abs(x.mean()) / (x.std(ddof=1) / np.sqrt(len(x)))))


def sign_flip_test(values: Sequence[float] | np.ndarray, threshold: float = 0.0) -> float:
    """Exact two-sided p under all sign flips, which assumes symmetry alone; NaN below ``FLIPS`` values."""
    x = np.asarray(values, dtype=np.float64) - threshold
    if len(x) < FLIPS:
        return float("nan")
    observed, scale = abs(x.sum()), np.abs(x).sum()
    as_far, block = 0, 14  # signs of the first 14 values are enumerated at once
    first = (np.arange(1 << min(len(x), block))[:, None] >> np.arange(min(len(x), block)) & 1) * 2 - 1
    sums = first @ x[:block]
    for rest in product((-1, 1), repeat=max(0, len(x) - block)):
        as_far += int(np.count_nonzero(np.abs(sums + np.dot(rest, x[block:])) >= observed - 1e-12 * scale))
    return float(as_far / 2.0 ** len(x))


def pooled_spread(groups: Iterable[Sequence[float] | np.ndarray]) -> tuple[float, int]:
    """Standard deviation of values within their groups, and its degrees of freedom; (NaN, 0) without values."""
    samples = [np.asarray(g, dtype=np.float64) for g in groups if len(g) > 1]
    free = sum(len(x) - 1 for x in samples)
    if not free:
        return float("nan"), 0
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in samples)
    return float(np.sqrt(squares / free)), free


def pooled_interval(values: Sequence[float] | np.ndarray, spread: float, free: int) -> Interval:
    """Mean and 95 % t-interval from a pooled spread with ``free`` degrees of freedom."""
    x = np.asarray(values, dtype=np.float64)
    half = float(stdtrit(free, 1 - LEVEL / 2)) * spread / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def seeds_for(size: float, spread: float, power: float = POWER, level: float = LEVEL) -> int:
    """The number of seeds for a paired t-test to detect a difference of this size with this power; at most ``MOST``.

    0 if the size or the spread is unknown.
    """
    if not (np.isfinite(size) and np.isfinite(spread) and spread > 0 and size != 0):
        return 0
    for n in (np.arange(2, 33), np.arange(33, MOST + 1)):  # few seeds suffice for most
        enough = power_of(size, spread, n, level) >= power
        if enough.any():
            return int(n[np.argmax(enough)])
    return MOST


def power_of(size: float, spread: float, seeds: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """How often a paired t-test with so many seeds, two or more, finds a difference of this size and spread."""
    shift, limit = abs(size) / spread * np.sqrt(seeds), stdtrit(seeds - 1, 1 - level / 2)
    # some releases of scipy give NaN far out in a tail, where the probability is 0
    missed, opposite = (np.nan_to_num(nctdtr(seeds - 1, shift, at)) for at in (limit, -limit))
    power: np.ndarray = 1 - missed + opposite
    return power


def corrected(ps: Sequence[float] | np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q of each p, in the same order; NaN stays NaN and does not count as a test."""
    p = np.asarray(ps, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    raised = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum.accumulate(raised[::-1])[::-1].clip(max=1)
    return q


def surely_above(values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> bool:
    """Whether the 95 % interval (Welch) of the difference of two means of unpaired values lies above 0.

    Equal values, such as accuracies on raw pixels, have no spread, so a single one is enough.
    """
    x, y = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if len(x) < 2 or not len(y):
        return False
    if np.ptp(y) == 0:
        return interval(x - y[0]).lo > 0
    if np.ptp(x) == 0:
        return interval(y - x[0]).hi < 0
    errors = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    free = sum(errors) ** 2 / (errors[0] ** 2 / (len(x) - 1) + errors[1] ** 2 / (len(y) - 1))  # Welch-Satterthwaite
    return bool(x.mean() - y.mean() > stdtrit(free, 1 - LEVEL / 2) * np.sqrt(sum(errors)))
