"""What the explorer takes from a view log and how pixels travel in a page; the panels are tested with the page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hardlab.workbook import explorer_data, explorer_pictures


def test_pixels_survive_a_png_exactly_and_a_jpeg_nearly() -> None:
    smooth = np.add.outer(np.arange(32), np.arange(40))[..., None].repeat(3, 2).astype(np.uint8)
    assert (explorer_pictures.pixels(explorer_data.png(smooth)) == smooth).all()
    assert abs(explorer_pictures.pixels(explorer_data.jpeg(smooth)).astype(int) - smooth).max() < 12


def test_why_correlates_among_the_pairs_of_an_image_or_over_all_where_each_has_one() -> None:
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"step": 0, "index": np.repeat(range(5), 6), "loss": rng.random(30), "iou": rng.random(30)})
    log["colour_distance"] = 1.0  # the same everywhere explains nothing
    each = [stats.spearmanr(part["loss"], part["iou"])[0] for _, part in log.groupby("index")]
    assert explorer_data.why(log) == pytest.approx({"iou": np.mean(each)})
    one = log.assign(index=range(30))
    assert explorer_data.why(one) == pytest.approx({"iou": stats.spearmanr(one["loss"], one["iou"])[0]})
