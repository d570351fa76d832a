"""The figures of AdCo: numbers in their words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hardlab.figures import adco


def test_a_number_stands_with_half_of_its_interval_over_seeds_and_alone_with_one() -> None:
    values = pd.Series([1.0, 2.0, 4.0])
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    mean, _, printed = adco._with_half(values, 3).partition(" ± ")
    assert float(mean) == pytest.approx(7 / 3, abs=5e-4) and float(printed) == pytest.approx(half, abs=5e-4)
    assert adco._with_half(values[:1], 1) == "1.0"
