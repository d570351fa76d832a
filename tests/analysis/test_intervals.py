"""Intervals over seeds, against scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hardlab.analysis.intervals import in_words, interval


def test_the_interval_is_the_textbook_t_interval_and_unknown_below_two_values() -> None:
    values = [1.0, 2.0, 4.0, np.nan]
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[:3]))
    mean, lo, hi, n = interval(values)
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert (lo, hi) == pytest.approx(expected)
    assert interval([3.0])[0] == 3
    assert np.isnan(interval([3.0])[1])
    assert np.isnan(interval([]).mean)


def test_an_interval_in_words_has_its_limits_only_where_there_are_two_seeds_that_differ() -> None:
    mean, lo, hi, _ = interval([1.0, 2.0, 4.0])
    assert interval([1.0, 2.0, 4.0]).in_words(3) == f"{mean:.3g} ({lo:.3g} to {hi:.3g}; 3 seeds)"
    assert interval([0.25]).in_words() == "0.25 (one seed)"
    assert interval([2.0, 2.0]).in_words() == "2 (the same for every seed)"
    assert interval([]).in_words() == "–"
    rows = pd.DataFrame([interval([0.1, 0.3])._asdict(), interval([0.5])._asdict()], index=["a", "b"])
    words = in_words(rows, 100)
    assert words["a"] == interval([10, 30]).in_words(3) and words["b"] == "50 (one seed)"
