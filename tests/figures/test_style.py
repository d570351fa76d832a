"""Captions that figures share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_tables import (
    SEEDS,
    one,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from hardlab.figures import style


def test_a_caption_tells_where_arms_have_fewer_seeds_and_no_length_where_one_is_not_known() -> None:
    rows = pd.DataFrame([one("moco", 0, epochs=10)] + [one("simclr", s, epochs=30) for s in SEEDS])
    assert "1 to 3 seeds (0, 1, 2) · epochs: 10, 30" in style.about(rows.assign(epochs=[10, 30, 30, 30]))
    assert style.about(rows.assign(epochs=[10, np.nan, np.nan, np.nan])).endswith("1 to 3 seeds (0, 1, 2)")
    assert style.about(rows[rows["recipe"] == "simclr"]).endswith(" · 3 seeds (0, 1, 2)")


def test_a_recipe_in_two_precisions_is_told_with_the_epochs_of_the_odd_ones() -> None:
    rows = pd.DataFrame([one("dino", s, epochs=e) | {"epochs": e} for s, e in ((0, 30), (1, 30), (2, 57), (3, 57))])
    both = rows.assign(precision=["bf16", "bf16", "fp32", "fp32"])
    assert style.precisions(both) == " · in bf16, but in fp32: dino (57 epochs)"
    other = pd.DataFrame([one("moco", 0, epochs=30) | {"epochs": 30, "precision": "fp32"}])
    assert style.precisions(pd.concat([both[:2], other])) == " · in bf16, but in fp32: moco"
    assert style.precisions(both[:2]) == ""


def test_below_three_seeds_a_curve_has_its_seeds_and_no_band() -> None:
    def drawn(seeds: int) -> Axes:
        _, (ax,) = style.new(2)
        rows = [one("moco", s) | {"epoch": e, "value": e + s} for s in range(seeds) for e in range(5)]
        style.series(ax, pd.DataFrame(rows), "epoch", "value", "red", "moco")
        assert len(ax.get_lines()) == (1 + seeds if seeds > 1 else 1)
        return ax

    assert [len(drawn(n).collections) for n in (1, 2, 3)] == [0, 0, 1]
    _, (ax,) = style.new(2)
    rows = [one("moco", s) | {"epoch": e, "value": e + s} for e in range(5) for s in range(3 if e == 2 else 1)]
    style.series(ax, pd.DataFrame(rows), "epoch", "value", "red", "moco")
    [bar] = ax.containers
    ((_, lo), (_, hi)) = bar.lines[2][0].get_segments()[0]  # the one point of three seeds has no neighbour to band with
    assert (lo, hi) == pytest.approx(stats.t.interval(0.95, 2, loc=3, scale=1 / np.sqrt(3)))
    frame = pd.DataFrame([one("moco", s) for s in range(3)])
    assert [style.bands(frame[:n]) for n in (1, 2, 3)] == [
        "one seed: no band",
        "thin lines: seeds, too few for a band",
        "bands: 95 % t-intervals over seeds",
    ]
    mixed = pd.concat([frame, pd.DataFrame([one("adco", 0)])])
    assert style.bands(mixed).startswith("bands: 95 % t-intervals of three seeds or more")


def test_below_three_seeds_dots_have_no_interval() -> None:
    for values, lines in (([1.0, 2.0], 2), ([1.0, 2.0, 3.0], 3)):
        ax = Figure().subplots()
        style.dots(ax, 0, pd.Series(values), style.BLUE, "ours")
        assert len(ax.get_lines()) == lines  # mean, seeds, and from three on the interval


def test_a_long_line_of_a_caption_is_broken_and_a_short_one_is_not() -> None:
    figure = Figure()
    style.caption(figure, "short\n" + " · ".join(["twenty letters in it"] * 8))
    short, *broken = figure.get_supxlabel().split("\n")
    assert short == "short" and len(broken) == 2 and max(map(len, broken)) <= style.LETTERS
