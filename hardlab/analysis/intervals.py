"""The one place where intervals over independent values are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # of Student's t; scipy.stats takes half a second to import

from hardlab.errors import HardlabError


class Interval(NamedTuple):
    """A mean with the limits of its confidence interval; ``lo`` and ``hi`` are NaN below two values."""

    mean: float
    lo: float
    hi: float
    n: int

    def in_words(self, digits: int = 4) -> str:
        """The mean with its limits and the number of seeds as text, e.g. ``43.76 (42.84 to 44.67; 9 seeds)``."""
        mean, lo, hi = (f"{x:.{digits}g}" for x in self[:3])
        if self.n == 0:
            return "–"
        if self.n == 1:
            return f"{mean} (one seed)"
        return f"{mean} (the same for every seed)" if lo == hi else f"{mean} ({lo} to {hi}; {self.n} seeds)"


def interval(values: Sequence[float] | np.ndarray | pd.Series, level: float = 0.95) -> Interval:
    """Mean and Student t-interval of independent values, one per seed; NaN is no value, and infinity has no limits."""
    if not 0 < level < 1:
        raise HardlabError(f"the level of an interval must be between 0 and 1, not {level}.")
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    if np.isinf(x).any():
        with np.errstate(invalid="ignore"):
            return Interval(float(x.mean()), np.nan, np.nan, len(x))
    if len(x) < 2:
        return Interval(float(x[0]) if len(x) else np.nan, np.nan, np.nan, len(x))
    # in units of a power of two, so that squares stay inside float64
    unit = 2.0 ** np.clip(np.frexp(np.abs(x).max())[1], -1000, 1000)
    mean = float((x / unit).mean() * unit)
    half = float(stdtrit(len(x) - 1, (1 + level) / 2) * ((x / unit).std(ddof=1) * unit) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, len(x))


def in_words(rows: pd.DataFrame, scale: float = 1.0) -> pd.Series:
    """Each row's ``Interval`` as text. rows: with the columns mean, lo, hi and n. scale: a factor, 100 for per cent."""
    text = [Interval(scale * r.mean, scale * r.lo, scale * r.hi, int(r.n)).in_words(3) for r in rows.itertuples()]
    return pd.Series(text, rows.index, dtype=object)
