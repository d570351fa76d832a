"""Captions that figures share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from made_tables import (
    SEEDS,
    one,
)

from hardlab.figures import style


def test_a_caption_tells_where_arms_have_fewer_seeds_and_no_length_where_one_is_not_known() -> None:
    rows = pd.DataFrame([one("moco", 0, epochs=10)] + [one("simclr", s, epochs=30) for s in SEEDS])
    assert "1 to 3 seeds (0, 1, 2) · epochs: 10, 30" in style.about(rows.assign(epochs=[10, 30, 30, 30]))
    assert style.about(rows.assign(epochs=[10, np.nan, np.nan, np.nan])).endswith("1 to 3 seeds (0, 1, 2)")
    assert style.about(rows[rows["recipe"] == "simclr"]).endswith(" · 3 seeds (0, 1, 2)")
