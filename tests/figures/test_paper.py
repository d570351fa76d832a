"""What the papers print is read as text, so that 68.80 stays 68.80."""

from __future__ import annotations

import pandas as pd

from hardlab.figures.paper import published


def test_the_printed_values_of_an_item_are_its_own_and_keep_their_digits() -> None:
    rows = [
        ("hvs", "Table 1", "a", "x", "68.80"),
        ("hvs", "Table 2", "a", "x", "1"),
        ("adco", "Table 1", "a", "x", "2"),
    ]
    paper = pd.DataFrame(rows, columns=["paper", "item", "row", "column", "value"])
    assert published(paper, "hvs", "Table 1") == {("a", "x"): "68.80"}
