"""The figures of AdCo: numbers in their words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_tables import lengths, one
from scipy import stats

from hardlab.analysis import schema
from hardlab.figures import adco


def test_a_number_stands_with_half_of_its_interval_over_seeds_and_alone_with_one() -> None:
    values = pd.Series([1.0, 2.0, 4.0])
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    mean, _, printed = adco._with_half(values, 3).partition(" ± ")
    assert float(mean) == pytest.approx(7 / 3, abs=5e-4) and float(printed) == pytest.approx(half, abs=5e-4)
    assert adco._with_half(values[:1], 1) == "1.0"


def test_the_caption_is_of_the_runs_drawn_and_both_sides_of_the_distance_stand_in_words() -> None:
    points = [
        one(recipe, s, epochs=30) | {"epoch": 30, "kind": kind, "x": 0.1 * s, "y": 0.0, "distance": distance}
        for recipe, seeds in (("adco", 2), ("adco-queue", 2), ("moco", 5))
        for s in range(seeds) for kind, distance in (("negative", 0.5), ("query", 0.25)) for _ in range(3)
    ]  # fmt: skip
    layout = pd.DataFrame(points)
    figure = adco.f2(layout, schema.empty("negatives"), lengths(layout))
    assert "2 seeds (0, 1) · epochs: 30" in figure.get_supxlabel()
    for ax in figure.axes:
        assert "negative to its nearest query: 0.500" in ax.get_xlabel()
        assert "query to its nearest negative: 0.250" in ax.get_xlabel()
    older = layout.assign(distance=layout["distance"].where(layout["kind"] == "negative"))
    label = adco.f2(older, schema.empty("negatives"), lengths(layout)).axes[0].get_xlabel()
    assert "query to its nearest negative: not measured" in label


def test_runs_with_one_side_of_the_distance_do_not_displace_those_with_both() -> None:
    points = [
        one(recipe, s, epochs=30) | {"epoch": 30, "kind": kind, "x": 0.1 * s, "y": 0.0, "distance": 0.5}
        for recipe in ("adco", "adco-queue")
        for s in range(6) for kind in (("negative", "query") if s < 2 else ("negative",))
    ]  # fmt: skip
    layout = pd.DataFrame(points)
    figure = adco.f2(layout, schema.empty("negatives"), lengths(layout))
    assert "2 seeds (0, 1)" in figure.get_supxlabel()
    assert all("query to its nearest negative: 0.500" in ax.get_xlabel() for ax in figure.axes)
