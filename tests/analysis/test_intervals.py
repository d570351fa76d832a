"""Intervals over seeds, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hardlab.analysis.intervals import interval


def test_the_interval_is_the_textbook_t_interval_and_unknown_below_two_values() -> None:
    values = [1.0, 2.0, 4.0, np.nan]
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[:3]))
    mean, lo, hi, n = interval(values)
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert (lo, hi) == pytest.approx(expected)
    assert interval([3.0])[0] == 3
    assert np.isnan(interval([3.0])[1])
    assert np.isnan(interval([]).mean)
