"""Pictures of importances: what is drawn, read back from the axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hardlab.figures import importance_plots

SHARES = pd.DataFrame(
    [("a", 1, 0.1, 0.05, 0.15), ("b", 1, 0.4, 0.3, 0.5), ("a x b", 2, 0.02, 0.0, 0.04)],
    columns=["effect", "order", "share", "lo", "hi"],
)


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def test_the_bars_are_the_single_shares_with_an_interval_for_each_kind(ax: Axes) -> None:
    importance_plots.bars(ax, SHARES)
    assert [patch.get_width() for patch in ax.patches] == [10, 40]
    assert len(ax.collections) == 1
    other = Figure().subplots()
    importance_plots.bars(other, SHARES.assign(boot_lo=0.0, boot_hi=0.6))
    assert len(other.collections) == 2


def test_the_square_has_single_shares_on_its_diagonal_and_pairs_below(ax: Axes) -> None:
    importance_plots.square(ax, SHARES)
    assert {text.get_position(): text.get_text() for text in ax.texts} == {(0, 0): "10", (1, 1): "40", (0, 1): "2"}
    drawn = ax.images[0].get_array()
    assert float(drawn[1, 0]) == pytest.approx(np.log10(2)) and np.ma.getmaskarray(drawn)[0, 1]


def test_a_line_goes_through_the_means_and_its_band_from_the_lowest_to_the_highest_run(ax: Axes) -> None:
    spread = pd.DataFrame({"name": ["a", "a", "b"], "leaf": [1, 10, 1], "mean": [0.2, 0.3, 0.1],
                           "min": [0.1, 0.2, 0.1], "max": [0.4, 0.5, 0.1]})  # fmt: skip
    importance_plots.lines(ax, spread, "leaf", "fewest rows")
    first = ax.get_lines()[0]
    assert first.get_xdata().tolist() == [1, 10] and first.get_ydata().tolist() == pytest.approx([20, 30])
    low, high = (f(ax.collections[0].get_paths()[0].vertices[:, 1]) for f in (np.min, np.max))
    assert (low, high) == pytest.approx((10, 50))
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "fewest rows"


def test_no_two_lines_of_a_dozen_look_the_same(ax: Axes) -> None:
    spread = pd.DataFrame({"name": list("abcdefghijkl"), "leaf": 1, "mean": 0.1, "min": 0.1, "max": 0.1})
    importance_plots.lines(ax, spread, "leaf", "fewest rows")
    looks = {(line.get_color(), str(line._dash_pattern)) for line in ax.get_lines()}  # type: ignore[attr-defined]
    assert len(looks) == 12


def test_predictions_are_a_bar_a_kind_and_seed_and_a_single_seed_is_a_marked_gap(ax: Axes) -> None:
    message = pd.DataFrame({"accuracy": [0.3, 0.4], "lowest_iou": [0.2, 0.25], "chance": [1 / 6, 1 / 6]})
    importance_plots.predicted(ax, message, [3, 5])
    assert [patch.get_height() for patch in ax.patches] == pytest.approx([30, 40, 20, 25, 100 / 6, 100 / 6])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["seed 3", "seed 5"]
    empty = Figure().subplots()
    importance_plots.predicted(empty, pd.DataFrame(), [3])
    assert "one seed" in empty.texts[0].get_text()
