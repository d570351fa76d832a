"""The one place where intervals over independent values are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # of Student's t; scipy.stats takes half a second to import


class Interval(NamedTuple):
    """A mean with the limits of its confidence interval; ``lo`` and ``hi`` are NaN below two values."""

    mean: float
    lo: float
    hi: float
    n: int


def interval(values: Sequence[float] | np.ndarray | pd.Series, level: float = 0.95) -> Interval:
    """Mean and Student t-interval of independent values, one per seed; NaN is no value."""
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    if len(x) < 2:
        return Interval(float(x[0]) if len(x) else np.nan, np.nan, np.nan, len(x))
    mean = float(x.mean())
    half = float(stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, len(x))
